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


def read_circuit(path: Path, sign: Sign | str = Sign.UNKNOWN) -> Circuit:
    """A circuit from `*.kc.safetensors`, or `*.json` of EAP-IG or an attribution graph of ours.

    CircuitFileError says why not.

    `sign` is what a positive score says in another tool's file; OptionError where the file is this
    project's, which says it itself.
    """
    sign = Sign.of(sign, "sign")
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
