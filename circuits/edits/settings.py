"""Hyperparameters of the edit methods: by model where known, else by model type and depth.

A method's settings are one class of options with a field `layers`. They are put together from its
defaults, the tables of `hyperparameters.toml` (all models, model type, model) and the caller's
choices, each winning over what stands before.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.options import build
from circuits.model.model import Model

SETTINGS_FILE = Path(__file__).with_name("hyperparameters.toml")
_GGUF = re.compile(r"([.-](i?q\d\w*|b?f\d+|fp\d+))?\.gguf$")
S = TypeVar("S")


@dataclass(frozen=True)
class Origin:
    """Where settings come from, for the record: what each layer of them was taken from."""

    settings: str
    layers: str

    def describe(self) -> str:
        """One line."""
        return f"settings: {self.settings}; layers: {self.layers}"


def settings_for(
    model: Model,
    method: str,
    kind: type[S],
    layers: Sequence[int] | None = None,
    choices: Mapping[str, Any] | None = None,
) -> tuple[S, Origin]:
    """A method's settings for a model, and where they come from.

    `kind` is the method's settings class; `choices` overrides single fields (a nested settings
    class by a mapping), and may have a `DEPTH` as the tables' for models without one.
    `rome-original` reads ROME's tables, and other variants their method's.
    OptionError for a field that does not exist or a layer that the model does not have.
    """
    table, entry = _table(model, str(method))
    given = as_mapping(choices)
    depth = table.pop("depth", getattr(kind, "DEPTH", (0.35, 0.0)))
    if layers is not None:
        layer_origin = "given"
        given["layers"] = tuple(layers)
    elif "layers" in given:
        layer_origin = "given"
    elif "layers" in table:
        layer_origin = f"table of {entry}"
    else:
        table["layers"] = layers_by_depth(model.n_layers, *depth)
        layer_origin = f"default by depth ({entry})"
    found = build(kind, merge(table, given), str(method))
    check_layers(model, found.layers)  # type: ignore[attr-defined]
    return found, Origin(f"table of {entry}" if table else "defaults", layer_origin)


def as_mapping(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a caller set; OptionError for anything but names with values."""
    if settings is not None and not isinstance(settings, Mapping):
        raise OptionError(f"settings are names with values, not {settings!r:.60}")
    return dict(settings or {})


def layers_by_depth(n_layers: int, last: float, share: float) -> tuple[int, ...]:
    """The layers that end at the fraction `last` of the model; `share` of all, at least one."""
    stop = min(n_layers - 1, round(last * n_layers)) + 1
    count = min(stop, max(1, round(share * n_layers)))
    return tuple(range(stop - count, stop))


def check_layers(model: Model, layers: Sequence[int]) -> None:
    """OptionError unless the layers are the model's, in ascending order, and at least one."""
    if not layers:
        raise OptionError("name at least one layer to edit")
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise OptionError(
                f"layer {layer} is out of range: {model.name!r} has layers 0 to "
                f"{model.n_layers - 1}"
            )
    if list(layers) != sorted(set(layers)):
        raise OptionError(f"layers must ascend and not repeat: {', '.join(map(str, layers))}")


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """The values of both, of nested ones too; the second wins."""
    merged = dict(low)
    for name, value in high.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def _table(model: Model, method: str) -> tuple[dict[str, Any], str]:
    """The method's values for the model, with the name of the most particular table used."""
    tables, kind, name = _tables(), model.config.model_type, _entry(model)
    by_type, by_model = tables["type"].get(kind, {}), tables["model"].get(name, {})
    keys = dict.fromkeys((method.partition("-")[0], method))
    of_type = f"model type {kind}"
    table, used = dict[str, Any](), of_type
    for entry, source in (("all models", tables["all"]), (of_type, by_type), (name, by_model)):
        for key in keys:
            if key in source:
                table, used = merge(table, source[key]), entry
    return table, used


def _entry(model: Model) -> str:
    """Name of the model's own tables: its name must be listed there and its shape agree.

    Of a path or hub name the last part counts, of a GGUF file without its quantisation.
    """
    base = model.name.partition("@")[0].rstrip("/").rsplit("/", 1)[-1].lower()
    base = _GGUF.sub("", base)
    for name, table in _tables()["model"].items():
        if base in table["names"] and table["shape"] == [model.n_layers, model.d_model]:
            return name
    return ""


@cache
def _tables() -> dict[str, Any]:
    try:
        tables = tomllib.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise FileFormatError(SETTINGS_FILE, f"not TOML: {error}") from None
    return {"all": {}, "type": {}, "model": {}} | tables
