"""Numbers as sentences have them: thousands parted, shares in per cent, intervals in brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from circuits.base.display import token_name, visible
from circuits.base.intervals import Interval
from circuits.base.origin import model_label


def count(n: int, one: str = "", many: str = "") -> str:
    """`1,949 edges`: a number and what it counts, `many` where the plural is not `one` + s."""
    words = (one if n == 1 else many or f"{one}s") if one else ""
    return f"{n:,} {words}".strip()


def percent(share: float) -> str:
    """A share as per cent, without a digit that says nothing: 97.5 %, 0 %."""
    return f"{tenths(share)} %"


def tenths(share: float) -> str:
    """The number of `percent`, without its sign."""
    text = f"{100 * share:,.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def percents(share: Interval) -> str:
    """A share with its 95 % interval, where it has one: 97.5 % [96.1, 98.2]."""
    if not np.isfinite(share.low):
        return percent(share.value)
    return f"{percent(share.value)} [{tenths(share.low)}, {tenths(share.high)}]"


def figure(value: float, digits: int = 2) -> str:
    """A number with so many digits after the point, thousands parted; no minus before a zero."""
    return f"{round(float(value), digits) + 0.0:,.{digits}f}"


def figures(value: Interval, digits: int = 2) -> str:
    """A number with its 95 % interval, where it has one."""
    text = figure(value.value, digits)
    if not np.isfinite(value.low):
        return text
    return f"{text} [{figure(value.low, digits)}, {figure(value.high, digits)}]"


def probability(p: float) -> str:
    """p with three digits after the point; `below 0.001` where these would all be 0."""
    return "below 0.001" if 0 < p < 0.0005 else f"{p:.3f}"


def quoted(text: str) -> str:
    """A token or answer within a sentence, on one line and not too long."""
    name = token_name(text)
    return f"'{name if len(name) <= 60 else name[:57] + '...'}'"


def prompt(text: str) -> str:
    """A prompt within a sentence: its end, which the answer continues, where it is long."""
    line = visible(text.strip())
    return f"'{line}'" if len(line) <= 80 else f"'... {line[-76:]}'"


def model_of(origin: Mapping[str, Any]) -> str:
    """The model's name, of a path the last part; `the model` where it is not known."""
    return model_label(origin) or "the model"


def and_so_on(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def sentence(text: str) -> str:
    """On one line, with a capital and a full stop."""
    text = visible(text)
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
