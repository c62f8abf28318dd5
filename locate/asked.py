"""Whatever a caller asks about, as prompt pairs: names, relations, facts, pairs, files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.base.choices import Task
from circuits.base.errors import OptionError
from circuits.base.idle import Given
from circuits.base.options import build
from circuits.facts.facts import Fact, Relation, atlas
from circuits.facts.loaders import group_facts
from circuits.facts.pair_files import holds_pairs
from circuits.facts.pairs import PromptPair, TokenPair, pair_from_record
from circuits.model.model import Model
from locate.examples import Examples, collect
from locate.idle import EXAMPLES_AT_HAND
from locate.options import Source
from locate.seen import Finders

USUAL_LIMIT = 32
"""Facts make at most so many pairs unless told otherwise; pairs count in full."""
WAYS = (
    "a relation's name, a Relation, a list of facts, of relations or of prompt pairs, or the path "
    "of a file of facts or pairs"
)
NOTHING = Given()


def examples_of(
    model: Model,
    what: Any,
    batch_size: int = 32,
    *,
    avoid: Finders | None = None,
    given: Given = NOTHING,
    **options: Any,
) -> Examples:
    """Prompt pairs for a model about `what`; `options` are those of `Source`, `avoid` of `collect`.

    OptionError for what cannot be asked about, and for options that were `given` without effect;
    PromptError where no pairs can be made.
    """
    if isinstance(what, Examples):
        given.refuse(EXAMPLES_AT_HAND)
        return what
    source, relations, pairs = _source(what, options)
    given.check(source)
    source = limited(source)
    return collect(model, source, batch_size, relations=relations, pairs=pairs, avoid=avoid)


def limited(source: Source) -> Source:
    """The source with the usual limit, where none was given and it is no pair file."""
    usual = source.n_pairs is None and not source.worded
    return replace(source, n_pairs=USUAL_LIMIT) if usual else source


Taken = tuple[Source, list[Relation] | None, list[PromptPair] | None]


def _source(what: Any, options: Mapping[str, Any]) -> Taken:
    """The source, and the relations or pairs themselves where they are at hand."""
    if isinstance(what, Relation):
        return build(Source, {**options, "relation": what.name}), [what], None
    if isinstance(what, str | Path):
        return build(Source, {**options, **_named(str(what))}), None, None
    items = list(what) if isinstance(what, Sequence) else []

    def all_are(*kinds: type) -> bool:
        return bool(items) and all(isinstance(item, kinds) for item in items)

    if all_are(PromptPair, TokenPair, dict):
        found = [_pair(item, number) for number, item in enumerate(items, start=1)]
        return build(Source, {**options, "pairs": Path(f"{len(found)} pairs")}), None, found
    if all_are(Fact):
        relations = [_worded(each) for each in group_facts(items, "given")]
    elif all_are(Relation):
        relations = items
    else:
        raise OptionError(f"nothing can be asked about {what!r:.60}; give {WAYS}")
    name = relations[0].name if len(relations) == 1 else f"{len(relations)} relations"
    return build(Source, {**options, "facts": name}), relations, None


def _named(what: str) -> dict[str, Any]:
    """A relation of the atlas, or a file of pairs or facts."""
    path = Path(os.path.expanduser(what))
    if what in tuple(Task):
        return {"task": what}
    if what in atlas() or not (path.exists() or "/" in what or path.suffix):
        return {"relation": what}
    return {"pairs": path} if holds_pairs(path) else {"facts": what}


def _pair(item: Any, number: int) -> PromptPair:
    if isinstance(item, TokenPair):
        return item.text
    return pair_from_record(item, "pair", number) if isinstance(item, dict) else item


def _worded(relation: Relation) -> Relation:
    """Facts without a wording take the atlas's, where it knows their relation."""
    known = atlas().get(relation.name)
    if relation.templates or known is None:
        return relation
    return replace(known, facts=relation.facts)
