"""CPR and CMD as the board of MIB's circuit track computes them.

Source: Mueller et al. 2025, *MIB: A Mechanistic Interpretability Benchmark*, arXiv:2504.13151, and
the evaluation of its public code (hannamw/MIB-circuit-track). Of n edges, with one key and value
input a query head, the int(p n) best are kept for each p of 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50 and
100 %; cut edges carry the corrupted run; f is faithfulness, by the mean difference of two logits.

    CPR = integral of f dp, edges ranked by score
    CMD = integral of |1 - f| dp, edges ranked by |score|

by trapezoids over the nominal p from 0.001 to 1, where `circuits.graph.curves` takes the share that
is kept. So CPR at f = 1 throughout is 0.999. The shared task of BlackboxNLP 2025 took the same
integrals over ln p, which are the `log` areas. Pruning leaves f as it is where cut edges carry the
corrupted run, and gives the number of edges that the board reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import Ablation, KeyValue, Metric, Ranking
from circuits.base.display import Shown, Summary
from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from circuits.base.origin import write_all
from circuits.base.progress import Progress
from circuits.base.stamps import stamped
from circuits.base.writing import atomic_write, save_json
from circuits.files.exchange import per_query_head, save_eap_ig
from circuits.graph.circuit import Circuit
from circuits.graph.curve import FRACTIONS, FaithfulnessCurve, FaithfulnessCurves
from circuits.graph.curves import faithfulness_curve
from circuits.graph.evaluate import Runs, check_geometry, run_circuits
from circuits.graph.noise import Sample, sample_of
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune, top_n
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.discover import origin, texts
from locate.edges.score import score_edges
from locate.evaluate import doubts
from locate.examples import Examples, as_jsonl
from locate.looks.says import says
from locate.report import curve_summary, number
from locate.search import Search
from locate.seen import UNKNOWN, Finders

SIZES = FRACTIONS[:-1]
"""The shares of edges of a submission's nine circuits."""
FOUND = ("importances.kc.safetensors", "importances.json", "pairs.jsonl")
"""What `kc mib discover` writes beside its summary."""
CURVES = "curves.kc.safetensors"


def board_sizes(n_edges: int) -> tuple[int, ...]:
    """How many edges the board keeps at each of `FRACTIONS`; 0 where a model has too few."""
    return tuple(int(share * n_edges) for share in FRACTIONS)


def nested(scores: EdgeScores, by: Ranking | str) -> list[Circuit]:
    """The pruned circuits of the best edges, one for each of `FRACTIONS`."""
    empty = Circuit.empty(scores.wiring, scores)
    sizes = board_sizes(scores.wiring.n_edges)
    return [prune(top_n(scores, size, by)) if size else empty for size in sizes]


def log_area(values: Float[np.ndarray, " share"]) -> float:
    """The integral over ln p of values at `FRACTIONS`, by trapezoids."""
    return float(np.trapezoid(values, np.log(FRACTIONS)))


