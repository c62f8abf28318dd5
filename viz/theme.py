"""One look for screen and paper: colours, line styles, widths and fonts.

Colours are Okabe and Ito's (2008), which people with any common form of colour blindness tell
apart; role and sign never share a channel. A node's fill says its role or kind. An edge's sign is
said twice, by colour and by line style, and its width says |score|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from circuits.base.choices import Meaning

INK = "#1F2933"
MUTED = "#6B7785"
RULE = "#D5DBE1"
STRIPE = "#F6F7F9"
PAPER = "#FFFFFF"

SINGLE_COLUMN = 3.3
"""Width of one journal column, in inches."""
DOUBLE_COLUMN = 6.8
"""Width of a journal page's text block, in inches."""

FONT = "DejaVu Sans"
"""The one family that every matplotlib brings along: the same picture on every machine."""


@dataclass(frozen=True)
class NodeStyle:
    """How a node looks: fill, outline and text colour, and its name in the legend."""

    fill: str
    line: str
    text: str
    legend: str


@dataclass(frozen=True)
class EdgeStyle:
    """How an edge looks: colour, dash pattern in units of its width (None = solid), legend."""

    colour: str
    dash: tuple[float, ...] | None
    legend: str


ROLES: Mapping[str, NodeStyle] = MappingProxyType(
    {
        "mover": NodeStyle("#FBE0A3", "#E69F00", INK, "mover head"),
        "relation": NodeStyle("#A9DFCC", "#009E73", INK, "relation head"),
        "mixture": NodeStyle("#F1D2E2", "#CC79A7", INK, "mixture head"),
    }
)
KINDS: Mapping[str, NodeStyle] = MappingProxyType(
    {
        "head": NodeStyle(PAPER, "#9AA5B1", INK, "attention head"),
        "kv": NodeStyle(STRIPE, "#9AA5B1", MUTED, "shared key-value head"),
        "mlp": NodeStyle("#E3E7EC", "#7B8794", INK, "MLP"),
        "input": NodeStyle("#3E4C59", "#3E4C59", PAPER, "input"),
        "logits": NodeStyle("#3E4C59", "#3E4C59", PAPER, "logits"),
    }
)
GROUP = NodeStyle("#DCE6EE", "#3E4C59", INK, "group of unlike nodes")
SUPPORTS = EdgeStyle("#0072B2", None, "supports the answer")
OPPOSES = EdgeStyle("#D55E00", (2.6, 1.5), "opposes the answer")
POSITIVE = EdgeStyle(SUPPORTS.colour, SUPPORTS.dash, "positive score (of unknown meaning)")
NEGATIVE = EdgeStyle(OPPOSES.colour, OPPOSES.dash, "negative score (of unknown meaning)")
COUNTS = EdgeStyle("#7B8794", None, "edge, as wide as it counts (scores have no sign)")
UNSCORED = EdgeStyle("#7B8794", None, "edge")
SHARED = EdgeStyle("#9AA5B1", (1.0, 1.6), "key-value head serves head")

KEPT = EdgeStyle("#6B7785", None, "kept")
GAINED = EdgeStyle("#009E73", None, "gained")
LOST = EdgeStyle("#D55E00", (1.0, 1.2), "lost")
FLIPPED = EdgeStyle("#CC79A7", (4.0, 1.2, 1.0, 1.2), "kept, sign flipped")
CANNOT_TELL = EdgeStyle("#E69F00", (0.8, 1.8), "gained, lost or flipped: cannot tell from noise")

SPANS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3E4C59")
"""Colours of spans, in order of use; those beyond them share the last."""

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of curves, in order of use."""

THINNEST, WIDEST = 0.35, 2.6


def node_style(kind: str, role: str = "") -> NodeStyle:
    """Style of a node: its role where it has a known one, else its kind."""
    return ROLES.get(role) or KINDS[kind]


def edge_style(score: float | None, meaning: Meaning | str = Meaning.EFFECT) -> EdgeStyle:
    """Style of an edge by the sign of its score; zero counts as support, None is unscored.

    `meaning` is what the scores say, of which some have no sign.
    """
    meaning = Meaning.of(meaning)
    if score is None:
        return UNSCORED
    if meaning == Meaning.SIZE:
        return plain_style(meaning)
    support, against = (SUPPORTS, OPPOSES) if meaning.has_sign else (POSITIVE, NEGATIVE)
    return against if score < 0 else support


def plain_style(meaning: Meaning | str) -> EdgeStyle:
    """Style of edges that are not told apart by a sign, with scores of this meaning or without."""
    return COUNTS if Meaning.of(meaning) == Meaning.SIZE else UNSCORED


def span_style(place: int, name: str, score: float | None) -> EdgeStyle:
    """Style of an edge in a span: its colour says which, its line style the sign."""
    colour = SPANS[min(place, len(SPANS) - 1)]
    return EdgeStyle(colour, OPPOSES.dash if score is not None and score < 0 else None, name)


def edge_widths(
    sizes: Float[np.ndarray, " edge"], largest: float | None = None
) -> Float[np.ndarray, " edge"]:
    """Line widths in points: `WIDEST` at the largest |score|, falling with its square root.

    The root keeps weak edges visible beside strong ones; the legend's samples give the scale.
    """
    sizes = np.abs(np.asarray(sizes, dtype=float))
    top = largest if largest is not None else sizes.max(initial=0.0)
    share = np.sqrt(sizes / top) if top > 0 else np.zeros_like(sizes)
    return THINNEST + (WIDEST - THINNEST) * share


def faded(colour: str, shares: Float[np.ndarray, " edge"]) -> Float[np.ndarray, "edge 3"]:
    """A colour mixed with the paper's, 1 being the pure colour; RGB between 0 and 1.

    Opaque: where a dashed edge lies on a solid one, transparency would make a third colour.
    """
    ink, paper = (
        np.array([int(tone[start : start + 2], 16) / 255 for start in (1, 3, 5)])
        for tone in (colour, PAPER)
    )
    shares = np.asarray(shares, dtype=float)[:, None]
    return shares * ink + (1 - shares) * paper


def edge_strengths(
    sizes: Float[np.ndarray, " edge"], largest: float | None = None
) -> Float[np.ndarray, " edge"]:
    """How much of its colour an edge shows: a crowd of weak edges recedes behind strong ones."""
    return 0.45 + 0.55 * (edge_widths(sizes, largest) - THINNEST) / (WIDEST - THINNEST)


PAPER_STYLE: Mapping[str, Any] = MappingProxyType(
    {
        "font.family": [FONT],
        "font.size": 7.0,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 7.5,
        "axes.titlelocation": "left",
        "axes.labelsize": 7.0,
        "axes.unicode_minus": True,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "xtick.minor.size": 1.5,
        "legend.frameon": False,
        "legend.fontsize": 6.5,
        "lines.linewidth": 1.4,
        # Outlines: a viewer without our font must still show what the paper shows.
        "svg.fonttype": "path",
        "svg.hashsalt": "knowledge-circuits",
        "pdf.fonttype": 42,
        "path.simplify": False,
    }
)
"""Settings of matplotlib for paper figures, used inside `rc_context`, never globally."""
