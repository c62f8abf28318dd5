"""The pictures of the README, made on an embedded model: `python -m experiments.pictures`.

Times and commits are left out of their metadata, so that the same code, libraries and machine give
the same bytes and git shows a picture as changed only where it did change.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.errors import KnowledgeCircuitsError

if TYPE_CHECKING:
    from circuits.model import Model
    from experiments.discover import Discovery

GALLERY = Path(__file__).parent.parent / "viz" / "gallery"
MODEL = "facts-gpt2"
RELATION = "country_capital"
N_PAIRS = 32
N_DRAWN = 60
"""Edges in the picture of the circuit: few enough to follow each of them."""
PROMPT, SUBJECT, ANSWER = "The capital city of South Korea is called", "South Korea", "Seoul"
UNSTABLE = ("created", "commit")


def draw_gallery(folder: Path) -> list[Path]:
    """Write `circuit.svg`, `curve.svg` and `trace.svg` into the folder; returns their paths."""
    from circuits.model import load

    model = load(MODEL, device="cpu")
    folder.mkdir(parents=True, exist_ok=True)
    found = _discovery(model)
    return [
        _draw_circuit(found, folder / "circuit.svg"),
        _draw_curve(found, folder / "curve.svg"),
        _draw_trace(model, folder / "trace.svg"),
    ]


def _discovery(model: Model) -> Discovery:
    """What `kc discover --relation country_capital --curve` finds."""
    from experiments.discover import Search, discover
    from experiments.examples import Source, collect

    examples = collect(model, Source(relation=RELATION, limit=N_PAIRS))
    return discover(model, examples, Search(curve=True, roles=True))


def _draw_circuit(found: Discovery, path: Path) -> Path:
    from viz.paper import draw_circuit

    circuit = replace(found.circuit, provenance=_stable(found.circuit.provenance))
    return draw_circuit(circuit, path, f"{RELATION} in {MODEL}", max_edges=N_DRAWN)


def _draw_curve(found: Discovery, path: Path) -> Path:
    from viz.plots import draw_faithfulness

    assert found.curve is not None
    assert found.random_curve is not None
    curves = {str(found.search.locator): found.curve, "random": found.random_curve}
    return draw_faithfulness(curves, path, provenance=_stable(found.circuit.provenance))


def _draw_trace(model: Model, path: Path) -> Path:
    from locate.tracing import trace
    from viz.plots import draw_trace

    return draw_trace(trace(model, PROMPT, SUBJECT, ANSWER, window=1), path, PROMPT)


def _stable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key not in UNSTABLE}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: draws into `--out`, prints the paths and returns the exit code."""
    parser = ArgumentParser(prog="python -m experiments.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=GALLERY, help="folder, default viz/gallery")
    try:
        for path in draw_gallery(parser.parse_args(argv).out):
            print(path)
    except KnowledgeCircuitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
