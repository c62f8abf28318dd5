"""`kc compare`: two stored circuits, or a model and its edit, held against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuits.base.choices import Locator, Method
from circuits.base.errors import OptionError
from circuits.base.origin import code_commit, timestamp
from circuits.base.plain import plain
from circuits.base.progress import Progress
from circuits.base.writing import as_csv, atomic_write
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.pairs import edit_pairs
from circuits.edits.requests import slotted
from circuits.facts.pairs import TokenPair
from circuits.files.store import save_circuit
from circuits.graph.circuit import Circuit
from circuits.graph.compare import Comparison, Mass, compare
from circuits.model.model import Model
from experiments.cli.edit_report import page
from experiments.cli.finding import Look, Table
from locate.changes.rewiring import Rewiring, rewiring
from locate.discover import Search
from locate.edges.eap import Attribution
from locate.examples import Examples
from locate.heads.roles import head_roles

FILES = (
    "before.kc.safetensors",
    "after.kc.safetensors",
    "comparison.kc.safetensors",
    "rewiring.kc.safetensors",
    "edges.csv",
    "layers.csv",
    "heads.csv",
    "difference.svg",
    "summary.md",
)
"""What an earlier run may have left in the folder."""
MOST_SHOWN = 10
_LEGEND = (
    "Score mass is the sum of |score| over the edges that leave a layer's or role's nodes; `moved` "
    "is the part of it that changed. An edge is called changed where its change exceeds the margin "
    "beyond what other facts and other corrupted subjects would change, at a false discovery rate "
    "of 5 %."
)


@dataclass(frozen=True)
class Question:
    """The pairs that a comparison is made on: before, after, and what they ask about."""

    name: str
    before: tuple[TokenPair, ...]
    after: tuple[TokenPair, ...]
    notes: tuple[str, ...] = ()


def requests_of(delta: WeightDelta) -> list[EditRequest]:
    """The requests that a delta, or each part of a sum of deltas, answers."""
    return list(dict.fromkeys(_requests_in(delta.provenance)))


def _requests_in(provenance: Mapping[str, Any]) -> Iterator[EditRequest]:
    for part in provenance.get("sum", ()):
        yield from _requests_in(part)
    for record in provenance.get("requests", ()):
        target = record.get("target") or record.get("target_new")
        names = ("ground_truth", "relation")
        yield EditRequest(
            slotted(record["prompt"], record["subject"]),
            record["subject"],
            target,
            *(record.get(name) for name in names),
        )


def about_the_edit(model: Model, delta: WeightDelta, partners: int, seed: int) -> Question:
    """Pairs that ask for the edited facts: the old object against the new one."""
    requests = requests_of(delta)
    known = [each for each in requests if each.ground_truth is not None and each.relation]
    if not known:
        raise OptionError(
            "the edit names no request with a relation of the atlas and a true object: say with "
            "--relation which pairs to compare on"
        )
    pairs = edit_pairs(model.tokenizer, known, partners=partners, seed=seed)
    before, after = pairs.encode(model.tokenizer)
    notes = [f"left out: {request.text!r}: {reason}" for request, reason in pairs.skipped]
    if len(known) < len(requests):
        notes.append(f"{len(requests) - len(known)} requests without relation left out")
    return Question("the edited facts", tuple(before), tuple(after), tuple(notes))


def about_a_relation(examples: Examples) -> Question:
    """Pairs that ask for a relation's facts, edited or not."""
    return Question(examples.name, examples.pairs, examples.pairs, examples.notes)


