"""What there is to know and what a model knows of it: sentences on relations and their facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from locate.looks.says.words import count, model_of, percent, sentence

if TYPE_CHECKING:
    from circuits.facts.facts import Relation


def relations(found: Sequence[Relation]) -> str:
    """What there is, nobody asked."""
    n = sum(len(each.facts) for each in found)
    of = count(len(found), "relation") if len(found) != 1 else found[0].name
    return sentence(f"there are {count(n, 'fact')} of {of}")


def knows(model: str, found: Sequence[Relation], known: Mapping[str, int]) -> str:
    """How many facts a model knows; and would, if it always said a relation's commonest object."""
    asked = [each for each in found if each.name in known]
    n, n_known = sum(len(each.facts) for each in asked), sum(known.values())
    if not n:
        return sentence(f"no fact could be asked of {model_of({'model': model})}")
    common = sum(Counter(f.object for f in each.facts).most_common(1)[0][1] for each in asked)
    of = asked[0].name if len(asked) == 1 else count(len(asked), "relation")
    return sentence(
        f"of {count(n, 'fact')} of {of}, {model_of({'model': model})} knows {n_known:,} "
        f"({percent(n_known / n)}); always saying the commonest answer would give "
        f"{percent(common / n)}"
    )