@dataclass(frozen=True, eq=False)
class BoardScores(Shown):
    """CPR and CMD with the curves that they are areas of, and 95 % intervals over facts.

    Of importances the signed curve ranks edges by score and the absolute one by |score|; of nine
    circuits that someone selected both are the same. `measured_on` names the pairs and `warnings`
    says what does not quite match, as in `locate.evaluate.StoredEvaluation`.
    """

    model: str
    examples: Examples
    signed: FaithfulnessCurve
    absolute: FaithfulnessCurve
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured_on: str = UNKNOWN
    warnings: tuple[str, ...] = ()

    @property
    def cpr(self) -> Interval:
        """The area under faithfulness; more is better."""
        return self.signed.area

    @property
    def cmd(self) -> Interval:
        """The distance from faithfulness 1; less is better."""
        return self.absolute.distance

    @property
    def sample(self) -> Sample:
        """Which of the pairs ask one fact, and are drawn together for the intervals."""
        return sample_of(self.examples.pairs)

    def rows(self) -> list[dict[str, Any]]:
        """One record a share of edges: edges after pruning and faithfulness by either ranking."""
        return [
            {
                "share": share,
                "edges_signed": signed["edges"],
                "signed": signed["value"],
                "edges_absolute": absolute["edges"],
                "absolute": absolute["value"],
            }
            for share, signed, absolute in zip(
                FRACTIONS, self.signed.rows(), self.absolute.rows(), strict=True
            )
        ]

    def summary(self) -> Summary:
        """CPR, CMD, and faithfulness by size."""
        facts = {
            "model": self.model,
            "pairs": f"{len(self.examples.pairs):,} of {self.examples.name}",
            "intervals": f"over {self.sample.over}",
            "CPR": str(self.cpr),
            "CMD": str(self.cmd),
        }
        if self.warnings:
            facts["note"] = "; ".join(self.warnings)
        return Summary("Scores of MIB's circuit track", facts, "", *self.table())

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Faithfulness by size, as header and rows of text."""
        header = ("of all", "edges by score", "faithfulness", "edges by |score|", "faithfulness")
        points = zip(
            FRACTIONS,
            *(self.signed.sizes, self.signed.faithfulness),
            *(self.absolute.sizes, self.absolute.faithfulness),
            strict=True,
        )
        return header, [
            (f"{100 * share:g} %", f"{n:,}", str(f), f"{m:,}", str(g))
            for share, n, f, m, g in points
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        signed, absolute = (
            np.array([point.value for point in curve.faithfulness])
            for curve in (self.signed, self.absolute)
        )
        record = {
            "model": self.model,
            "relation": self.examples.name,
            "pairs": len(self.examples.pairs),
            "measured_on": None if self.measured_on == UNKNOWN else self.measured_on,
            "drawn": self.sample.drawn,
            "n_drawn": self.sample.observations,
            "facts": self.examples.counts,
            "bos": self.examples.bos,
            "cpr": number(self.cpr.value),
            "cmd": number(self.cmd.value),
            "log": {
                "cpr": number(log_area(signed)),
                "cmd": number(log_area(np.abs(1 - absolute))),
            },
            "signed": curve_summary(self.signed),
            "absolute": curve_summary(self.absolute),
            "method": self.provenance.get("method"),
            "warnings": list(self.warnings),
        }
        return stamped("mib-evaluate", record, says(self))

    def save(self, folder: str | Path, file: Path | None = None) -> list[Path]:
        """Write curves and summary; `file` is what was evaluated, where it is a file."""
        curves = {"by score": self.signed, "by |score|": self.absolute}
        about: dict[str, Any] = {"pairs": len(self.examples.pairs)}
        if self.measured_on != UNKNOWN:
            about["measured_on"] = self.measured_on
        stored = FaithfulnessCurves(curves, {**self.provenance, **about})
        record = {**self.as_dict(), "file": None if file is None else str(file)}
        return write_all(
            Path(folder),
            {CURVES: stored.save, "summary.json": lambda path: save_json(record, path)},
            (CURVES,),
        )


@alone
def importances(
    model: Model, examples: Examples, search: Search, progress: Progress | None = None
) -> Circuit:
    """The whole model as a circuit with its edges' scores; OptionError for a method without any.

    Of the search only what decides scores counts, with one key and value input a query head.
    """
    if search.method.selects:
        raise OptionError(
            f"`method` {search.method} selects edges and gives no importances; name another"
        )
    search = replace(search, kv=KeyValue.PER_QUERY_HEAD, resamples=0)
    scores = score_edges(
        model, examples.pairs, search, batch_size=search.batch_size, progress=progress
    )
    assert isinstance(scores, EdgeScores), "a method that selects is refused"
    found = origin(model, examples, search)
    whole = Circuit.full(scores.wiring, scores)
    return replace(whole, provenance=found, evidence={"pairs": texts(examples.pairs)})


def importances_record(circuit: Circuit, examples: Examples) -> dict[str, Any]:
    """What there is to say of importances, as plain JSON values."""
    record = {
        "model": circuit.provenance["model"],
        "edges": circuit.n_edges,
        "pairs": len(examples.pairs),
        "provenance": dict(circuit.provenance),
        "strongest_edges": circuit.rows(10),
        "warnings": list(examples.notes),
    }
    return stamped("mib-discover", record, says(circuit.scores))


def save_importances(circuit: Circuit, examples: Examples, folder: str | Path) -> list[Path]:
    """Write importances, the pairs that they were found on, and a summary."""
    record = importances_record(circuit, examples)
    writers = (
        circuit.save,
        lambda path: save_eap_ig(circuit, path, full=True),
        lambda path: atomic_write(path, as_jsonl(examples.pairs)),
    )
    named = dict(zip(FOUND, writers, strict=True))
    return write_all(
        Path(folder), {**named, "summary.json": lambda path: save_json(record, path)}, FOUND
    )


@alone
def board_scores(
    model: Model,
    circuits: Sequence[Circuit],
    examples: Examples,
    *,
    batch_size: int = 16,
    resamples: int = 1000,
    seed: int = 0,
    warnings: Sequence[str] = (),
    progress: Progress | None = None,
) -> BoardScores:
    """CPR and CMD of importances (one circuit with scores) or of nine circuits.

    Positive scores support the answer. To `warnings` come those of the pairs, as
    `locate.evaluate.doubts` has them. OptionError where circuits are of another model, or one has
    no scores.
    """
    counted = [per_query_head(circuit) for circuit in circuits]
    for circuit in counted:
        check_geometry(model, circuit.wiring)
    if len(counted) == len(SIZES):
        families = [[*by_size(counted), Circuit.full(counted[0].wiring)]]
    elif len(counted) == 1 and counted[0].scores is not None:
        families = [nested(counted[0].scores, by) for by in (Ranking.SIGNED, Ranking.ABSOLUTE)]
    else:
        raise OptionError(
            f"the board takes one circuit with scores or {len(SIZES)} circuits, not {len(counted)}"
            + ("" if len(counted) > 1 else " without scores")
        )
    runs = run_circuits(
        model,
        examples.pairs,
        [circuit for family in families for circuit in family],
        metric=Metric.LOGIT_DIFFERENCE,
        ablation=Ablation.PATCH,
        batch_size=batch_size,
        progress=progress,
    )
    curves = []
    for place, family in enumerate(families):
        own = runs.circuits[place * len(FRACTIONS) : (place + 1) * len(FRACTIONS)]
        curves.append(
            faithfulness_curve(
                Runs(runs.model, runs.empty, own, runs.sample),
                family,
                fractions=FRACTIONS,
                resamples=resamples,
                seed=seed,
            )
        )
    signed, absolute = (
        replace(curve, ranking=by)
        for curve, by in ((curves[0], Ranking.SIGNED), (curves[-1], Ranking.ABSOLUTE))
    )
    finders = Finders.among(circuits, examples.pairs, examples.fingerprint)
    return BoardScores(
        model.name,
        examples,
        signed,
        absolute,
        dict(circuits[0].provenance),
        UNKNOWN if finders is None else finders.side(examples.pairs),
        (*warnings, *doubts(circuits[0], examples, finders), *examples.notes),
    )


def by_size(circuits: Sequence[Circuit]) -> list[Circuit]:
    """Nine circuits, smallest first; OptionError where one is larger than its place allows."""
    ordered = sorted(circuits, key=lambda circuit: circuit.n_edges)
    limits = board_sizes(ordered[0].wiring.n_edges)
    for circuit, share, most in zip(ordered, SIZES, limits, strict=False):
        if circuit.n_edges > most:
            raise OptionError(
                f"the circuit for {100 * share:g} % of edges may keep {most:,} of "
                f"{circuit.wiring.n_edges:,}, and it keeps {circuit.n_edges:,}"
            )
    return ordered
