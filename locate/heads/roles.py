"""Mover, relation and mixture heads: what each head contributes to recalling a fact.

Yao et al. 2024 ("Knowledge Circuits in Pretrained Transformers") describe the roles in prose: a
*mover* head attends to the subject at the last token and writes what belongs to it, a *relation*
head attends to the relation's words and writes tokens of the relation's range, a *mixture* head
does both. Here that becomes a criterion (`RoleCriteria`), in four steps:

1. Read every head at the last token: where it looks, what it writes from there (`read_heads`).
2. Average over facts of one relation, with bootstrap intervals over them.
3. Label the heads (`RoleCriteria.classify`).
4. Check each label by ablating the head, beside the mean of as many unlabelled heads of the same or
   the nearest layers (`locate.heads.role_checks`), on other pairs where there are any.

Steps 1-3 see the direct path to the logits only; a head that works through later layers has no
role here. Later layers may also make up for a silenced head, and the final norm scales a smaller
residual up, so that "not confirmed" does not say that the head does nothing. Labels rest on many
comparisons: a lone borderline head means little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval, bootstrap_means, by_group
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import check_geometry
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.wiring import node_kind
from locate.heads.attention import check_subjects, read_heads
from locate.heads.best_tokens import BestTokens
from locate.heads.head_check import EFFECTS, Effect, HeadCheck, Role
from locate.heads.head_role import HeadRole
from locate.heads.observed import counted, observations
from locate.heads.readings import REGIONS, HeadReadings, Region
from locate.heads.role_checks import ablate_heads, choose_controls, judge
from locate.heads.role_criteria import Evidence, RoleCriteria
from locate.heads.role_report import RoleReport

_SUBJECT, _RELATION = REGIONS.index(Region.SUBJECT), REGIONS.index(Region.RELATION)


WITH_EXAMPLES = 12
"""So many of the strongest heads have examples, whether they are labelled or not."""
SAME_PAIRS, OTHER_PAIRS = "the pairs that gave them", "other pairs"
"""What labels are checked on."""


@alone
def head_roles(
    model: Model,
    pairs: Sequence[TokenPair],
    objects: Sequence[int] | None = None,
    criteria: RoleCriteria | None = None,
    *,
    check: bool = True,
    check_on: Sequence[TokenPair] | None = None,
    circuit: Circuit | None = None,
    ablation: Ablation | str = Ablation.ZERO,
    batch_size: int = 16,
    n_written: int = 5,
    by_example: bool = True,
    seed: int = 0,
) -> RoleReport:
    """Label the heads for the relation that the pairs ask about, and check the labels.

    `objects` are first tokens of the relation's objects, by default the pairs' answers and foils.
    With a circuit only its heads are reported; labels and baseline are those of the whole model.
    `check_on` are other pairs to check the labels on, whose own answers and foils then count as
    objects; without them labels are checked on the pairs that gave them, and
    `provenance["checked_on"]` says which.
    `by_example` also asks in how many pairs the answer is among the `n_written` tokens that a head
    raises most, and keeps these tokens in three pairs for the heads that are labelled and the
    strongest others.
    Pairs that ask one fact, in whatever wording, are averaged before resampling (of a single fact
    those that ask the same clean prompt). Of a single prompt there are no intervals: its labels
    hold for that prompt alone and none is checked.
    `seed` is for the resampling and the choice of controls. OptionError where there are no pairs
    or one names no subject.
    """
    criteria, ablation = criteria or RoleCriteria(), Ablation.of(ablation)
    check_subjects(pairs)
    observed = observations(pairs)
    if circuit is not None:
        check_geometry(model, circuit.wiring)
    best = BestTokens(model, pairs, n_written) if by_example else None
    readings = read_heads(
        model,
        pairs,
        objects,
        batch_size=batch_size,
        n_written=n_written,
        watch=None if best is None else best.see,
    )
    found = label_heads(readings, criteria, seed, model.tokenizer.token_string, observed)
    has_role = np.array([[head.role != Role.NONE for head in layer] for layer in found])
    nodes = None if circuit is None else {n for n in circuit.nodes() if node_kind(n) == "head"}
    heads = [head for layer in found for head in layer if nodes is None or head.name in nodes]
    baseline: dict[Effect, Interval] | None = None
    labelled = [head for head in heads if head.role != Role.NONE]
    controls = choose_controls([(h.layer, h.head) for h in labelled], has_role, seed)
    tested, others = (pairs, objects) if check_on is None else (check_on, None)
    asked = observations(tested)
    check = check and len(set(asked)) > 1
    if check and labelled:
        sites = [(head.layer, head.head) for head in labelled]
        effects = ablate_heads(
            model, tested, sites + controls, others, ablation=ablation, batch_size=batch_size
        )
        checks, baseline = _check(labelled, by_group(effects, asked), criteria, seed)
        heads = [replace(head, check=checks.get(head.name)) for head in heads]
    heads.sort(key=lambda head: (-head.score, head.layer, head.head))
    if best is not None:
        told = best.told(
            [
                (head.layer, head.head)
                for place, head in enumerate(heads)
                if head.role != Role.NONE or place < WITH_EXAMPLES
            ]
        )
        heads = [replace(head, by_example=told[head.layer, head.head]) for head in heads]
    return RoleReport(
        heads=tuple(heads),
        criteria=criteria,
        readings=readings,
        baseline=baseline,
        controls=tuple(f"a{layer}.h{head}" for layer, head in controls) if baseline else (),
        provenance={
            **model.provenance,
            "method": "roles",
            **counted(pairs),
            **({"checked_on": SAME_PAIRS if check_on is None else OTHER_PAIRS} if check else {}),
            "objects": None if objects is None else sorted(set(objects)),
            "ablation": str(ablation),
            "seed": seed,
        },
    )


def roles_if_any(
    model: Model, pairs: Sequence[TokenPair], **options: Any
) -> tuple[RoleReport | None, str]:
    """As `head_roles`; where the pairs allow no roles, None and the reason in words."""
    try:
        return head_roles(model, pairs, **options), ""
    except OptionError as error:
        return None, str(error)


def label_heads(
    readings: HeadReadings,
    criteria: RoleCriteria,
    seed: int = 0,
    token_string: Any = str,
    observed: Sequence[int] | None = None,
) -> list[list[HeadRole]]:
    """A label for every head, by layer and head, from the numbers of each pair alone.

    `observed` numbers what each pair asks, as `observations`; None where each asks another fact.
    """
    given = readings.arrays()
    groups = range(len(readings.attention)) if observed is None else observed
    arrays = {name: by_group(values, groups) for name, values in given.items()}
    means = {name: values.mean(0) for name, values in arrays.items()}

    def intervals(values: Float[np.ndarray, "pair layer head"]) -> np.ndarray:
        limits = bootstrap_means(values, criteria.resamples, criteria.level, seed, fewest=2)
        return np.stack(limits, -1)

    answer = intervals(arrays["answer_gain"].sum(-1))
    in_range = intervals(arrays["range_gain"].sum(-1))
    moved = intervals(arrays["answer_gain"][..., _SUBJECT])
    related = intervals(arrays["range_gain"][..., _RELATION])
    mover_shares = _shares(means["answer_gain"], _SUBJECT)
    relation_shares = _shares(means["range_gain"], _RELATION)
    n_layers, n_heads = answer.shape[:2]

    def one(at: tuple[int, int]) -> HeadRole:
        weighted = dict(zip(REGIONS, means["weighted"][at].tolist(), strict=True))
        mover = Evidence(weighted[Region.SUBJECT], _interval(moved[at]), float(mover_shares[at]))
        relation = Evidence(
            weighted[Region.RELATION], _interval(related[at]), float(relation_shares[at])
        )
        return HeadRole(
            name=f"a{at[0]}.h{at[1]}",
            layer=at[0],
            head=at[1],
            role=criteria.classify(mover, relation),
            mover=mover,
            relation=relation,
            attention=dict(zip(REGIONS, means["attention"][at].tolist(), strict=True)),
            weighted=weighted,
            answer_gain=_interval(answer[at]),
            range_gain=_interval(in_range[at]),
            written=tuple(token_string(token) for token in readings.written[at[0]][at[1]]),
        )

    return [[one((layer, head)) for head in range(n_heads)] for layer in range(n_layers)]


def _check(
    labelled: Sequence[HeadRole],
    effects: Float[np.ndarray, "fact head effect"],
    criteria: RoleCriteria,
    seed: int,
) -> tuple[dict[str, HeadCheck], dict[Effect, Interval] | None]:
    """A check by head's name, and the controls' mean effect; the controls stand last."""

    def summary(values: Float[np.ndarray, "fact effect"]) -> dict[Effect, Interval]:
        limits = bootstrap_means(values, criteria.resamples, criteria.level, seed, fewest=2)
        found = np.stack(limits, -1)
        return {name: _interval(found[place]) for place, name in enumerate(EFFECTS)}

    drawn = effects[:, len(labelled) :]
    usual = drawn.mean(1) if drawn.shape[1] else None
    checks = {}
    for place, head in enumerate(labelled):
        own = summary(effects[:, place])
        excess = None if usual is None else summary(effects[:, place] - usual)
        checks[head.name] = HeadCheck(own, excess, judge(head.role, own, excess))
    return checks, None if usual is None else summary(usual)


def _shares(
    gains: Float[np.ndarray, "layer head region"], region: int
) -> Float[np.ndarray, "layer head"]:
    """Each head's gain from a region over all heads' positive parts; all 0 where there is none."""
    total = gains.clip(min=0).sum()
    return gains[..., region] / total if total > 0 else np.zeros_like(gains[..., region])


def _interval(limits: Float[np.ndarray, " 3"]) -> Interval:
    return Interval(*(float(x) for x in limits))
