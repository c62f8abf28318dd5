"""A discovery: a circuit with all that was found out about it, its tables, its page, its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.choices import ExportFormat
from circuits.base.display import Shown, Summary, drawn, is_page, paged
from circuits.base.origin import write_all
from circuits.base.results import Result
from circuits.base.stamps import stamped
from circuits.base.writing import atomic_write, save_json
from circuits.facts.pairs import TokenPair
from circuits.files.exchange import export_circuit, save_eap_ig
from circuits.graph.by_span import span_rows
from circuits.graph.circuit import Circuit
from circuits.graph.curve import BASELINE, FaithfulnessCurve, FaithfulnessCurves
from circuits.graph.evaluate import Evaluation
from circuits.graph.meaning import reading
from circuits.graph.scores import EdgeScores
from locate.examples import Examples, as_jsonl
from locate.heads.heads_on_prompts import HeadsOnPrompts, PromptHeads
from locate.heads.role_report import RoleReport
from locate.looks.says import says
from locate.report import (
    curve_summary,
    edge_rows,
    known_line,
    markdown_table,
    measure_rows,
    measures,
    opposed_line,
    over_what,
    span_table,
)
from locate.search import Search
from locate.seen import FOUND_IT, side_beside
from locate.sizing import size_line

if TYPE_CHECKING:
    import plotly.graph_objects as go

Writers = dict[str, Callable[[Path], Any]]
N_STRONGEST = 10
FILES = (
    "circuit.kc.safetensors",
    "circuit.json",
    "circuit.graphml",
    "circuit.svg",
    "pairs.jsonl",
    "summary.md",
    "held_out.jsonl",
    "curve.svg",
    "curve.kc.safetensors",
    "roles.json",
    "heads.kc.safetensors",
)
"""What some discoveries write and others do not."""


def sides_of(
    examples: Examples, evaluation: Evaluation, held_out: Evaluation | None
) -> dict[str, Evaluation]:
    """The evaluations by the name of their pairs, which a task does not tell by subjects."""
    sides = {FOUND_IT: evaluation}
    if held_out is None:
        return sides
    return sides | {side_beside(examples.pairs, examples.held_out): held_out}


@dataclass(frozen=True, eq=False)
class Discovery(Shown):
    """A circuit with all that was found out about it.

    `evaluation` is on the pairs that found the circuit, `held_out` on pairs of other subjects,
    where there are any. `stability` counts the kept edges by how often resamples keep them. `heads`
    are the circuit's heads on a few prompts (`locate.heads.prompt_heads`).
    """

    model: str
    search: Search
    examples: Examples
    circuit: Circuit
    evaluation: Evaluation
    held_out: Evaluation | None = None
    stability: dict[str, int] = field(default_factory=dict)
    curve: FaithfulnessCurve | None = None
    random_curve: FaithfulnessCurve | None = None
    roles: RoleReport | None = None
    heads: tuple[PromptHeads, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> EdgeScores:
        """A score for every edge of the model, by name: `scores["a6.h1->logits"]`."""
        assert self.circuit.scores is not None, "every search scores edges"
        return self.circuit.scores

    @property
    def pairs(self) -> tuple[TokenPair, ...]:
        """The prompt pairs that found the circuit; `examples.held_out` are those that tested it."""
        return self.examples.pairs

    @property
    def faithfulness(self) -> Any:
        """On other subjects where there are any, else on the pairs that found the circuit."""
        return (self.held_out or self.evaluation).faithfulness

    @property
    def curve_pairs(self) -> str:
        """Which pairs a curve is measured on: others than found the circuit, where there are."""
        return list(self.sides())[-1]

    @property
    def resampled(self) -> str:
        """What was drawn again for the inclusion of edges, as `pairs that found it`."""
        return FOUND_IT.replace("pairs", self.evaluation.over)

    def sides(self) -> dict[str, Evaluation]:
        """The evaluations by the name of their pairs."""
        return sides_of(self.examples, self.evaluation, self.held_out)

    def rows(self) -> list[dict[str, Any]]:
        """One record a kept edge, strongest first: score, its interval, inclusion."""
        return self.circuit.rows()

    def says(self) -> str:
        """Size, faithfulness where it was not found, and random circuits, in one sentence."""
        return says(self)

    def summary(self) -> Summary:
        """Size, what was asked, roles, and the measures on either side."""
        whole = self.circuit.summary()
        facts = {name: text for name, text in whole.facts.items() if name != "faithfulness"}
        facts["facts"] = known_line(self.examples.counts)
        if line := size_line(self.circuit):
            facts["size"] = line
        if self.notes:
            facts["note"] = "; ".join(self.notes)
        header, rows = measure_rows(self.sides())
        return Summary(
            whole.title,
            facts,
            f"means, and 95 % intervals over {over_what(self.sides())}",
            ("measure", *header[1:]),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """The circuit's picture; options as of `Circuit.plot`."""
        return self.circuit.plot(**options)

    def explore(self, **options: Any) -> None:
        """Open the app on the circuit within a notebook; options as of `Circuit.explore`."""
        self.circuit.explore(**options)

    def save(self, folder: str | Path, full_json: bool = False) -> list[Path]:
        """Write the circuit in all its forms, its pairs and its summary; returns the files' paths.

        These are the files of `kc discover`, whole or not at all. `full_json` has all edges in
        `circuit.json`, however many. A path that ends in .html gets one page of all of it instead.
        """
        if is_page(folder):
            paged(self, folder)
            return [Path(folder)]
        writers = self._writers(full_json)
        paths = [Path(folder) / name for name in (*writers, "summary.md", "summary.json")]
        record = self.as_dict(paths)
        writers["summary.md"] = lambda path: atomic_write(path, self.page())
        writers["summary.json"] = lambda path: save_json(record, path)
        return write_all(Path(folder), writers, FILES)

    def as_dict(self, files: Sequence[Path] = ()) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values.

        Measures at the top are those on the pairs that found the circuit; `held_out` has those on
        pairs of other subjects, null where there are none.
        """
        circuit, search = self.circuit, self.search
        selection = circuit.provenance.get("selection", {})
        stability = {"resamples": search.resamples, **self.stability} if self.stability else None
        curves = {"curve": self.curve, "random_curve": self.random_curve}
        record = {
            "model": self.model,
            **search.record(),
            "relation": self.examples.name,
            "measured_on": FOUND_IT,
            **measures(self.evaluation),
            "edges": circuit.n_edges,
            "edges_selected": selection.get("edges_selected"),
            "edges_in_model": circuit.wiring.n_edges,
            "nodes": self.evaluation.n_nodes,
            "held_out": None if self.held_out is None else measures(self.held_out),
            "facts": self.examples.counts,
            "stability": stability,
            **{name: each and curve_summary(each) for name, each in curves.items()},
            "curve_pairs": self.curve and self.curve_pairs,
            "roles": dict(circuit.roles),
            "strongest_edges": circuit.rows(N_STRONGEST),
            "by_span": span_rows(circuit),
            "selection": selection,
            "bos": self.examples.bos,
            "seed": search.seed,
            "provenance": dict(circuit.provenance),
            "seconds": self.seconds,
            "warnings": list(self.notes),
            "files": [str(path) for path in files],
        }
        return stamped("discover", record, self.says())

    def page(self) -> str:
        """The summary as Markdown, with what the numbers mean."""
        circuit, search = self.circuit, self.search
        scoring = ", ".join(f"{name} {value}" for name, value in search.record().items())
        lines = [
            f"# The circuit of {self.examples.name} in {self.model}",
            "",
            self.says(),
            "",
            f"{circuit.n_edges} of {circuit.wiring.n_edges} edges between "
            f"{self.evaluation.n_nodes} nodes; {circuit.wiring.describe()}. Found with {scoring}, "
            f"seed {search.seed}.",
            *([f"Size: {line}."] if (line := size_line(circuit)) else []),
            f"{known_line(self.examples.counts)}. Answers count by "
            f"{'all their tokens' if search.metric.whole else 'their first token'}.",
            "",
            *markdown_table(*measure_rows(self.sides())),
            "",
            f"In brackets: 95 % bootstrap intervals over {over_what(self.sides())}. Faithfulness "
            "is 0 with no edge kept and 1 for the whole model; random circuits have as many edges, "
            "connected.",
            "",
            "## Strongest edges",
            "",
            *markdown_table(*edge_rows(circuit, 20)),
            "",
            f"On the {FOUND_IT}. {reading(circuit)}",
        ]
        if circuit.wiring.spans:
            lines += ["", "## By span", "", *markdown_table(*span_table(circuit))]
            if opposed := opposed_line(circuit):
                lines += ["", f"{opposed}."]
        if self.stability:
            counted = ", ".join(f"{count} {label}" for label, count in self.stability.items())
            lines += [
                "",
                f"Of {search.resamples} resamples of the {self.resampled}, `inclusion` is the "
                f"share whose circuit keeps the edge: {counted} (core: at least 95 %, noise: "
                "below 50 %).",
            ]
        if self.curve is not None:
            lines += [
                "",
                f"{', '.join(f'{what} {x}' for what, x in self.curve.areas.items())} over "
                f"{len(self.curve.sizes)} sizes, on {self.curve_pairs}.",
            ]
        if circuit.roles:
            named = (f"- {node}: {role}" for node, role in circuit.roles.items())
            lines += ["", "## Roles of heads", "", *named]
        if self.roles is not None and self.roles.baseline is not None:
            checked = self.roles.provenance["checked_on"]
            lines += ["", f"Labelled on the {FOUND_IT}, checked by ablation on {checked}."]
        for note in self.notes:
            lines += ["", f"Note: {note}."]
        return "\n".join(lines) + "\n"

    def _writers(self, full_json: bool) -> Writers:
        circuit, examples = self.circuit, self.examples
        title = f"{examples.name} in {self.model}"
        writers: Writers = {
            "circuit.kc.safetensors": circuit.save,
            "circuit.graphml": lambda path: export_circuit(circuit, path, ExportFormat.GRAPHML),
            "circuit.svg": lambda path: drawn(circuit, path, title=title),
            "pairs.jsonl": lambda path: atomic_write(path, as_jsonl(examples.pairs)),
        }
        if not circuit.wiring.spans:  # for which EAP-IG's format has no place
            writers["circuit.json"] = lambda path: save_eap_ig(circuit, path, full=full_json)
        if examples.held_out:
            held_out = as_jsonl(examples.held_out)
            writers["held_out.jsonl"] = lambda path: atomic_write(path, held_out)
        if self.curve is not None:
            curves = self._curves()
            writers["curve.kc.safetensors"] = curves.save
            writers["curve.svg"] = lambda path: drawn(curves, path, title=title)
        if self.roles is not None:
            roles = stamped("role-report", self.roles.as_dict(), says(self.roles))
            writers["roles.json"] = lambda path: save_json(roles, path)
        if self.heads:
            writers["heads.kc.safetensors"] = HeadsOnPrompts(tuple(self.heads)).save
        return writers

    def beside(self) -> list[Result]:
        """What was found out beside the circuit: curves, roles, heads on prompts."""
        found: list[Result] = [] if self.curve is None else [self._curves()]
        found += [] if self.roles is None else [self.roles]
        return [*found, *([HeadsOnPrompts(tuple(self.heads))] if self.heads else [])]

    def _curves(self) -> FaithfulnessCurves:
        """The curve by the name of its method, and that of random circuits."""
        curves = {str(self.search.method): self.curve, BASELINE: self.random_curve}
        known = {name: curve for name, curve in curves.items() if curve is not None}
        tested = self.held_out or self.evaluation
        about = {"pairs": tested.n_pairs, "measured_on": self.curve_pairs}
        about |= {} if tested.drawn == "pairs" else {"drawn": tested.over}
        return FaithfulnessCurves(known, {**self.circuit.provenance, **about})
