"""What stands at the head of a GGUF file: its metadata, and where its tensors lie.

Read here because the library's own reader takes seconds for a vocabulary of 50,000.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Any

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS |= {12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_ITEMS = 10_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file; `shape` as torch has it."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class Header:
    """A reader of the little-endian header, versions 2 and 3."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor], int]:
        """Metadata (arrays only by their lengths), tensors, and where their data begin."""
        if self.file.read(4) != b"GGUF":
            raise ValueError("it does not begin as one")
        version = self._number("I")
        if version not in (2, 3):
            raise ValueError(f"its version {version} is not 2 or 3")
        n_tensors, n_values = self._number("Q"), self._number("Q")
        if max(n_tensors, n_values) > _MOST_ITEMS:
            raise ValueError("its header is damaged")
        metadata = {}
        for _ in range(n_values):
            key = self._text()
            metadata[key] = self._value(self._number("I"))
        tensors = {}
        for _ in range(n_tensors):
            name = self._text()
            sides = [self._number("Q") for _ in range(self._number("I"))]
            tensors[name] = StoredTensor(
                tuple(reversed(sides)), self._number("I"), self._number("Q")
            )
        align = metadata.get("general.alignment", 32)
        return metadata, tensors, -(-self.file.tell() // align) * align

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise ValueError(f"it holds a value of the unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if count > _MOST_ITEMS:
            raise ValueError("its header is damaged")
        if inner in _NUMBERS:
            self._bytes(count * struct.calcsize(_NUMBERS[inner]))
        else:
            for _ in range(count):
                self._value(inner)
        return count

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self._bytes(struct.calcsize(kind)))[0]

    def _text(self) -> str:
        return self._bytes(self._number("Q")).decode("utf-8")

    def _bytes(self, count: int) -> bytes:
        if count > 1 << 30:
            raise ValueError("its header is damaged")
        found = self.file.read(count)
        if len(found) < count:
            raise EOFError("it is cut short")
        return found
