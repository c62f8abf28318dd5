"""The pictures of the README: `python -m experiments.workshop.pictures`.

Those of an embedded model; with `--real` that of a pretrained language model.

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

from circuits.base.errors import KnowledgeCircuitsError

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.changes.rewired import Rewiring
    from locate.discovery import Discovery

GALLERY = Path(__file__).parents[2] / "docs" / "pictures"
REAL, MODEL = "smollm2-135m", "facts-gpt2"
RELATION = "country_capital"
N_PAIRS = 32
PARTNERS = 8
PROMPT, SUBJECT, ANSWER = "The capital city of South Korea is called", "South Korea", "Seoul"
UNSTABLE = ("created", "commit", "seconds_computing", "seconds_this_run")
OF_RUNS = (("circuits", "faithfulness"), ("evolution", "overlap"))
"""Figures of analyses that the README shows."""


def draw_gallery(folder: Path) -> list[Path]:
    """Write the pictures into the folder; returns their paths."""
    from circuits.model.model import load

    model = load(MODEL, device="cpu")
    folder.mkdir(parents=True, exist_ok=True)
    found = _discovery(model)
    return [
        _draw_circuit(found, folder / "circuit.svg"),
        _draw_curve(found, folder / "curve.svg"),
        _draw_trace(model, folder / "trace.svg"),
        _draw_difference(_edited(model), folder / "difference.svg"),
    ]


def draw_real(folder: Path) -> list[Path]:
    """The picture of the pretrained model's circuit, which takes a minute; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw_circuit(_real_discovery(), folder / "real.svg")]


def _discovery(model: Model) -> Discovery:
    """What `kc discover --relation country_capital --curve` finds."""
    from locate.discover import discover
    from locate.examples import collect
    from locate.options import Source
    from locate.search import Search

    examples = collect(model, Source(relation=RELATION, n_pairs=N_PAIRS))
    return discover(model, examples, Search(edges=200, curve=True, roles=True))


def _real_discovery() -> Discovery:
    """What `make demo` finds."""
    from circuits.model.model import load
    from locate.discover import discover
    from locate.examples import collect
    from locate.options import Source
    from locate.search import DEFAULT_FAITHFULNESS, Search

    model = load(REAL, device="cpu")
    examples = collect(model, Source(relation=RELATION, n_pairs=N_PAIRS))
    return discover(model, examples, Search(faithfulness=DEFAULT_FAITHFULNESS, roles=True))


def _draw_circuit(found: Discovery, path: Path) -> Path:
    from viz.paper.circuit import draw_circuit

    circuit = replace(found.circuit, provenance=_stable(found.circuit.provenance))
    title = f"{RELATION} in {circuit.provenance['model']}"
    return draw_circuit(circuit, path, title)


def _draw_curve(found: Discovery, path: Path) -> Path:
    from circuits.graph.curve import FaithfulnessCurves
    from viz.paper.curves import draw_faithfulness

    assert found.curve is not None
    assert found.random_curve is not None
    curves = {str(found.search.method): found.curve, "random": found.random_curve}
    return draw_faithfulness(FaithfulnessCurves(curves, _stable(found.circuit.provenance)), path)


def _draw_trace(model: Model, path: Path) -> Path:
    from locate.states.tracing import trace
    from viz.paper.curves import draw_trace

    return draw_trace(trace(model, PROMPT, SUBJECT, ANSWER, window=1), path, PROMPT)


def _edited(model: Model) -> Rewiring:
    """What `kc edit --method rome` and `kc compare` find of one edit."""
    from circuits.edits.edit import EditRequest
    from circuits.edits.methods.run import edit
    from locate.compare import about_the_edit, compare_edit
    from locate.search import Search

    request = EditRequest("The capital of {} is", "France", "Rome", "Paris", RELATION)
    delta = edit(model, request, "rome").delta
    assert delta is not None
    asked = about_the_edit(model, delta, PARTNERS, 0)
    return compare_edit(model, delta, asked, Search(roles=True), draws=0)


def _draw_difference(found: Rewiring, path: Path) -> Path:
    from viz.paper.difference import draw_difference

    before, after = (
        replace(circuit, provenance=_stable(circuit.provenance))
        for circuit in (found.comparison.before, found.comparison.after)
    )
    shown = replace(found.comparison, before=before, after=after)
    return draw_difference(shown, path, "France's capital, edited to Rome")


def draw_screens(folder: Path) -> list[Path]:
    """Take the pictures of the app; returns their paths. OptionError without a browser."""
    from circuits.model.model import load
    from experiments.workshop.screens import find_browser, take_screens
    from viz import offer

    find_browser()
    offer()  # a discovery draws its own picture beside its files
    folder.mkdir(parents=True, exist_ok=True)
    model = load(MODEL, device="cpu")
    question = PROMPT, SUBJECT, ANSWER
    return take_screens(model, _discovery(model), _edited(model), question, folder)


def draw_runs(runs: Path, folder: Path) -> list[Path]:
    """The README's figures of a finished `kc run all`, from what it stored; returns their paths."""
    from experiments.analyses.engine.registry import analysis
    from experiments.analyses.engine.running import redraw

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in OF_RUNS:
        run = redraw(analysis(name), runs / name)
        (chosen,) = [each for each in run.report.figures if each.name == figure]
        paths.append(folder / f"run-{name}.svg")
        chosen.draw(paths[-1], _stable(run.as_dict()["provenance"]))
    return paths


def _stable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key not in UNSTABLE}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: draws into `--out`, prints the paths and returns the exit code."""
    parser = ArgumentParser(prog="python -m experiments.workshop.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=GALLERY, help="folder, default docs/pictures")
    parser.add_argument(
        "--real", action="store_true", help="draw the pretrained model's circuit instead"
    )
    parser.add_argument(
        "--screens", action="store_true", help="take the app's pictures instead (needs Chromium)"
    )
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="draw those of a finished `kc run all` instead"
    )
    chosen = parser.parse_args(argv)
    try:
        if chosen.runs is not None:
            paths = draw_runs(chosen.runs, chosen.out)
        else:
            draw = draw_real if chosen.real else draw_gallery
            paths = (draw_screens if chosen.screens else draw)(chosen.out)
        for path in paths:
            print(path)
    except KnowledgeCircuitsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
