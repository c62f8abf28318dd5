"""Is an edge's change more than noise? Intervals and decisions from scores of single pairs.

Scores before and after are means over prompt pairs, and two things about a pair are chance: which
*fact* it asks about, and which *partner* (corrupted subject) it is set against. A fact comes with
several partners and a partner with several facts, so pairs are not independent and their number
overstates what is known. Writing the change as a sum over the pairs of both models,

    change = mean(after) - mean(before) = sum_i c_i,    with deviations r_i from its own mean,

its variance is clustered both ways (Cameron, Gelbach & Miller 2011): V = V_fact + V_partner -
V_pair, where V_g sums the squares of r over each member of g, and V is at least V_fact and
V_partner. One formula serves all designs: with the same pairs on both sides it is the paired test,
with other partners for the same facts it is paired by fact, with other facts it is Welch's. The
statistic has a t distribution with as many degrees of freedom as the smaller grouping has members
on the smaller side, less one; where facts differ from each other in skewed ways, t is too sure of
itself, so that of t and Hall's (1992) skewness-corrected t the less extreme one counts.

Decisions compare with a margin, the smallest change of interest:
- CHANGED: |change| > margin, by two one-sided tests (with a margin of 0 the usual two-sided test);
- UNCHANGED: |change| < margin, by an equivalence test (Schuirmann 1987);
- UNDECIDED: neither; more pairs would tell.
Each family is controlled for false discoveries over all edges (Benjamini & Hochberg 1995, or
Benjamini & Yekutieli 2001 where any dependence between edges is to be allowed for).

All of this is array work on `EdgeScores.per_pair`: no model is run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.base.choices import Choice, FalseDiscovery
from circuits.base.errors import OptionError
from circuits.graph.scores import EdgeScores

if TYPE_CHECKING:  # it brings torch along, and a stored comparison needs none
    from circuits.facts.pairs import PromptPair, TokenPair

DEFAULT_MARGIN_SHARE = 0.001
_CHUNK_BYTES = 64 * 2**20
_CERTAIN = 1e6  # a statistic this large leaves no doubt, and its cube is still a number


class Decision(Choice):
    """What the pairs say about an edge's change; see the module's text."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    UNDECIDED = "cannot tell"


DECISIONS = tuple(Decision)


