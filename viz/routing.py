"""Curves between nodes that no other node stands in the way of.

Every curve is a function x(y) that rises from the top of its source to the bottom of its
destination, so it meets another node only inside that node's *level*, the band of heights that
the nodes of one row cover. Two families are tried, simplest first:

1. one cubic with vertical ends, straight or bowed to a side by several widths;
2. a swing into a *channel* (the gap between two columns, free at every height), a vertical run in
   it, and a swing out to the destination, with swings over many levels, then over ever fewer.

A swing that ends below the first level above the source meets no node at all; so the last member
of the second family is always free, at any density.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

HALF_WIDTH = 0.37
HALF_HEIGHT = 0.15
CLEARANCE = 0.1  # kept free beside a box, and therefore the most that a lane may move a curve
CELL = 0.02
STRAIGHT = (0.0, 0.0)
BOWS = (STRAIGHT, (0.7, 0.7), (-0.7, -0.7), (0.9, 0.0), (-0.9, 0.0), (0.0, 0.9), (0.0, -0.9))
SWINGS = (0.5, 0.3, 0.15)
LANE = 0.05


@dataclass(frozen=True, eq=False)
class Obstacles:
    """Levels of boxes, as running counts of blocked cells along each level."""

    levels: Float[np.ndarray, " level"]
    blocked_before: Int[np.ndarray, "level cell"]
    left: float
    right: float

    @classmethod
    def of_boxes(
        cls, x: Float[np.ndarray, " node"], y: Float[np.ndarray, " node"], left: float, right: float
    ) -> Obstacles:
        """Boxes of the usual half extents round the given centres, within `left` to `right`."""
        levels, level = np.unique(y, return_inverse=True)
        n_cells = int(np.ceil((right - left) / CELL)) + 1
        centres = left + CELL * np.arange(n_cells)
        near = np.abs(centres[None, :] - x[:, None]) < HALF_WIDTH + CLEARANCE
        blocked = np.zeros((len(levels), n_cells), dtype=bool)
        np.logical_or.at(blocked, level, near)
        before = np.zeros((len(levels), n_cells + 1), dtype=np.int32)
        np.cumsum(blocked, axis=1, out=before[:, 1:])
        return cls(levels, before, left, right)

    def is_free(
        self,
        low: Float[np.ndarray, "edge level"],
        high: Float[np.ndarray, "edge level"],
        between: Bool[np.ndarray, "edge level"],
    ) -> Bool[np.ndarray, " edge"]:
        """Edges whose x range within every level `between` their ends meets no box."""
        last = self.blocked_before.shape[1] - 2
        inside = (low >= self.left) & (high <= self.right)
        first = np.clip(np.floor((low - self.left) / CELL), 0, last).astype(np.int64)
        final = np.clip(np.ceil((high - self.left) / CELL), 0, last).astype(np.int64)
        rows = np.arange(len(self.levels))
        met = self.blocked_before[rows, final + 1] > self.blocked_before[rows, first]
        return ~((met | ~inside) & between).any(axis=1)


@dataclass(frozen=True, eq=False)
class _Ends:
    """Ends of edges at the boxes' edges, and the range of levels strictly between them."""

    x0: Float[np.ndarray, " edge"]
    y0: Float[np.ndarray, " edge"]
    x1: Float[np.ndarray, " edge"]
    y1: Float[np.ndarray, " edge"]
    first: Int[np.ndarray, " edge"]
    last: Int[np.ndarray, " edge"]

    def __getitem__(self, edges: np.ndarray) -> _Ends:
        return _Ends(*(getattr(self, name)[edges] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Router:
    """Routes edges round obstacles; `bottom` and `top` are heights of the input and logits bars.

    An edge may leave the input bar, and reach the logits bar, anywhere along it.
    """

    obstacles: Obstacles
    columns: Float[np.ndarray, " column"]
    bottom: float
    top: float

    def route(
        self,
        x0: Float[np.ndarray, " edge"],
        y0: Float[np.ndarray, " edge"],
        x1: Float[np.ndarray, " edge"],
        y1: Float[np.ndarray, " edge"],
    ) -> Float[np.ndarray, "edge 10 2"]:
        """Control points of the curves between sources and destinations given by their centres."""
        levels = self.obstacles.levels
        first = np.searchsorted(levels, y0 + HALF_HEIGHT)
        last = np.searchsorted(levels, y1 - HALF_HEIGHT) - 1
        from_bar, to_bar = y0 == self.bottom, y1 == self.top
        x1 = np.where(to_bar & ~from_bar, x0, x1)
        x1 = np.where(to_bar & from_bar, self._channels()[0], x1)
        x0 = np.where(from_bar, x1, x0)
        ends = _Ends(x0, y0 + HALF_HEIGHT, x1, y1 - HALF_HEIGHT, first, last)

        curves = np.zeros((len(x0), 10, 2))
        left = np.arange(len(x0))
        # An edge from bar to bar takes a channel, where it lies beside others and not on them.
        across = from_bar & to_bar & (first <= last)
        for bow in BOWS:
            # A bar is met at a right angle: where straight down is not free, a channel is.
            able = ~across[left] & (~(from_bar | to_bar)[left] | (bow == STRAIGHT))
            free = able & self._free(ends[left], lambda y, e, bow=bow: _bowed(e, bow, y))
            curves[left[free]] = _bowed_controls(ends[left[free]], bow)
            left = left[~free]
        if len(left):
            bars = from_bar[left], to_bar[left]
            curves[left] = self._through_channels(ends[left], *bars)
        return curves

    def _channels(self) -> Float[np.ndarray, " channel"]:
        outer = HALF_WIDTH + 2 * CLEARANCE
        between = (self.columns[1:] + self.columns[:-1]) / 2
        return np.concatenate([[self.columns[0] - outer], between, [self.columns[-1] + outer]])

    def _free(
        self, ends: _Ends, curve: Callable[[np.ndarray, _Ends], np.ndarray]
    ) -> Bool[np.ndarray, " edge"]:
        levels = self.obstacles.levels
        rows = np.arange(len(levels))
        between = (rows >= ends.first[:, None]) & (rows <= ends.last[:, None])
        heights = (levels - HALF_HEIGHT, levels, levels + HALF_HEIGHT)
        x = np.stack([curve(height[None, :], ends) for height in heights])
        return self.obstacles.is_free(x.min(axis=0), x.max(axis=0), between)

    def _through_channels(
        self, ends: _Ends, from_bar: np.ndarray, to_bar: np.ndarray
    ) -> Float[np.ndarray, "edge 10 2"]:
        """Curves by the cheapest channel, with the longest swings that meet no box."""
        channels = self._channels()
        detour = np.abs(channels - ends.x0[:, None]) * ~from_bar[:, None]
        detour = detour + np.abs(channels - ends.x1[:, None]) * ~to_bar[:, None]
        # All channels between the ends are equally short: the middle one gives the calmest curve,
        # and of two as good the one nearer to the picture's middle keeps its rim airy.
        detour += 1e-2 * np.abs(channels - (ends.x0 + ends.x1)[:, None] / 2)
        detour += 1e-3 * np.abs(channels - self.columns.mean())
        order = np.argsort(detour, axis=1)
        n_edges = len(ends.x0)
        choice = order[:, 0].copy()
        swing = np.zeros(n_edges)
        left = np.arange(n_edges)
        for share in SWINGS:
            for rank in range(min(3, len(channels))):
                tried = order[left, rank]
                some = _with_bars(ends[left], channels[tried], from_bar[left], to_bar[left])
                bends = self._bends(some, np.full(len(left), share))
                lane = channels[tried]
                free = self._free(
                    some, lambda y, e, lane=lane, bends=bends: _channelled(e, lane, bends, y)
                )
                choice[left[free]], swing[left[free]] = tried[free], share
                left = left[~free]
        lane = channels[choice] + _lanes(choice, channels[choice], ends)
        ends = _with_bars(ends, lane, from_bar, to_bar)
        return _channelled_controls(ends, lane, self._bends(ends, swing))

    def _bends(self, ends: _Ends, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Heights at which the swing into the channel ends and the one out of it begins."""
        levels = self.obstacles.levels
        skipped = np.floor(share * (ends.last - ends.first)).astype(np.int64)
        return (
            levels[ends.first + skipped] - HALF_HEIGHT,
            levels[ends.last - skipped] + HALF_HEIGHT,
        )


def _with_bars(ends: _Ends, lane: np.ndarray, from_bar: np.ndarray, to_bar: np.ndarray) -> _Ends:
    """Ends moved along the bars to where the channel meets them."""
    x0, x1 = np.where(from_bar, lane, ends.x0), np.where(to_bar, lane, ends.x1)
    return _Ends(x0, ends.y0, x1, ends.y1, ends.first, ends.last)


def _lanes(choice: np.ndarray, centre: np.ndarray, ends: _Ends) -> Float[np.ndarray, " edge"]:
    """Offsets that lay the edges of a channel side by side, in the order that crosses least."""
    height = max(ends.y1.max(), 1.0)
    leaving = np.sign(ends.x1 - centre) * (height - ends.y1 + 1)
    arriving = np.sign(ends.x0 - centre) * (ends.y0 + 1)
    order = np.lexsort((leaving + arriving, choice))
    counts = np.bincount(choice)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(choice))
    rank[order] = np.arange(len(choice)) - first[choice[order]]
    spread = np.maximum(counts[choice] - 1, 1)
    return (rank - (counts[choice] - 1) / 2) * np.minimum(LANE, 2 * CLEARANCE / spread)


def _smooth(u: np.ndarray) -> np.ndarray:
    u = np.clip(u, 0.0, 1.0)
    return u * u * (3 - 2 * u)


def _bowed(ends: _Ends, bow: tuple[float, float], y: np.ndarray) -> np.ndarray:
    x0, x1, y0 = ends.x0[:, None], ends.x1[:, None], ends.y0[:, None]
    u = np.clip((y - y0) / (ends.y1[:, None] - y0), 0.0, 1.0)
    side = 3 * u * (1 - u)
    return x0 + (x1 - x0) * _smooth(u) + side * ((1 - u) * bow[0] + u * bow[1])


def _bowed_controls(ends: _Ends, bow: tuple[float, float]) -> Float[np.ndarray, "edge 10 2"]:
    """One cubic as three: its blossom at thirds."""
    rise = ends.y1 - ends.y0
    controls = np.stack(
        [
            np.stack([ends.x0, ends.y0], axis=-1),
            np.stack([ends.x0 + bow[0], ends.y0 + rise / 3], axis=-1),
            np.stack([ends.x1 + bow[1], ends.y1 - rise / 3], axis=-1),
            np.stack([ends.x1, ends.y1], axis=-1),
        ],
        axis=1,
    )

    def blossom(*at: float) -> np.ndarray:
        points = controls
        for u in at:
            points = (1 - u) * points[:, :-1] + u * points[:, 1:]
        return points[:, 0]

    a, b = 1 / 3, 2 / 3
    knots = [(0, 0, 0), (0, 0, a), (0, a, a), (a, a, a), (a, a, b), (a, b, b)]
    knots += [(b, b, b), (b, b, 1), (b, 1, 1), (1, 1, 1)]
    return np.stack([blossom(*knot) for knot in knots], axis=1)


def _channelled(
    ends: _Ends, lane: np.ndarray, bends: tuple[np.ndarray, np.ndarray], y: np.ndarray
) -> np.ndarray:
    into = _smooth((y - ends.y0[:, None]) / (bends[0] - ends.y0)[:, None])
    out = _smooth((y - bends[1][:, None]) / (ends.y1 - bends[1])[:, None])
    return ends.x0[:, None] + (lane - ends.x0)[:, None] * into + (ends.x1 - lane)[:, None] * out


def _channelled_controls(
    ends: _Ends, lane: np.ndarray, bends: tuple[np.ndarray, np.ndarray]
) -> Float[np.ndarray, "edge 10 2"]:
    knots = np.stack([ends.y0, bends[0], bends[1], ends.y1], axis=1)
    thirds = (knots[:, 1:] - knots[:, :-1]) / 3
    y = np.concatenate(
        [
            np.stack([knots[:, i], knots[:, i] + thirds[:, i], knots[:, i + 1] - thirds[:, i]], 1)
            for i in range(3)
        ]
        + [knots[:, 3:]],
        axis=1,
    )
    x = np.stack([ends.x0] * 2 + [lane] * 6 + [ends.x1] * 2, axis=1)
    return np.stack([x, y], axis=-1)


def sample_curves(
    curves: Float[np.ndarray, "edge 10 2"], points: int
) -> Float[np.ndarray, "edge points 2"]:
    """Points of each curve at equal steps of the parameter, both ends included."""
    t = np.linspace(0, 3, points)
    piece = np.minimum(t.astype(np.int64), 2)
    u = (t - piece)[:, None]
    start = 3 * piece
    weights = ((1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3)
    return np.asarray(sum(w * curves[:, start + i] for i, w in enumerate(weights)))
