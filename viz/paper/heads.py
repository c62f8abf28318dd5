"""Single heads on a prompt: where they look at the last token, and which tokens they write.

Each function takes a stored result and writes one file (SVG, PDF or PNG by its suffix). Errors of
all: OptionError for another suffix, for a head that was not read or for nothing to draw, StoreError
where the file cannot be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from circuits.base.errors import OptionError
from circuits.base.origin import model_label
from viz import theme
from viz.asked import cut
from viz.paper import canvas

if TYPE_CHECKING:  # brings torch along; a figure needs no model
    from locate.heads.heads_on_prompts import PromptHeads, Written

MOST_HEADS = 6
STRIP = 0.34
STRIP_GAP = 0.1
BAR = 0.125
N_RAISED, N_LOWERED = 7, 3
NARROWEST = 1.55
"""Inches a panel of written tokens needs at least."""


def draw_attention(
    found: PromptHeads,
    path: str | Path,
    heads: Sequence[str] | None = None,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Attention of heads from the last token over the prompt, a strip a head, a column a token.

    Bars are value-weighted attention, ticks the plain pattern; both are shares of 1. By default
    the first `MOST_HEADS` heads, those with a role before others. The subject's tokens are bold
    and shaded.
    """
    canvas.check_suffix(path)
    shown = chosen_heads(found, heads, MOST_HEADS)
    labels = [canvas.token(token) for token in found.tokens]
    with canvas.paper_style():
        gutter = max(0.5, 0.16 + max(canvas.text_width(head_name(found, h), 6.5) for h in shown))
        right = 0.3
        column = (width - gutter - right) / len(labels)
        widest = max(canvas.text_width(label, canvas.CAPTION, "bold") for label in labels)
        turned = widest > 0.92 * column
        size = (
            min(canvas.CAPTION, max(canvas.SMALLEST, 72 * 0.85 * column))
            if turned
            else canvas.CAPTION
        )
        widest *= size / canvas.CAPTION
        caption = canvas.noted(_caption(found), width, notes)
        below = 0.1 + 0.13 * len(caption)
        under = (widest if turned else 0.12) + 0.08
        above = 0.4 if title else 0.12
        foot = below + 0.22 + under
        height = above + len(shown) * (STRIP + STRIP_GAP) + foot
        figure = canvas.new_figure(width, height)
        for row, head in enumerate(shown):
            low = height - above - (row + 1) * (STRIP + STRIP_GAP) + STRIP_GAP
            box = (gutter / width, low / height, 1 - (gutter + right) / width, STRIP / height)
            axes = figure.add_axes(box)
            _strip(axes, found, head, row == 0)
            axes.set_ylabel(
                head_name(found, head), rotation=0, ha="right", va="center", labelpad=4, size=6.5
            )
            if row == len(shown) - 1:
                apart = -(-int(1.15 * size) // int(72 * column)) if turned else 1
                named = _named_tokens(found, shown, apart)
                axes.set_xticks(
                    named,
                    [labels[place] for place in named],
                    size=size,
                    rotation=90 if turned else 0,
                    parse_math=False,
                )
                _mark_subject(axes, found, named)
        entries = [
            Patch(facecolor=theme.SUPPORTS.colour, label="value-weighted attention"),
            Line2D([], [], color=theme.INK, linewidth=1.2, label="attention"),
        ]
        canvas.legend(figure, entries, below / height, 2, labelspacing=None)
        canvas.page_text(figure, title, caption)
        heading = title or f"Attention from the last token of {found.prompt}"
        return canvas.save(figure, path, heading, found.provenance)


def draw_written(
    found: PromptHeads,
    path: str | Path,
    heads: Sequence[str] | None = None,
    title: str | None = None,
    width: float = theme.DOUBLE_COLUMN,
    notes: bool = True,
) -> Path:
    """Tokens that heads write at the last token: raised most in blue, lowered most in orange.

    Bars are logits added directly, over the mean of all tokens. By default the first `MOST_HEADS`
    heads, those with a role before others. The answer's first token is bold.
    """
    canvas.check_suffix(path)
    shown = chosen_heads(found, heads, MOST_HEADS)
    with canvas.paper_style():
        most = max(1, min(len(shown), int((width - 0.1) / NARROWEST)))
        n_rows = -(-len(shown) // most)
        n_columns = -(-len(shown) // n_rows)  # rows of even length
        rows = {head: bars_of(found, head) for head in shown}
        n_bars = max(len(bars) for bars in rows.values())
        if not n_bars:
            raise OptionError("no token was stored for these heads: nothing to draw")
        gutter = 0.1 + max(
            canvas.text_width(canvas.token(word), canvas.CAPTION, "bold")
            for bars in rows.values()
            for word, _ in bars
        )
        gutter = min(gutter, 0.62 * (width - 0.1) / n_columns)
        caption = canvas.noted(_written_caption(found), width, notes)
        foot, above = 0.42 + 0.13 * len(caption), (0.42 if title else 0.24)
        panel, gap = BAR * n_bars, 0.5
        height = above + n_rows * panel + (n_rows - 1) * gap + foot
        figure = canvas.new_figure(width, height)
        across = (width - 0.1) / n_columns
        ends = [logit for bars in rows.values() for _, logit in bars]
        limits = min(0.0, *ends), max(0.0, *ends)
        for index, head in enumerate(shown):
            down, right = divmod(index, n_columns)
            low = height - above - panel - down * (panel + gap)
            left = 0.02 + right * across + gutter
            box = (left / width, low / height, (across - gutter - 0.1) / width, panel / height)
            axes = figure.add_axes(box)
            _tokens(axes, rows[head], n_bars, found.answer_token, limits, across - gutter)
            name = canvas.shortened(head_name(found, head), 7.5, across - gutter - 0.04)
            axes.set_title(name, parse_math=False)
            last = index + n_columns >= len(shown)
            axes.set_xlabel("logits added" if last else "")
        canvas.page_text(figure, title, caption)
        heading = title or f"Tokens that heads write after {found.prompt}"
        return canvas.save(figure, path, heading, found.provenance)


def chosen_heads(found: PromptHeads, heads: Sequence[str] | None, most: int) -> list[str]:
    """The heads asked for, or the first `most`, those with a role before others.

    OptionError for a head that was not read, and where there is none.
    """
    usual = sorted(found.heads, key=lambda head: head not in found.roles)  # the labelled first
    shown = list(usual[:most] if heads is None else dict.fromkeys(heads))
    for head in shown:
        found.place(head)
    if not shown:
        raise OptionError("no head was read: nothing to draw")
    return shown


def head_name(found: PromptHeads, head: str) -> str:
    """A head with its role, where it has one."""
    return canvas.visible(f"{head} {found.roles.get(head, '')}".strip())


def _caption(found: PromptHeads) -> str:
    model = model_label(found.provenance)
    parts = [model, f"from the last token of “{cut(found.prompt)}”"]
    return canvas.joined(parts)


def _written_caption(found: PromptHeads) -> str:
    parts = [_caption(found), f"answer “{found.answer}”", "logits over the mean of all tokens"]
    return canvas.joined(parts)


def _strip(axes: Axes, found: PromptHeads, head: str, is_first: bool) -> None:
    place = found.place(head)
    columns = np.arange(len(found.tokens))
    if found.subject is not None:
        start, stop = found.subject.start, found.subject.stop
        axes.axvspan(start - 0.5, stop - 0.5, color=theme.STRIPE, linewidth=0, zorder=0)
    axes.bar(columns, found.weighted[place], width=0.62, color=theme.SUPPORTS.colour, zorder=2)
    axes.hlines(
        found.attention[place],
        columns - 0.4,
        columns + 0.4,
        color=theme.INK,
        linewidth=1.1,
        zorder=3,
    )
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 1] if is_first else [])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(theme.RULE)


def _named_tokens(found: PromptHeads, shown: Sequence[str], apart: int) -> list[int]:
    """The tokens to name: all, or the most attended ones so many columns apart."""
    rows = [found.place(head) for head in shown]
    mass = np.maximum(found.weighted[rows], found.attention[rows]).max(0)
    named: list[int] = []
    for place in np.argsort(-mass, kind="stable").tolist():
        if all(abs(place - other) >= apart for other in named):
            named.append(place)
    return sorted(named)


def _mark_subject(axes: Axes, found: PromptHeads, named: Sequence[int]) -> None:
    axes.tick_params(axis="x", length=0)
    for position, label in zip(named, axes.get_xticklabels(), strict=True):
        if found.subject is not None and found.subject.start <= position < found.subject.stop:
            label.set_fontweight("bold")


def bars_of(found: PromptHeads, head: str) -> Written:
    """Tokens raised, the most first, then those lowered, the most last."""
    place = found.place(head)
    raised = [each for each in found.raised[place] if each[1] > 0][:N_RAISED]
    lowered = [each for each in found.lowered[place] if each[1] < 0][:N_LOWERED]
    return (*raised, *reversed(lowered))


def _tokens(
    axes: Axes,
    bars: Written,
    n_bars: int,
    answer: str,
    limits: tuple[float, float],
    across: float,
) -> None:
    values = np.array([logit for _, logit in bars])
    rows = np.arange(len(bars))
    tones = [theme.SUPPORTS.colour if value > 0 else theme.OPPOSES.colour for value in values]
    axes.barh(rows, values, height=0.66, color=tones)
    axes.set_yticks(
        rows, [canvas.token(word) for word, _ in bars], size=canvas.CAPTION, parse_math=False
    )
    for (word, _), label in zip(bars, axes.get_yticklabels(), strict=True):
        if word == answer:
            label.set_fontweight("bold")
    axes.set_ylim(n_bars - 0.5, -0.5)
    span = limits[1] - limits[0] or 1.0
    axes.set_xlim(limits[0] - 0.03 * span, limits[1] + 0.03 * span)
    axes.axvline(0, color=theme.MUTED, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(3 if across > 0.85 else 1))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
