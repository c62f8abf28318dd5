"""Which heads do a task that is no fact: where each looks among named spans, and what it writes.

Roles of facts are told by subject and relation (`locate.heads.roles`); these by the spans that the
pairs name, with the same two halves. A head is a *mover* of a span where at the last token at least
`attention` of its value-weighted attention is on the span, and its direct part in the answer's
logit over the foil's is at least `share` of all heads' and above 0 for the sample; *against* where
that part is as large and below 0 (the negative name movers of Wang et al. 2022). Heads that work
through later layers have no role here, and no label is checked by ablation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from circuits.base.display import Shown, Summary, named
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, bootstrap_means, by_group
from circuits.facts.pairs import TokenPair
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.heads.observed import counted, observations
from locate.heads.role_criteria import RoleCriteria
from locate.heads.span_attention import attention_to_spans
from locate.states.attribution import direct_logit_attribution

SHOWN = 12
MOVER, AGAINST = "mover", "against"


@dataclass(frozen=True)
class SpanRole:
    """One head: attention by span, its part in answer over foil (logits), that over all heads'."""

    name: str
    role: str | None
    attention: Mapping[str, float]
    gain: Interval
    share: float

    def as_row(self) -> dict[str, Any]:
        """A flat record for a table."""
        spans = {f"attention_{name}": value for name, value in self.attention.items()}
        return {"head": self.name, "role": self.role, "share": self.share, **spans} | {
            f"gain_{name}": value for name, value in self.gain.as_dict().items()
        }


@dataclass(frozen=True, eq=False)
class SpanRoles(Shown):
    """All heads of a model on a task, the largest part first."""

    heads: tuple[SpanRole, ...]
    criteria: RoleCriteria
    provenance: Mapping[str, Any]

    @property
    def labelled(self) -> tuple[SpanRole, ...]:
        """The heads that have a role."""
        return tuple(head for head in self.heads if head.role is not None)

    @property
    def roles(self) -> dict[str, str]:
        """Label by name of the labelled heads."""
        return {head.name: head.role for head in self.heads if head.role is not None}

    def rows(self) -> list[dict[str, Any]]:
        """One record a head."""
        return [head.as_row() for head in self.heads]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The labelled heads with their evidence; the strongest ones where none has a role."""
        shown = (self.labelled or self.heads)[:SHOWN]
        spans = tuple(self.heads[0].attention)
        rows = [
            (
                head.name,
                head.role or "",
                f"{head.share:.2f}",
                *(f"{value:.2f}" for value in head.attention.values()),
                str(head.gain),
            )
            for head in shown
        ]
        return ("head", "role", "share", *spans, "answer over foil"), rows

    def summary(self) -> Summary:
        """The table, with what it is of."""
        facts = named(self.provenance, "model", "pairs", "facts")
        about = "share of all heads' logits for the answer; attention weighted by value, by span"
        return Summary(f"Roles of {len(self.heads):,} heads by span", facts, about, *self.table())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        criteria, origin = asdict(self.criteria), dict(self.provenance)
        return {"heads": self.rows(), "criteria": criteria, "provenance": origin}


@alone
def span_roles(
    model: Model,
    pairs: Sequence[TokenPair],
    criteria: RoleCriteria | None = None,
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> SpanRoles:
    """Label the heads by the spans that all pairs name; OptionError where they share none.

    Pairs that ask one fact are averaged before resampling (`observations`); of a single prompt
    there are no intervals, and its labels hold for it alone.
    """
    criteria = criteria or RoleCriteria()
    if not pairs:
        raise OptionError("there are no prompt pairs to work on")
    observed = observations(pairs)
    shared = set.intersection(*({name for name, _ in pair.spans} for pair in pairs))
    names = [name for name, _ in pairs[0].spans if name in shared]
    if not names:
        raise OptionError(
            'the pairs name neither a subject nor spans to look at; add "subject" or "spans", such '
            'as {"IO": ["Mary", 1]}, to their lines'
        )
    spans = [{n: range(s.start, s.stop) for n, s in pair.spans if n in shared} for pair in pairs]
    looked = attention_to_spans(model, [p.clean for p in pairs], spans, batch_size=batch_size)
    attention = {name: by_group(looked[name], observed).mean(0) for name in names}
    wiring, found = model.wiring(), direct_logit_attribution(model, pairs, batch_size)
    sources = [wiring.head_src(n, h) for n in range(model.n_layers) for h in range(model.n_heads)]
    gains = by_group(found.contributions[:, sources], observed)
    limits = bootstrap_means(gains, criteria.resamples, criteria.level, seed, fewest=2)
    total = limits[0].clip(min=0).sum()

    def one(index: int) -> SpanRole:
        layer, head = divmod(index, model.n_heads)
        shares = {name: float(attention[name][layer, head]) for name in names}
        gain = Interval(*(float(part[index]) for part in limits))
        part = gain.value / total if total > 0 else 0.0
        role = _role(shares, gain, part, criteria)
        return SpanRole(f"a{layer}.h{head}", role, shares, gain, part)

    heads = sorted(map(one, range(len(sources))), key=lambda head: -abs(head.share))
    origin = {**model.provenance, "method": "roles by span", **counted(pairs), "seed": seed}
    return SpanRoles(tuple(heads), criteria, origin)


def _role(
    attention: Mapping[str, float], gain: Interval, share: float, criteria: RoleCriteria
) -> str | None:
    """The span that is looked at most, and whether the head writes for or against the answer."""
    span = max(attention, key=lambda name: attention[name])
    if attention[span] < criteria.attention or abs(share) < criteria.share:
        return None
    single = np.isnan(gain.low)
    if (gain.value if single else gain.low) > 0:
        return f"{span} {MOVER}"
    return f"{span} {AGAINST}" if (gain.value if single else gain.high) < 0 else None
