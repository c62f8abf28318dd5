"""What every result can do: say what it is, become a table, go to a file and come back from it.

A class of results has a `KIND`, the word that its files carry, and four methods: `arrays` and
`metadata` (what is stored), `from_arrays` (the inverse) and `rows` (what is read). The rest
follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np

from circuits.base.arrays import ContentError, Layout, read_intact, save_arrays
from circuits.base.display import Shown, explored, is_page, paged, visible
from circuits.base.errors import FileFormatError, OptionError
from circuits.base.origin import model_label
from circuits.base.writing import to_json

R = TypeVar("R", bound="Result")


_Held = TypeVar("_Held")


class Result(Shown):
    """A result with a kind; `FAULT` is the error of a file that does not hold it."""

    KIND: ClassVar[str]
    FAULT: ClassVar[type[FileFormatError]] = FileFormatError

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file; `metadata` holds the rest."""
        raise NotImplementedError

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values; by default nothing."""
        return {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Result:
        """The inverse of `arrays` and `metadata`; OptionError where they make no such result."""
        raise NotImplementedError

    def rows(self) -> list[dict[str, Any]]:
        """The numbers as records, for tables."""
        raise NotImplementedError

    @classmethod
    def check_header(cls, layouts: Mapping[str, Layout], metadata: Mapping[str, Any]) -> None:
        """Refuse a file by its header alone (ContentError), before an array is allocated."""

    def parts(self) -> Sequence[Any]:
        """What is drawn one by one on paper: usually the result itself."""
        return (self,)

    def heading(self) -> str | None:
        """A title for its picture: relation and model, as far as they are known."""
        origin = getattr(self, "provenance", {})
        known = [str(origin.get("relation") or ""), model_label(origin)]
        return " in ".join(filter(None, known)) or None

    def explore(self, **options: Any) -> None:
        """Open the app on this result within a notebook; options as of `viz.app.explore`."""
        explored(self, **options)

    def save(self, path: str | Path) -> None:
        """Write to a `*.kc.safetensors` file with a hash over its content.

        A path that ends in .html gets a page instead, to be read in any browser.
        """
        if is_page(path):
            paged(self, path)
            return
        save_arrays(path, self.KIND, self.arrays(), self.metadata())

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read what `save` wrote; FileFormatError names the file and what is wrong with it."""
        try:
            arrays, metadata = read_intact(Path(path), cls.KIND, cls.check_header)
        except ContentError as reason:
            raise cls.FAULT(path, str(reason)) from None
        try:
            found = cls.from_arrays(arrays, metadata)
            _check_same(found, arrays, metadata)
            found.summary()
        except Exception as error:  # the hash says who wrote it so, not that it makes sense
            reason = visible(f"{error}".strip() or type(error).__name__)
            raise cls.FAULT(path, f"is no {cls.KIND}: {reason:.200}") from None
        return cast("R", found)


def numeric(arrays: Mapping[str, np.ndarray], name: str, kinds: str, n_axes: int) -> np.ndarray:
    """An array of a file; OptionError unless it has so many axes and one of the types of numpy."""
    if name not in arrays:
        raise OptionError(f"the array {name!r} is missing")
    found = arrays[name]
    if found.dtype.kind not in kinds or found.ndim != n_axes:
        raise OptionError(f"the array {name!r} has another type or number of axes")
    return found


def within(named: Mapping[str, _Held], prefix: str) -> dict[str, _Held]:
    """What has a name that begins so, without the prefix: arrays, or their layouts."""
    return {
        name.removeprefix(prefix): each for name, each in named.items() if name.startswith(prefix)
    }


def prefixed(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays with a prefix before their names."""
    return {prefix + name: array for name, array in arrays.items()}


def texts(values: Any) -> tuple[str, ...]:
    """A list of texts of a file; OptionError where it holds anything else."""
    if not isinstance(values, list | tuple) or not all(isinstance(each, str) for each in values):
        raise OptionError("a list of texts holds something else")
    return tuple(values)


def _check_same(
    found: Result, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """OptionError unless the result would be written as it was read.

    A reader that turns a number into text, or truth into a number, is found out here.
    """
    for name, again in found.arrays().items():
        stored = arrays.get(name)
        if stored is None or (stored.dtype, stored.shape) != (again.dtype, again.shape):
            raise OptionError(f"the array {name!r:.60} has another type or shape")
    for name, value in json.loads(to_json(found.metadata())).items():
        if name in metadata and not _fits(value, metadata[name]):
            raise OptionError(f"{name!r:.60} does not fit the rest")


def _fits(value: Any, stored: Any) -> bool:
    """Whether a value is what was stored; an older file may lack some of it."""
    if isinstance(value, dict) and isinstance(stored, dict):
        return all(_fits(each, stored[name]) for name, each in value.items() if name in stored)
    if isinstance(value, list) and isinstance(stored, list):
        return len(value) == len(stored) and all(map(_fits, value, stored))
    return type(value) is type(stored) and value == stored
