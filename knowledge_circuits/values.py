"""What callers of the door may hand in for a model, a circuit, an edit or texts, as that value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuits.base.errors import OptionError
from circuits.edits.edit import WeightDelta
from circuits.graph.circuit import Circuit
from circuits.model.model import Model


def is_path(value: Any) -> bool:
    """Whether this names a file, and no head such as `a6.h1`."""
    named = isinstance(value, str | Path) and Path(value).suffix != ""
    return named and re.fullmatch(r"a\d+\.(h|kv)\d+", str(value)) is None


def circuit_of(value: Any) -> Circuit:
    """A circuit, a discovery's, or a file's."""
    from circuits.files.reading import read_circuit

    if isinstance(value, Circuit):
        return value
    found = getattr(value, "circuit", None)
    if isinstance(found, Circuit):
        return found
    if isinstance(value, str | Path):
        return read_circuit(Path(value))
    raise OptionError(f"a {type(value).__name__} is no circuit and holds none")


def delta_of(value: Any) -> WeightDelta:
    """An edit's change of weights, or a file's."""
    if isinstance(value, str | Path):
        return WeightDelta.load(value)
    found = value if isinstance(value, WeightDelta) else getattr(value, "delta", None)
    if not isinstance(found, WeightDelta):
        raise OptionError(f"a {type(value).__name__} holds no change of weights to compare")
    return found


def texts_of(value: Any) -> list[Any]:
    """Examples of a list of texts or records, or of a file; OptionError for anything else."""
    from circuits.edits.parts.examples import Example, read_examples

    if isinstance(value, str | Path):
        return read_examples(value)
    if not isinstance(value, Sequence):
        raise OptionError(f"texts are a list, or the path of a file, not {value!r:.40}")
    made = []
    for each in value:
        if isinstance(each, dict):
            text = str(each.get("prompt", each.get("text", "")))
            each = Example(text, each.get("answer"))
        each = Example(each) if isinstance(each, str) else each
        if not isinstance(each, Example):
            raise OptionError(
                f"a text is a string, or a dictionary with `prompt` and `answer`, not {each!r:.40}"
            )
        made.append(each)
    return made


def loaded_model(model: Any) -> Model:
    """A model, or the one of this name or folder; OptionError for anything else."""
    from circuits.model.model import Model, load

    if isinstance(model, str | Path):
        return load(str(model))
    if not isinstance(model, Model):
        raise OptionError(
            f"a model is what `load` gives, or its name or folder, not a {type(model).__name__}"
        )
    return model