def compare_edit(
    model: Model,
    delta: WeightDelta,
    question: Question,
    search: Search,
    draws: int,
    progress: Progress | None = None,
) -> tuple[Rewiring, tuple[str, ...]]:
    """What the edit did to the circuit behind the question, and notes to the reader."""
    if search.locator not in (Locator.EAP, Locator.EAP_IG):
        raise OptionError(f"--method {search.locator} gives no scores of single pairs; use eap-ig")
    notes, roles = list(question.notes), {}
    if search.roles:
        try:
            roles = dict(head_roles(model, question.before, batch_size=search.batch_size).roles)
        except OptionError as error:
            notes.append(f"no roles: {error}")
    found = rewiring(
        model,
        delta,
        question.before,
        question.after,
        selector=search.selected,
        attribution=Attribution(
            method=Method(search.locator),
            steps=search.steps,
            rule=search.rule,
            metric=search.metric,
            ablation=search.ablation,
            kv=search.kv,
        ),
        roles=roles,
        resamples=search.resamples,
        draws=draws,
        seed=search.seed,
        batch_size=search.batch_size,
        progress=progress,
    )
    return found, tuple(notes)


# --- what is shown and stored --------------------------------------------------------------------


def edit_look(found: Rewiring, question: Question, notes: Sequence[str], seed: int) -> Look:
    """A rewiring: tables, circuits before and after, picture."""
    found = _asked(found, question.name)
    comparison = found.comparison
    tables = [*_mass_tables(comparison), _edge_table(comparison), _head_table(found)]
    tables.append(_layer_table(found))
    lines = [*_lines(comparison), *_restored(found)]
    summary = {
        "model": found.provenance.get("model"),
        "question": question.name,
        "pairs": len(question.before),
        **plain(found.as_dict()),
        "seed": seed,
        "commit": code_commit(),
        "created": timestamp(),
        "warnings": list(notes),
    }
    files = _files(comparison, f"{question.name} before and after the edit")
    files["rewiring.kc.safetensors"] = found.save
    files["layers.csv"] = lambda path: atomic_write(path, as_csv(found.followed.rows()))
    heads = [head.as_row() for head in found.heads]
    files["heads.csv"] = lambda path: atomic_write(path, as_csv(heads))
    return _look(summary, tables, lines, files, f"What the edit did to {question.name}")


def circuits_look(comparison: Comparison, paths: tuple[Path, Path]) -> Look:
    """Two stored circuits: sets and scores; single pairs' scores are not stored, so no noise."""
    notes = ["circuit files hold no scores of single pairs: no noise floor"]
    different = comparison.differing_settings()
    notes += [f"scored with {key} {left} and {right}" for key, (left, right) in different.items()]
    summary = {
        "before": str(paths[0]),
        "after": str(paths[1]),
        "comparison": plain(comparison.as_dict()),
        "commit": code_commit(),
        "created": timestamp(),
        "warnings": notes,
    }
    tables = [*_mass_tables(comparison), _edge_table(comparison)]
    files = _files(comparison, f"{paths[0].stem} and {paths[1].stem}")
    return _look(summary, tables, _lines(comparison), files, "Two circuits")


def load_pair(before: Path, after: Path) -> Comparison:
    """Two stored circuits, compared; OptionError where they are not of one wiring."""
    from locate.evaluate import read_circuit

    return compare(read_circuit(before), read_circuit(after))


def _look(
    summary: Mapping[str, Any],
    tables: Sequence[Table],
    lines: Sequence[str],
    files: dict[str, Callable[[Path], Any]],
    title: str,
) -> Look:
    shown = [table for table in tables if table.rows]
    text = page(title, lines, shown, _LEGEND)
    files["summary.md"] = lambda path: atomic_write(path, text)
    return Look(summary, shown, lines, files)


def _files(comparison: Comparison, title: str) -> dict[str, Callable[[Path], Any]]:
    def picture(path: Path) -> None:
        from viz.paper.difference import draw_difference

        draw_difference(comparison, path, title)

    return {
        "before.kc.safetensors": lambda path: save_circuit(comparison.before, path),
        "after.kc.safetensors": lambda path: save_circuit(comparison.after, path),
        "comparison.kc.safetensors": comparison.save,
        "edges.csv": lambda path: atomic_write(path, as_csv(comparison.rows())),
        "difference.svg": picture,
    }


def _asked(found: Rewiring, about: str) -> Rewiring:
    """The rewiring and its circuits, saying what they were asked about."""

    def told(circuit: Circuit) -> Circuit:
        return replace(circuit, provenance={**circuit.provenance, "relation": about})

    comparison = found.comparison
    before, after = told(comparison.before), told(comparison.after)
    return replace(
        found,
        comparison=replace(comparison, before=before, after=after),
        provenance={**found.provenance, "relation": about},
    )


