"""Circuits from files of this project and of others, with what a positive score means.

Imports no torch: showing and exporting a stored circuit needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from circuits.base.choices import Sign
from circuits.base.errors import OptionError
from circuits.files.exchange import load_eap_ig, signed
from circuits.files.neuronpedia import is_graph, load_neuronpedia
from circuits.graph.circuit import Circuit

STORED = "*.kc.safetensors"
MAIN = (
    *("rewiring", "circuit", "comparison", "average_trace", "average_lens", "trace", "lens"),
    *("roles", "edit"),
)
"""Which of a folder's results is meant where none is named, the first that is there."""


def main_result(path: Path, name: str) -> Path:
    """The file of a result: the path itself, or in a folder the one that its command is about.

    OptionError, which lists them, where several could be meant.
    """
    if path.is_file():
        return path
    stored = {each.name.removesuffix(STORED[1:]): each for each in sorted(path.glob(STORED))}
    chosen = next((stored[each] for each in MAIN if each in stored), None)
    if chosen is None and len(stored) == 1:
        [chosen] = stored.values()
    if chosen is None:
        inside = sorted(each.relative_to(path).as_posix() for each in path.rglob(STORED))
        listed = f"; name one: {', '.join(inside[:8])}" if inside else ""
        raise OptionError(f"{name} is not one stored result{listed}")
    return chosen


def read_circuit(path: Path, sign: Sign | str = Sign.UNKNOWN) -> Circuit:
    """A circuit from `*.kc.safetensors`, or `*.json` of EAP-IG or an attribution graph of ours.

    A folder stands for the circuit in it (`main_result`). CircuitFileError says why not.

    `sign` is what a positive score says in another tool's file; OptionError where the file is this
    project's, which says it itself.
    """
    sign = Sign.of(sign, "sign")
    path = main_result(path, str(path)) if path.is_dir() else path
    if path.suffix.lower() != ".json":
        circuit = Circuit.load(path)
    else:
        circuit = load_neuronpedia(path) if is_graph(path) else load_eap_ig(path)
    if sign == Sign.UNKNOWN:
        return circuit
    if circuit.provenance.get("sign") != Sign.UNKNOWN:
        raise OptionError(
            f"{path} says itself that positive scores support; `sign` is for other tools' files"
        )
    return signed(circuit, sign)


def check_sign(circuit: Circuit, path: Path) -> Circuit:
    """The circuit; OptionError where it has scores of which nobody said what a positive one says.

    For what uses the scores' signs. Scores that are all zero say nothing that could be mistaken.
    """
    scores = circuit.scores
    unsaid = circuit.provenance.get("sign") == Sign.UNKNOWN
    if unsaid and scores is not None and scores.values.any():
        raise OptionError(
            f"{path} is another tool's and does not say what a positive score means: add `sign` "
            "supports (the answer, as a score made with the loss) or opposes (as one made with the "
            "metric)"
        )
    return circuit


def both_signed(paths: Sequence[Path], sign: Sign | str = Sign.UNKNOWN) -> list[Circuit]:
    """Circuits whose signs say the same; `sign` is for those of other tools, if there are any."""
    sign = Sign.of(sign, "sign")
    read = [read_circuit(path) for path in paths]
    unsaid = [circuit.provenance.get("sign") == Sign.UNKNOWN for circuit in read]
    if sign != Sign.UNKNOWN and not any(unsaid):
        raise OptionError("these files say themselves what positive scores mean: leave out `sign`")
    told = [signed(each, sign) if on else each for each, on in zip(read, unsaid, strict=True)]
    return [check_sign(each, path) for each, path in zip(told, paths, strict=True)]
