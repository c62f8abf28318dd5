"""What carries edges between features: sentences on carriers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from locate.looks.says.words import count, percent, prompt, quoted, sentence

if TYPE_CHECKING:
    from locate.features.carriers import Carriers


def carriers(found: Carriers) -> str:
    """The head that carries most, beside the median head between; of one edge with its parts."""
    return _one(found) if len(found.total) == 1 else _many(found)


def _one(found: Carriers) -> str:
    [(source, target)], total = found.edges, float(found.total[0])
    ends = found.source[0], found.target[0]
    where = [quoted(found.tokens[int(end[2])]) for end in ends]
    told = (
        f"the edge from {source} (at {where[0]}) to {target} (at {where[1]}) after "
        f"{prompt(found.prompt)} weighs {_three(total)}"
    )
    between = found.heads[0][found.source[0, 0] + 1 : found.target[0, 0] + 1]
    direct = _three(found.direct[0])
    rest = _three(found.rest[0])
    others = f"{direct} through no head, {rest} through two and more"
    if not between.any():
        return sentence(f"no evidence that any single head carries it: {told}, {others}")
    at, head = np.unravel_index(int(np.abs(found.heads[0]).argmax()), found.heads[0].shape)
    most = _three(found.heads[0, at, head])
    usual = _three(np.median(between))
    beside = f"the median of {count(between.size, 'head')} between is {usual}"
    return sentence(f"{told}: a{at}.h{head} alone carries {most} ({beside}), {others}")


def _many(found: Carriers) -> str:
    shares = found.shares()
    heads = {name: share for name, share in shares.items() if "." in name}
    told = f"over {count(len(found.total), 'edge')} between features after {prompt(found.prompt)}"
    others = (
        f"{percent(shares['residual'])} goes through no head, {percent(shares['rest'])} through "
        "two and more"
    )
    name, most = next(iter(heads.items()))
    if not most:
        return sentence(f"no evidence that any single head carries them: {told}, {others}")
    carrying = [share for share in heads.values() if share]
    usual = percent(float(np.median(carrying)))
    text = (
        f"{told}, {name} alone carries most of all heads, {percent(most)} of what is carried "
        f"(the median of {count(len(carrying), 'head')} {usual}); {others}"
    )
    misfit = found.misfit()
    if misfit is not None:
        text += f"; totals are off the graph's weights by {percent(misfit)}"
    return sentence(text)


def _three(value: float) -> str:
    """A number with three digits that say something: weights of edges may be small."""
    return f"{float(value) + 0.0:.3g}"
