"""Circuits in files: what `Circuit.save` and `Circuit.load` do, with the scores of single pairs."""

from __future__ import annotations

from pathlib import Path

from circuits.base.arrays import save_arrays
from circuits.graph.circuit import Circuit


def save_circuit(circuit: Circuit, path: str | Path, include_pairs: bool = False) -> None:
    """Write a circuit as `*.kc.safetensors`: scores (single precision), kept bits, columns, roles,
    provenance, evidence; the scores of the single examples only with `include_pairs`.
    """
    save_arrays(path, circuit.KIND, circuit.arrays(include_pairs), circuit.metadata())


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit that `save_circuit` wrote; CircuitFileError names the file and the reason."""
    return Circuit.load(path)
