"""Single heads on the screen: roles over a relation, attention and written tokens on a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.base.errors import OptionError
from viz import theme
from viz.paper.heads import MOST_HEADS, bars_of, chosen_heads, head_name
from viz.screen.circuit import with_title
from viz.screen.style import axis, new_figure, plain, token_label

if TYPE_CHECKING:
    from locate.heads.head_role import HeadRole
    from locate.heads.heads_on_prompts import HeadsOnPrompts, PromptHeads
    from locate.heads.role_report import RoleReport

SYMBOLS = {"mover": "circle", "relation": "square", "mixture": "diamond", "none": "circle-open"}
"""A role's mark: told by its form as well as by its colour."""
LABELLED = 10
"""Heads whose names stand beside their marks."""
COLUMNS = 3
STRIP, BAR = 54, 19


def roles_figure(report: RoleReport, title: str | None = None) -> go.Figure:
    """Heads by their share of all heads' work as a mover (across) and as a relation head (up).

    Colour and form of a mark say the role. The criterion also looks at attention and at the
    interval, so that a head without a role may lie among those that have one; hovering says why.
    """
    figure = new_figure(height=420, margin={"l": 64, "r": 24, "t": 20, "b": 88})
    groups: dict[str, list[HeadRole]] = {role: [] for role in SYMBOLS}
    for head in report.heads:
        groups[str(head.role)].append(head)
    named = {head.name for head in report.labelled[:LABELLED]}
    for role, heads in groups.items():
        if heads:
            figure.add_scatter(**_marks(role, heads, named))
    line = {"color": theme.MUTED, "width": 1, "dash": "4px,3px"}
    figure.add_vline(x=report.criteria.share, line=line, layer="below")
    figure.add_hline(y=report.criteria.share, line=line, layer="below")
    share = axis(tickformat=".0%", zeroline=True, zerolinecolor=theme.RULE)
    figure.update_layout(
        xaxis={**share, "title": {"text": "share of what all heads write for the answer"}},
        yaxis={**share, "title": {"text": "share of what they write for the range"}},
    )
    return with_title(figure, title)