@dataclass(frozen=True)
class NoiseSettings:
    """What decides the decisions, apart from the scores.

    `level` is the false discovery rate, and 1 - level the intervals' coverage. `margin` is the
    smallest change of interest in units of the metric; None stands for `margin_share` of the
    largest mean score before.
    """

    level: float = 0.05
    margin: float | None = None
    margin_share: float = DEFAULT_MARGIN_SHARE
    control: FalseDiscovery = FalseDiscovery.BH

    def __post_init__(self) -> None:
        object.__setattr__(self, "control", FalseDiscovery.of(self.control))
        if not 0 < self.level < 1:
            raise OptionError(f"the level must lie between 0 and 1, not {self.level}")
        for name in ("margin", "margin_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < np.inf:
                raise OptionError(f"the {name.replace('_', ' ')} must be at least 0, not {value}")

    def margin_for(self, before: EdgeScores) -> float:
        """The margin in units of the metric."""
        if self.margin is not None:
            return float(self.margin)
        return float(self.margin_share * np.abs(before.values).max())


def in_words(drawn: str, n: int) -> str:
    """What `n` drawn observations are: `pairs` where each is one, else as `16 facts`."""
    return drawn if drawn == "pairs" else f"{n:,} {drawn}"


@dataclass(frozen=True)
class Sample:
    """For each row of per-pair scores, the fact and the partner it comes from.

    Facts are named by subject and relation, so that all wordings of a fact belong together:
    wordings are few and fixed, and no source of noise here. Pairs that name no relation are told
    apart by their subjects alone, and those that name no subject by their clean prompts.
    """

    facts: tuple[Hashable, ...]
    partners: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        if len(self.facts) != len(self.partners):
            raise OptionError("every pair needs a fact and a partner")

    def __len__(self) -> int:
        return len(self.facts)

    def at(self, rows: Sequence[int]) -> Sample:
        """The same of some of the rows alone."""
        facts, partners = ([of[row] for row in rows] for of in (self.facts, self.partners))
        return Sample(tuple(facts), tuple(partners))

    @property
    def groups(self) -> Int[np.ndarray, " row"]:
        """For each row the number of its observation: its fact, or of a single fact its partner."""
        return numbered(self.partners if len(set(self.facts)) == 1 else self.facts)[0]

    @property
    def observations(self) -> int:
        """How many facts there are, or, of a single fact, how many partners."""
        return len(set(self.groups.tolist()))

    @property
    def drawn(self) -> str:
        """What resamples draw: `pairs` where each is an observation, `facts` or `partners`."""
        if self.observations == len(self):
            return "pairs"
        return "partners" if len(set(self.facts)) == 1 else "facts"

    @property
    def over(self) -> str:
        """What intervals are over, in words: `pairs`, or `16 facts` where these are fewer."""
        return in_words(self.drawn, self.observations)

    @classmethod
    def of(cls, pairs: Sequence[PromptPair]) -> Sample:
        """The facts and partners of prompt pairs."""
        facts = tuple((pair.relation, pair.named_subject or pair.clean) for pair in pairs)
        return cls(facts, tuple((pair.relation, corrupted_subject(pair)) for pair in pairs))


def sample_of(pairs: Sequence[TokenPair]) -> Sample:
    """Which of the pairs ask one fact, and so are one observation."""
    return Sample.of([pair.text for pair in pairs])


def corrupted_subject(pair: PromptPair) -> str:
    """The subject in the corrupted prompt; the whole prompt where the wording differs too."""
    for start, stop in pair.subject_places:
        before, after = pair.clean[:start], pair.clean[stop:]
        fits = pair.corrupted.startswith(before) and pair.corrupted.endswith(after)
        if fits and len(pair.corrupted) > len(before) + len(after):
            return pair.corrupted[len(before) : len(pair.corrupted) - len(after)].strip()
    return pair.corrupted


@dataclass(frozen=True, eq=False)
class EdgeChanges:
    """Each edge's change (after minus before) in units of the metric, and what can be said of it.

    `low` and `high` bound the change at the settings' level for one edge by itself, and so do the
    p-values test; `q_changed` and `q_unchanged` are the false discovery rates at which an edge
    would be called so; `code` indexes `DECISIONS`. `facts` and `partners` count the members of
    the smaller side, `df` the degrees of freedom; a count of 1 means that this grouping was no
    source of noise.
    """

    change: Float[np.ndarray, " edge"]
    error: Float[np.ndarray, " edge"]
    low: Float[np.ndarray, " edge"]
    high: Float[np.ndarray, " edge"]
    p_changed: Float[np.ndarray, " edge"]
    p_unchanged: Float[np.ndarray, " edge"]
    q_changed: Float[np.ndarray, " edge"]
    q_unchanged: Float[np.ndarray, " edge"]
    code: Int[np.ndarray, " edge"]
    margin: float
    df: int
    facts: int
    partners: int
    settings: NoiseSettings

    def called(self, decision: Decision | str) -> Bool[np.ndarray, " edge"]:
        """The edges of which this is the decision."""
        return self.code == DECISIONS.index(Decision.of(decision))

    def decision(self, edge: int) -> Decision:
        """The decision about one edge."""
        return DECISIONS[int(self.code[edge])]

    def counts(self) -> dict[str, int]:
        """Number of edges a decision."""
        return {str(each): int(self.called(each).sum()) for each in Decision}

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of each edge, for a file."""
        arrays = {name: x for name, x in vars(self).items() if isinstance(x, np.ndarray)}
        return {**arrays, "code": self.code.astype(np.uint8)}

    def as_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        names = ("margin", "df", "facts", "partners")
        settings = asdict(self.settings) | {"control": str(self.settings.control)}
        return {name: getattr(self, name) for name in names} | {"settings": settings}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> EdgeChanges:
        """The inverse of `arrays` and `as_dict`; OptionError where they are none."""
        try:
            settings = dict(metadata["settings"])
            settings["control"] = FalseDiscovery.of(settings["control"])
            rest = {key: metadata[key] for key in ("margin", "df", "facts", "partners")}
            fields = {**arrays, "code": arrays["code"].astype(np.int64), **rest}
            return cls(**fields, settings=NoiseSettings(**settings))
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"these arrays are no edge changes: {error}") from None


def edge_changes(
    before: EdgeScores,
    after: EdgeScores,
    sample: Sample,
    sample_after: Sample | None = None,
    settings: NoiseSettings | None = None,
) -> EdgeChanges:
    """Intervals and decisions for every edge's change.

    `sample` describes the rows of `before.per_pair`, `sample_after` those of `after.per_pair`
    (by default the same). OptionError where there are fewer than 2 facts and 2 partners.
    """
    from scipy import stats  # slow to import, and who reads changes makes none

    settings = settings or NoiseSettings()
    rows = _Rows(before, after, sample, sample_after or sample)
    margin, df = settings.margin_for(before), rows.df
    n_edges = before.wiring.n_edges
    change, error, skewness = np.empty(n_edges), np.empty(n_edges), np.empty(n_edges)
    for part in _chunks(n_edges, len(rows) * 8):
        change[part], error[part], skewness[part] = rows.moments(part)
    p_changed, p_unchanged = _p_values(change, error, skewness, margin, df)
    q_changed = stats.false_discovery_control(p_changed, method=str(settings.control))
    q_unchanged = stats.false_discovery_control(p_unchanged, method=str(settings.control))
    half = stats.t.isf(settings.level / 2, df) * error
    code = np.full(n_edges, DECISIONS.index(Decision.UNDECIDED))
    code[q_unchanged <= settings.level] = DECISIONS.index(Decision.UNCHANGED)
    code[q_changed <= settings.level] = DECISIONS.index(Decision.CHANGED)
    return EdgeChanges(
        change=change,
        error=error,
        low=change - half,
        high=change + half,
        p_changed=p_changed,
        p_unchanged=p_unchanged,
        q_changed=q_changed,
        q_unchanged=q_unchanged,
        code=code,
        margin=margin,
        df=df,
        facts=rows.n_members[0],
        partners=rows.n_members[1],
        settings=settings,
    )


class _Rows:
    """The pairs of both models as one list of contributions to the change."""

    def __init__(
        self, before: EdgeScores, after: EdgeScores, sample: Sample, sample_after: Sample
    ) -> None:
        if before.wiring != after.wiring:
            raise OptionError(
                f"scores of {before.wiring.describe()} and of {after.wiring.describe()} "
                "cannot be compared"
            )
        self.sides = [per_pair_scores(before, sample), per_pair_scores(after, sample_after)]
        samples = (sample, sample_after)
        self.n_members = tuple(
            min(len(set(side)) for side in sides)
            for sides in (
                (sample.facts, sample_after.facts),
                (sample.partners, sample_after.partners),
            )
        )
        noisy = [n for n in self.n_members if n > 1]
        if not noisy:
            raise OptionError(
                "a noise floor needs at least 2 facts or 2 corrupted subjects, or nothing varies"
            )
        self.df = min(noisy) - 1
        facts = [fact for each in samples for fact in each.facts]
        partners = [partner for each in samples for partner in each.partners]
        labels: list[Sequence[Hashable]] = [facts, partners, [*zip(facts, partners, strict=True)]]
        self.clusters = [numbered(names) for names in labels]
        self.correction = min(noisy) / (min(noisy) - 1)

    def __len__(self) -> int:
        return sum(len(side) for side in self.sides)

    def moments(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Change, standard error, and skewness of a cluster's contribution, of some edges."""
        scores = [side[:, part].astype(np.float64) for side in self.sides]
        means = [side.mean(0) for side in scores]
        deviations = np.concatenate(
            [
                sign * (side - mean) / len(side)
                for sign, side, mean in zip((-1, 1), scores, means, strict=True)
            ]
        )
        sums = [_cluster_sums(deviations, *cluster) for cluster in self.clusters]
        fact, partner, pair = (np.square(each).sum(0) for each in sums)
        if self.n_members[0] == 1:
            variance, shape = partner, sums[1]
        elif self.n_members[1] == 1:
            variance, shape = fact, sums[0]
        else:
            variance = np.maximum(fact + partner - pair, np.maximum(fact, partner))
            shape = sums[0]
        change = means[1] - means[0]
        error = np.sqrt(variance * self.correction)
        with np.errstate(divide="ignore", invalid="ignore"):
            skewness = (shape**3).mean(0) / (shape**2).mean(0) ** 1.5
        return change, error, np.nan_to_num(skewness, posinf=0.0, neginf=0.0)


def _p_values(
    change: np.ndarray, error: np.ndarray, skewness: np.ndarray, margin: float, df: int
) -> tuple[np.ndarray, np.ndarray]:
    """P-values of "changed by more than the margin" and of "changed by less"."""
    from scipy import stats

    def tails(shift: float) -> tuple[np.ndarray, np.ndarray]:
        """P-values against a change of at most, and of at least, `shift`."""
        with np.errstate(divide="ignore", invalid="ignore"):  # a change that never varies
            statistic = np.nan_to_num((change - shift) / error, nan=0.0)
        statistic = statistic.clip(-_CERTAIN, _CERTAIN)
        corrected = without_skewness(statistic, skewness, df + 1)
        upper = np.minimum(statistic, corrected)
        lower = np.maximum(statistic, corrected)
        return stats.t.sf(upper, df), stats.t.cdf(lower, df)

    above, below_top = tails(margin)
    above_bottom, below = tails(-margin)
    changed = np.minimum(2 * np.minimum(above, below), 1.0)
    return changed, np.maximum(below_top, above_bottom)


def without_skewness(statistic: np.ndarray, skewness: np.ndarray, n: int) -> np.ndarray:
    """Hall's (1992) monotone transformation, which takes the skewness of n values out of t."""
    scaled = statistic / np.sqrt(n)
    cubic = scaled + skewness * scaled**2 / 3 + skewness**2 * scaled**3 / 27
    return np.sqrt(n) * (cubic + skewness / (6 * n))


def per_pair_scores(scores: EdgeScores, sample: Sample) -> Float[np.ndarray, "pair edge"]:
    """The scores of single pairs; OptionError where they were not kept or do not fit the sample."""
    if scores.per_pair is None:
        raise OptionError(
            "these scores were averaged without keeping one score a pair, so there is no telling "
            "a change from noise; compute them with per-pair scores"
        )
    if len(scores.per_pair) != len(sample):
        raise OptionError(
            f"there are scores of {len(scores.per_pair)} pairs, but {len(sample)} pairs are named"
        )
    return scores.per_pair


def numbered(labels: Sequence[Hashable]) -> tuple[Int[np.ndarray, " row"], int]:
    """Labels as numbers from 0 in order of appearance, and how many there are."""
    index: dict[Hashable, int] = {}
    numbers = [index.setdefault(label, len(index)) for label in labels]
    return np.array(numbers, dtype=np.int64), len(index)


def _cluster_sums(values: np.ndarray, index: np.ndarray, n: int) -> np.ndarray:
    """Rows added up within each of n clusters, none of which is empty."""
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(n))
    return np.add.reduceat(values[order], starts, axis=0)


def _chunks(length: int, bytes_each: int) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // max(bytes_each, 1))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
