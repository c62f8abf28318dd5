"""Pictures over the tokens of one prompt: the logit-lens grid, and all that a head attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from viz import theme
from viz.screen.style import axis, new_figure, plain, token_label

if TYPE_CHECKING:  # these bring torch along; a figure needs no model
    from locate.states.lens_grid import LensGrid

SHADES = [[0.0, theme.PAPER], [0.35, "#BBD9EA"], [1.0, theme.SUPPORTS.colour]]
ROW = 24.0
CELL = 74
"""Pixels of a cell of the grid: room for a token of ten letters."""
LONGEST = 10
INK_ABOVE = 0.62
"""The share above which a cell's word is white."""


def grid_height(n_states: int) -> int:
    """Pixels of the grid: of many layers each has less, so that all of them are seen at once."""
    return round(56 + max(17.0, min(ROW, 600 / n_states)) * n_states)


def grid_figure(grid: LensGrid, chosen: tuple[int, int] | None = None) -> go.Figure:
    """The likeliest token of every layer at every position; shade is its probability.

    The last layer is at the top, the embedding at the bottom: a cell's y is its state, its x the
    position. `chosen` is framed, and the first followed token is bold where it leads.
    """
    shares, n_states = grid.shares[..., 0].astype(float), len(grid.best)
    answer = next(iter(grid.labels.values()), None)
    tokens = [token_label(token) for token in grid.prompt.tokens]
    figure = new_figure(
        height=grid_height(n_states),
        margin={"l": 78, "r": 10, "t": 46, "b": 8},
        dragmode=False,
        xaxis=axis(
            side="top",
            showgrid=False,
            ticks="",
            tickvals=list(range(len(tokens))),
            ticktext=tokens,
            tickangle=0 if len(tokens) <= 14 else -40,
            tickfont={"size": 12, "color": theme.INK},
            fixedrange=True,
            range=[-0.5, len(tokens) - 0.5],
        ),
        yaxis=axis(
            showgrid=False,
            ticks="",
            tickvals=list(range(n_states)),
            ticktext=["embedding", *map(str, range(n_states - 1))],
            title={"text": "layer", "font": {"size": 12, "color": theme.MUTED}},
            fixedrange=True,
            range=[-0.5, n_states - 0.5],
        ),
    )
    words = [
        [_word(grid.names[int(grid.best[s, p, 0])]) for p in range(len(tokens))]
        for s in range(n_states)
    ]
    titles = [
        [
            f"{tokens[p]}, {'embedding' if not s else f'layer {s - 1}'}<br>"
            + "<br>".join(
                f"{token_label(text)} {share:.3f}" for text, share in grid.words(s, p)[:5]
            )
            for p in range(len(tokens))
        ]
        for s in range(n_states)
    ]
    figure.add_heatmap(
        z=shares,
        zmin=0,
        zmax=1,
        colorscale=SHADES,
        showscale=False,
        xgap=1,
        ygap=1,
        text=titles,
        hovertemplate="%{text}<extra></extra>",
    )
    for white in (False, True):
        cells = [
            (p, s) for s, p in np.ndindex(*shares.shape) if (shares[s, p] > INK_ABOVE) == white
        ]
        figure.add_scatter(
            x=[p for p, _ in cells],
            y=[s for _, s in cells],
            text=[
                f"<b>{words[s][p]}</b>" if int(grid.best[s, p, 0]) == answer else words[s][p]
                for p, s in cells
            ],
            mode="text",
            textfont={"size": 11, "color": theme.PAPER if white else theme.INK},
            hoverinfo="skip",
            showlegend=False,
        )
    if chosen is not None:
        state, position = chosen
        figure.add_shape(
            type="rect",
            x0=position - 0.5,
            x1=position + 0.5,
            y0=state - 0.5,
            y1=state + 0.5,
            line={"color": theme.INK, "width": 2},
        )
    return figure


def _word(text: str) -> str:
    label = text.strip(" ") or text.replace(" ", "␣") or "∅"
    return plain(label if len(label) <= LONGEST else label[: LONGEST - 1] + "…")


def pattern_figure(tokens: Sequence[str], pattern: Float[np.ndarray, "query key"]) -> go.Figure:
    """What a head attends to from every token: a row a token that looks, a column where to."""
    labels = [token_label(token) for token in tokens]
    long = max(map(len, tokens), default=4)
    figure = new_figure(
        height=round(70 + 7 * min(long, 14) + max(18, min(26, 300 / len(labels))) * len(labels)),
        margin={"l": 18 + 7 * min(long, 14), "r": 8, "t": 14, "b": 24 + 6 * min(long, 14)},
        dragmode=False,
    )
    ends = {"showgrid": False, "ticks": "", "tickvals": list(range(len(labels)))}
    ends |= {"ticktext": labels, "tickfont": {"size": 11, "color": theme.INK}, "fixedrange": True}
    figure.update_layout(
        xaxis=axis(**ends, tickangle=-50), yaxis=axis(**ends, autorange="reversed")
    )
    causal = np.tril(np.ones_like(pattern, dtype=bool))
    figure.add_heatmap(
        z=np.where(causal, pattern, np.nan),
        zmin=0,
        zmax=1,
        colorscale=SHADES,
        showscale=False,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        customdata=[[[looks, seen] for seen in labels] for looks in labels],
        hovertemplate="%{customdata[0]} looks at %{customdata[1]}: %{z:.3f}<extra></extra>",
    )
    return figure
