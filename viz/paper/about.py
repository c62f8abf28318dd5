"""What the caption of a circuit's picture says: of which model it is, and how it did."""

from __future__ import annotations

from circuits.graph.circuit import Circuit
from viz.layout import Layout
from viz.paper import canvas

READING = "Edges rise. A head reads queries at its left, keys in the middle, values at its right."
FOLDED = "Dotted lines: layers in which nothing is drawn."
UNNAMED = f"Names that would be smaller than {canvas.SMALLEST:g} pt are left out."


def describe(circuit: Circuit, layout: Layout) -> str:
    """Model, relation, method; the whole circuit's faithfulness and on what; the edges drawn."""
    origin, parts = circuit.provenance, describe_origin(circuit)
    every = layout.n_drawn == layout.n_kept
    edges = f"{layout.n_kept:,} edge{'s' * (layout.n_kept != 1)}"
    known = isinstance(origin.get("faithfulness"), int | float)
    if known:
        where = f" on {on}" if (on := origin.get("faithfulness_on")) else ""
        found = f"faithfulness {origin['faithfulness']:.2f}{where}"
        parts.append(f"{edges}, {found}" if every else f"all {edges}: {found}")
    elif every:
        parts.append(edges)
    if not every:
        of_all = "" if known else f" of {edges}"
        which = "" if layout.picked else "strongest "
        parts.append(f"{which}{layout.n_drawn:,}{of_all} drawn")
    return canvas.joined(parts)


def describe_origin(circuit: Circuit) -> list[str]:
    """Model, relation and method, as far as they are known."""
    origin = circuit.provenance
    parts = canvas.asked(origin)
    named = [str(origin[key]) for key in ("method", "metric") if key in origin]
    if "steps" in origin:
        named.append(f"({origin['steps']} steps)")
    return [*parts, " ".join(named)] if named else parts
