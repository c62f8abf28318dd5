"""What the caption of a circuit's picture says: what was asked, of which model, and how it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.graph.circuit import Circuit
from viz.layout import Layout
from viz.paper import canvas

READING = "Edges rise. A head reads queries at its left, keys in the middle, values at its right."
FOLDED = "Dotted lines: layers in which nothing is drawn."
PUNCTUATION = ".,:;!?\"'"
UNNAMED = f"Names that would be smaller than {canvas.SMALLEST:g} pt are left out."


def question(circuit: Circuit) -> str:
    """The first pair that a circuit was found on: prompt, answer, and what it is set against.

    Of a corrupted prompt that differs in a few words only these are named. Empty where the file
    holds no pairs.
    """
    pairs = circuit.evidence.get("pairs")
    if not isinstance(pairs, Sequence) or not pairs:
        return ""
    first = pairs[0]
    if not isinstance(first, Mapping) or not {"clean", "corrupted", "answer", "foil"} <= set(first):
        return ""
    start = first.get("start", 0)
    clean, corrupted = (str(first[side])[start:].strip() for side in ("clean", "corrupted"))
    other = changed(clean, corrupted) or f"“{canvas.cut(corrupted)}”"
    asked = f"“{canvas.cut(clean)}” → {_word(first['answer'])}"
    asked += f", against {other} → {_word(first['foil'])}"
    more = len(pairs) - 1
    return asked + (f", and {more:,} more pair{'s' * (more > 1)}" if more else "")


def changed(clean: str, corrupted: str) -> str:
    """The words of a corrupted prompt that the clean one does not have in their place."""
    before, after = clean.split(), corrupted.split()
    room = min(len(before), len(after))
    front = next((i for i in range(room) if before[i] != after[i]), room)
    room -= front
    back = next((i for i in range(room) if before[-1 - i] != after[-1 - i]), room)
    words = " ".join(after[front : len(after) - back]).strip(PUNCTUATION)
    return words if words and (front or back) else ""


def _word(text: Any) -> str:
    return canvas.token(str(text).strip())


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
        parts.append(f"strongest {layout.n_drawn:,}{of_all} drawn")
    return canvas.joined(parts)


def describe_origin(circuit: Circuit) -> list[str]:
    """Model, relation and method, as far as they are known."""
    origin = circuit.provenance
    parts = canvas.asked(origin)
    named = [str(origin[key]) for key in ("method", "metric") if key in origin]
    if "steps" in origin:
        named.append(f"({origin['steps']} steps)")
    return [*parts, " ".join(named)] if named else parts