def _lines(comparison: Comparison) -> list[str]:
    sets = [f"{int(getattr(comparison, name).sum())} {name}" for name in ("kept", "lost", "gained")]
    if comparison.flipped is not None:
        sets.append(f"{int(comparison.flipped.sum())} flipped")
    lines = [
        f"edges: {', '.join(sets)}; Jaccard {comparison.jaccard:.3f} (nodes "
        f"{comparison.node_jaccard:.3f})"
    ]
    if comparison.rediscovery is not None:
        found = comparison.rediscovery
        lines.append(
            f"Jaccard over {found.resamples} resamples {found.jaccard}; two discoveries of the "
            f"model before agree to {found.floor}"
        )
    if comparison.correlation is not None:
        lines.append(
            f"scores: Spearman {comparison.correlation.spearman:.3f}, mass moved "
            f"{comparison.dissimilarity:.3f} of both sides'"
        )
    if comparison.changes is not None:
        counts = comparison.changes.counts()
        lines.append(
            "against the noise: " + ", ".join(f"{n} edges {name}" for name, n in counts.items())
        )
    return lines


def _restored(found: Rewiring) -> list[str]:
    restored = found.restoration
    if restored is None:
        return []
    if not restored.n_edges:
        return ["no edge is called changed, so there is nothing to put back"]
    numbers = restored.as_dict()

    def share(name: str) -> str:
        value = numbers.get(name)
        return "undefined" if value is None else f"{value:.2f}"

    return [
        f"old values back on the {restored.n_edges} edges called changed undo "
        f"{share('recovered')} of the edit; on as many random edges {share('random_recovered')}; "
        f"the old object is first again in {share('first_restored')} of the prompts"
    ]


def _mass_tables(comparison: Comparison) -> list[Table]:
    return [
        Table(
            f"Score mass moved by {name}",
            (name, "before", "after", "moved", "share", "edges changed"),
            [_mass_row(mass) for mass in masses],
        )
        for name, masses in (("layer", comparison.by_layer()), ("role", comparison.by_role()))
    ]


def _mass_row(mass: Mass) -> tuple[str, ...]:
    numbers = [f"{value:.3g}" for value in (mass.before, mass.after, mass.moved)]
    changed = "" if mass.changed is None else str(mass.changed)
    return (mass.group, *numbers, f"{mass.share:.1%}", changed)


def _edge_table(comparison: Comparison) -> Table:
    names = ("edge", "status", "before", "after", "change", "decision")
    rows = [tuple(_cell(row.get(name)) for name in names) for row in comparison.rows()[:MOST_SHOWN]]
    return Table("Edges that changed most", names, rows)


def _head_table(found: Rewiring) -> Table:
    header = ("head", "role", "swing", "switched", "writes before", "writes after")
    rows = [
        (
            head.name,
            head.role,
            f"{head.swing:.2f}",
            "yes" if head.switched else "",
            " ".join(word.strip() for word in head.written[0]),
            " ".join(word.strip() for word in head.written[1]),
        )
        for head in found.heads
    ]
    return Table("Heads: logits moved from the old to the new object", header, rows)


def _layer_table(found: Rewiring) -> Table:
    """Median rank of both objects at the last token."""
    rows = [row for row in found.followed.rows() if row["position"] == "last"]
    layers = sorted({row["layer"] for row in rows})
    ranks = {(row["layer"], row["object"], row["model"]): row["median_rank"] for row in rows}
    columns = [(label, side) for label in ("old", "new") for side in ("before", "after")]
    return Table(
        "Median rank at the last token (0 is first)",
        ("layer", *(f"{label} {side}" for label, side in columns)),
        [
            (
                "embedding" if layer < 0 else str(layer),
                *(f"{ranks[layer, label, side]:g}" for label, side in columns),
            )
            for layer in layers
        ],
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.3g}"