def _marks(role: str, heads: Sequence[HeadRole], named: set[str]) -> dict:
    style = theme.ROLES.get(role) or theme.KINDS["head"]
    has_role = role in theme.ROLES
    return {
        "x": [head.mover.share for head in heads],
        "y": [head.relation.share for head in heads],
        "mode": "markers+text",
        "text": [plain(head.name) if head.name in named else "" for head in heads],
        "textposition": _sides(heads),
        "textfont": {"size": 10},
        "name": style.legend if has_role else "no role",
        "marker": {
            "symbol": SYMBOLS[role],
            "size": 11 if has_role else 7,
            "color": style.fill if has_role else style.line,
            "line": {"color": style.line, "width": 1.5},
        },
        "cliponaxis": False,
        "customdata": [_evidence(head) for head in heads],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _sides(heads: Sequence[HeadRole]) -> list[str]:
    """Names alternate above and below, from left to right, so that neighbours stay readable."""
    order = sorted(range(len(heads)), key=lambda place: heads[place].mover.share)
    sides = ["top center"] * len(heads)
    for rank, place in enumerate(order):
        sides[place] = "top center" if rank % 2 else "bottom center"
    return sides


def _evidence(head: HeadRole) -> str:
    check = "" if head.check is None else f"<br>ablation: {head.check.verdict}"
    return (
        f"<b>{plain(head.name)}</b> {plain(str(head.role))}"
        f"<br>attention on the subject {head.mover.attention:.2f}, "
        f"on the relation {head.relation.attention:.2f}"
        f"<br>for the answer, from the subject: {head.mover.gain} logits"
        f"<br>for the range, from the relation: {head.relation.gain} logits"
        f"<br>writes {plain(head.writes)}{check}"
    )


def attention_figure(
    found: PromptHeads | HeadsOnPrompts,
    heads: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """Attention of heads from the last token over the prompt, a strip a head, a column a token.

    Bars are value-weighted attention, lines the plain pattern. By default the first few heads,
    those with a role before others.
    """
    found = _one(found)
    shown = chosen_heads(found, heads, MOST_HEADS)
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.03)
    columns = list(range(len(found.tokens)))
    subject = () if found.subject is None else range(found.subject.start, found.subject.stop)
    words = [
        f"<b>{token_label(word)}</b>" if place in subject else token_label(word)
        for place, word in enumerate(found.tokens)
    ]
    for row, head in enumerate(shown, start=1):
        place = found.place(head)
        figure.add_bar(
            x=columns,
            y=found.weighted[place],
            name="value-weighted attention",
            legendgroup="weighted",
            showlegend=row == 1,
            marker={"color": theme.SUPPORTS.colour},
            customdata=words,
            hovertemplate="%{customdata}<br>value-weighted %{y:.3f}<extra></extra>",
            row=row,
            col=1,
        )
        figure.add_scatter(
            x=columns,
            y=found.attention[place],
            name="attention",
            legendgroup="plain",
            showlegend=row == 1,
            mode="markers",
            marker={
                "symbol": "line-ew-open",
                "size": 28,
                "color": theme.INK,
                "line": {"width": 2, "color": theme.INK},
            },
            customdata=words,
            hovertemplate="%{customdata}<br>attention %{y:.3f}<extra></extra>",
            row=row,
            col=1,
        )
        last = row == len(shown)
        ticks = {"tickvals": columns, "ticktext": words, "showticklabels": last}
        figure.update_xaxes(axis(showgrid=False, ticks="", **ticks), row=row, col=1)
        vertical = axis(range=[0, 1.05], tickvals=[0, 1], showticklabels=row == 1, side="right")
        figure.update_yaxes(vertical, row=row, col=1)
        low, high = figure.get_subplot(row, 1).yaxis.domain
        figure.add_annotation(
            text=plain(head_name(found, head)),
            xref="paper",
            yref="paper",
            x=-0.01,
            xanchor="right",
            y=(low + high) / 2,
            yanchor="middle",
            showarrow=False,
            font={"size": 11},
        )
    height = 110 + STRIP * len(shown)
    look = new_figure(height=height, margin={"l": 120, "r": 40, "t": 16, "b": 72}).layout
    figure.update_layout(look)
    figure.update_layout(legend={"y": -60 / (height - 88)})
    return with_title(figure, title)


def written_figure(
    found: PromptHeads | HeadsOnPrompts,
    heads: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """Tokens that heads write at the last token: raised most in blue, lowered most in orange.

    Bars are logits added directly, over the mean of all tokens; the answer's first token is bold.
    """
    found = _one(found)
    shown = chosen_heads(found, heads, MOST_HEADS)
    n_columns = min(COLUMNS, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        shared_xaxes="all",
        subplot_titles=[plain(head_name(found, head)) for head in shown],
        horizontal_spacing=0.14,
        vertical_spacing=0.34 / n_rows**1.6,
    )
    n_bars = 1
    for index, head in enumerate(shown):
        row, column = index // n_columns + 1, index % n_columns + 1
        bars = bars_of(found, head)
        n_bars = max(n_bars, len(bars))
        words = [token_label(word) for word, _ in bars]
        labels = [
            f"<b>{label}</b>" if word == found.answer_token else label
            for label, (word, _) in zip(words, bars, strict=True)
        ]
        values = np.array([logit for _, logit in bars])
        figure.add_bar(
            x=values,
            y=list(range(len(bars))),
            orientation="h",
            marker={
                "color": [
                    theme.SUPPORTS.colour if value > 0 else theme.OPPOSES.colour for value in values
                ]
            },
            customdata=words,
            hovertemplate="%{customdata}<br>%{x:+.3f} logits<extra></extra>",
            showlegend=False,
            row=row,
            col=column,
        )
        ticks = {"tickvals": list(range(len(bars))), "ticktext": labels}
        figure.update_yaxes(
            axis(autorange="reversed", showgrid=False, ticks="", **ticks), row=row, col=column
        )
        figure.update_xaxes(
            axis(
                zeroline=True,
                zerolinecolor=theme.MUTED,
                title={"text": "logits added" if index + n_columns >= len(shown) else ""},
            ),
            row=row,
            col=column,
        )
    height = 70 + n_rows * (BAR * n_bars + 60)
    look = new_figure(height=height, margin={"l": 84, "r": 16, "t": 40, "b": 48}).layout
    figure.update_layout(look)
    figure.update_annotations(font={"size": 12})
    return with_title(figure, title)


def _one(found: PromptHeads | HeadsOnPrompts) -> PromptHeads:
    """The heads on the first prompt, where there are several."""
    from locate.heads.heads_on_prompts import PromptHeads

    if isinstance(found, PromptHeads):
        return found
    if not found.prompts:
        raise OptionError("no prompt to draw")
    return found.prompts[0]
