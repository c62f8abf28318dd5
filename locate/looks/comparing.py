"""Two circuits, or a model and its edit, held against each other: what is said and stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuits.base.display import drawn
from circuits.base.origin import code_commit, timestamp
from circuits.base.plain import plain
from circuits.base.writing import as_csv, atomic_write
from circuits.graph.agreement import Mass
from circuits.graph.comparison import Comparison
from locate.changes.rewired import LABELS, SIDES, Rewiring
from locate.looks.look import Look, Table, page, telling
from locate.looks.says import says
from locate.looks.says.words import count

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
    "beyond what other facts and other corrupted subjects would change (of one fact: other "
    "corrupted subjects), at a false discovery rate of 5 %."
)


def edit_look(found: Rewiring) -> Look:
    """A rewiring: tables, circuits before and after, picture."""
    about = str(found.provenance["relation"])
    comparison = found.comparison
    tables = [*_mass_tables(comparison), _edge_table(comparison), _head_table(found)]
    tables.append(_layer_table(found))
    lines = [*_lines(comparison), *_restored(found)]
    summary = {
        "model": found.provenance.get("model"),
        "question": about,
        "pairs": found.provenance["pairs"],
        **plain(found.as_dict()),
        "seed": found.provenance["seed"],
        "commit": code_commit(),
        "created": timestamp(),
        "warnings": found.provenance["notes"],
    }
    files = _files(comparison, f"{about} before and after the edit")
    files["rewiring.kc.safetensors"] = found.save
    files["layers.csv"] = lambda path: atomic_write(path, as_csv(found.followed.rows()))
    heads = [head.as_row() for head in found.heads]
    files["heads.csv"] = lambda path: atomic_write(path, as_csv(heads))
    return _look("compare", found, summary, tables, lines, files, f"What the edit did to {about}")


def circuits_look(
    comparison: Comparison, paths: tuple[Path, Path] = (Path("before"), Path("after"))
) -> Look:
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
    lines = _lines(comparison)
    return _look("compare-circuits", comparison, summary, tables, lines, files, "Two circuits")


def _look(
    schema: str,
    found: Comparison | Rewiring,
    summary: Mapping[str, Any],
    tables: Sequence[Table],
    lines: Sequence[str],
    files: dict[str, Callable[[Path], Any]],
    title: str,
) -> Look:
    shown = [table for table in tables if table.rows]
    text = page(title, says(found), lines, shown, _LEGEND)
    files["summary.md"] = lambda path: atomic_write(path, text)
    return Look(schema, says(found), summary, shown, lines, files)


def _files(comparison: Comparison, title: str) -> dict[str, Callable[[Path], Any]]:
    return {
        "before.kc.safetensors": comparison.before.save,
        "after.kc.safetensors": comparison.after.save,
        "comparison.kc.safetensors": comparison.save,
        "edges.csv": lambda path: atomic_write(path, as_csv(comparison.rows())),
        "difference.svg": lambda path: drawn(comparison, path, title=title),
    }


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
    if found.restoration is None:
        return []
    if not found.restoration.n_edges:
        return ["no edge is called changed, so there is nothing to put back"]
    places = {"on the pairs that found them": found.restoration}
    if found.elsewhere is not None:
        prompts = count(len(found.elsewhere.edited), "prompt")
        places[f"on {prompts} in other wordings"] = found.elsewhere
    lines = []
    for place, restored in places.items():
        numbers = restored.as_dict()

        def share(name: str, numbers: Mapping[str, Any] = numbers) -> str:
            value = numbers.get(name)
            return "undefined" if value is None else f"{value:.2f}"

        lines.append(
            f"old values back on the {restored.n_edges} edges called changed undo "
            f"{share('recovered')} of the edit {place}; on as many random "
            f"edges {share('random_recovered')}; "
            f"the {found.objects[0]} is first again in {share('first_restored')} of the prompts"
        )
    return lines


def _mass_tables(comparison: Comparison) -> list[Table]:
    groups = {
        "layer": comparison.by_layer(),
        "role": comparison.by_role(),
        "span": comparison.by_span(),
    }
    return [
        _filled(
            Table(
                f"Score mass moved by {name}",
                (name, "before", "after", "moved", "share", "edges changed"),
                [_mass_row(mass) for mass in sorted(masses, key=lambda mass: -mass.moved)],
            )
        ).first("summary.json", MOST_SHOWN)
        for name, masses in groups.items()
    ]


def _filled(table: Table) -> Table:
    """Without the columns that have no cell, as decisions where there is no noise floor."""
    if not table.rows:
        return table
    kept = [at for at, column in enumerate(zip(*table.rows, strict=True)) if any(column)]
    rows = [tuple(row[at] for at in kept) for row in table.rows]
    return Table(table.title, tuple(table.header[at] for at in kept), rows)


def _mass_row(mass: Mass) -> tuple[str, ...]:
    numbers = [f"{value:.3g}" for value in (mass.before, mass.after, mass.moved)]
    changed = "" if mass.changed is None else str(mass.changed)
    return (mass.group, *numbers, f"{mass.share:.1%}", changed)


def _edge_table(comparison: Comparison) -> Table:
    names = ("edge", "status", "before", "after", "change", "decision")
    rows = [tuple(_cell(row.get(name)) for name in names) for row in comparison.rows()]
    title = "Edges that changed most"
    if comparison.changes is not None:
        title += " (cannot tell: with other facts or corrupted subjects they change as much)"
    return _filled(Table(title, names, rows)).first("edges.csv", MOST_SHOWN)


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
        for head in sorted(found.heads, key=lambda head: -abs(head.swing))
    ]
    first, second = found.objects
    return Table(f"Heads: logits moved from the {first} to the {second}", header, rows)


def _layer_table(found: Rewiring) -> Table:
    """Median rank of both objects at the last token."""
    rows = [row for row in found.followed.rows() if row["position"] == "last"]
    every = sorted({row["layer"] for row in rows})
    ranks = {(row["layer"], row["object"], row["model"]): row["median_rank"] for row in rows}
    columns = [(label, side) for label in LABELS for side in SIDES]
    names = dict(zip(LABELS, found.objects if found.asks_otherwise else LABELS, strict=True))
    grid = [[ranks[layer, *column] for column in columns] for layer in every]
    layers = [every[state] for state in telling(np.array(grid) - 1)]
    left = len(every) - len(layers)
    return Table(
        "Median rank at the last token (1 is the top)",
        ("layer", *(f"{names[label]} {side}" for label, side in columns)),
        [
            (
                "embedding" if layer < 0 else str(layer),
                *(f"{ranks[layer, label, side]:,g}" for label, side in columns),
            )
            for layer in layers
        ],
        f"{left} more in layers.csv" if left else "",
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.3g}"
