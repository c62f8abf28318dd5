"""What is known about a node or an edge: from the circuit, from its roles, from a live model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from dash import html

from circuits.base.display import visible
from circuits.base.intervals import enough
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.resample import classify
from circuits.model.wiring import node_kind
from locate.heads.by_example import of_record
from viz import theme
from viz.app import parts
from viz.app.controls import clear_button
from viz.screen.grids import pattern_figure

if TYPE_CHECKING:
    from locate.ask import Answers, HeadView

MOST_LISTED = 12
EFFECTS = {
    "answer_gap": "answer over objects",
    "range_gap": "objects over the rest",
    "p_answer": "p of the answer",
}


def node_details(
    circuit: Circuit,
    node: str,
    evidence: Mapping[str, Any],
    comparison: Comparison | None = None,
) -> list[Any]:
    """A node's role with its evidence, and its edges in and out, strongest first.

    In a comparison each edge says its score before and after, with both signs.
    """
    kind = node_kind(node)
    role = circuit.roles.get(node, "")
    style = theme.node_style(kind, role)
    what = theme.ROLES[role].legend if role in theme.ROLES else theme.KINDS[kind].legend
    wiring, kept = circuit.wiring, np.flatnonzero(circuit.kept)
    out = kept[np.array(wiring.src_names)[wiring.edge_src[kept]] == node]
    into = kept[np.array(wiring.dst_nodes)[wiring.edge_dst[kept]] == node]
    head: list[Any] = [
        html.Div(
            [
                html.H2([parts.node_sample(style, kind in ("mlp", "kv")), node]),
                clear_button(),
            ],
            className="heading",
        ),
        html.P(what, className="what"),
    ]
    record = next(
        (
            each
            for each in evidence.get("roles", ())
            if isinstance(each, dict) and each.get("name") == node
        ),
        None,
    )
    if record is not None:
        head += role_evidence(record)
    head.append(html.Div(id="reading"))
    head += [
        edge_list("Edges in", circuit, into, True, comparison),
        *_shared_list(circuit, node, comparison),
        edge_list("Edges out", circuit, out, False, comparison),
    ]
    return head


def role_evidence(record: Mapping[str, Any]) -> list[Any]:
    """Why a head has its role: where it looks, what it writes, what its silence changes."""

    weighted = record.get("weighted")
    rows: list[Any] = []
    if isinstance(weighted, dict):
        shares = [
            (str(region), float(share), f"{share:.2f}")
            for region, share in weighted.items()
            if isinstance(share, int | float)
        ]
        rows += [html.H3("Attends to, over the pairs"), parts.bars(shares, 1.0)]
    lines: list[tuple[str, Any]] = []
    for name, what in (("mover", "the answer"), ("relation", "all objects")):
        found = record.get(name)
        if isinstance(found, dict) and _is_number(found.get("share")) and found["share"] >= 0.005:
            share = f", {float(found['share']):.1%} of all heads'"
            lines.append((what, f"{parts.interval(found.get('gain'))}{share}"))
    if lines:
        rows += [html.H3("Raises, in logits"), parts.pairs(lines)]
    rows += _written(record)
    check = record.get("check")
    if isinstance(check, dict) and isinstance(check.get("effects"), dict):
        effects = check["effects"]
        rows += [
            html.H3(["Silenced at the last token: ", str(check.get("verdict", ""))]),
            parts.pairs(
                [(label, parts.interval(effects.get(key))) for key, label in EFFECTS.items()]
            ),
        ]
    return rows


def _written(record: Mapping[str, Any]) -> list[Any]:
    """What a head writes, by example; in older files the tokens of its mean over the pairs."""
    told, words = of_record(record), record.get("written")
    if told is None:
        if not isinstance(words, list):
            return []
        return [html.H3("Writes, over the pairs"), tokens(map(str, words))]
    counts = str(told)
    rows: list[Any] = [
        html.H3("Writes, pair by pair"),
        html.P(f"{counts[:1].upper()}{counts[1:]}."),
    ]
    for each in told.examples:
        answer = f"{visible(each.subject)} (answer {parts.token(each.answer)})"
        rows += [html.P(answer, className="hint"), tokens(each.best, each.answer)]
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _too_few(circuit: Circuit) -> str | None:
    """How many facts found the circuit, where that is why resamples say nothing of its edges."""
    asked, pairs = (circuit.provenance.get(name) for name in ("resamples", "pairs"))
    measured = circuit.evidence.get("evaluation")
    known = measured if isinstance(measured, Mapping) else {}
    n, what = known.get("n_drawn", pairs), known.get("drawn", "pairs")
    if circuit.scores is None or not asked or not isinstance(n, int) or enough(n):
        return None
    return f"{n} {what}"


def edge_details(circuit: Circuit, name: str, comparison: Comparison | None = None) -> list[Any]:
    """An edge's score, interval and stability; before and after where there are two."""
    edge = circuit.wiring.edge_index(name)
    source = circuit.wiring.src_names[circuit.wiring.edge_src[edge]]
    target = circuit.wiring.dst_names[circuit.wiring.edge_dst[edge]]
    rows: list[tuple[str, Any]] = [("from", source), ("to", target)]
    if comparison is not None:
        rows += _compared(comparison, edge)
    elif circuit.scores is not None:
        score = float(circuit.scores.values[edge])
        style = theme.edge_style(score, circuit.meaning)
        said = (
            f"{score:.4g}, has no sign"
            if style == theme.COUNTS
            else f"{score:+.4g}, {style.legend}"
        )
        rows.append(("score", said))
        place = int((np.abs(circuit.scores.values) > abs(score)).sum()) + 1
        rows.append(("rank by |score|", f"{place:,} of {circuit.wiring.n_edges:,}"))
    columns = {key: float(column[edge]) for key, column in circuit.columns.items()}
    if {"low", "high"} <= columns.keys():
        low, high = columns.pop("low"), columns.pop("high")
        rows.append(("95 % interval", f"[{low:.4g}, {high:.4g}]"))
    elif comparison is None and (few := _too_few(circuit)) is not None:
        rows.append(("95 % interval", f"none: {few} are too few to resample"))
    if "inclusion" in columns:
        share = columns.pop("inclusion")
        label = str(classify(min(1.0, max(0.0, share))))
        rows.append(("stability", f"in {share:.0%} of resamples: {label}"))
    rows += [(key, parts.number(value)) for key, value in columns.items()]
    if not circuit.kept[edge]:
        rows.append(("circuit", "not in it"))
    return [
        html.Div(
            [
                html.H2(name),
                clear_button(),
            ],
            className="heading",
        ),
        parts.pairs(rows),
        html.Div(id="reading"),
    ]


def _compared(comparison: Comparison, edge: int) -> list[tuple[str, Any]]:
    inside = (bool(comparison.before.kept[edge]), bool(comparison.after.kept[edge]))
    status = {(True, True): "kept", (True, False): "lost", (False, True): "gained"}
    rows: list[tuple[str, Any]] = [("circuit", status.get(inside, "in neither"))]
    if comparison.scores is not None:
        before, after = (float(values[edge]) for values in comparison.scores)
        flipped = ", the sign flips" if before * after < 0 else ""
        rows += [
            ("score before", f"{before:+.4g}"),
            ("score after", f"{after:+.4g}{flipped}"),
            ("change", f"{after - before:+.4g}"),
        ]
    changes = comparison.changes
    if changes is not None:
        rows += [
            ("95 % interval", f"[{changes.low[edge]:.4g}, {changes.high[edge]:.4g}]"),
            ("against the noise", str(changes.decision(edge))),
            ("q changed", f"{changes.q_changed[edge]:.3g}"),
        ]
    found = comparison.rediscovery
    if found is not None:
        rows.append(
            (
                "found in resamples",
                f"{found.before[edge]:.0%} before, {found.after[edge]:.0%} after",
            )
        )
    return rows


def _shared_list(circuit: Circuit, node: str, comparison: Comparison | None) -> list[Any]:
    """What a head reads through the key-value head that it shares with others of its layer."""
    wiring = circuit.wiring
    if node_kind(node) != "head" or not wiring.is_grouped:
        return []
    layer, _, index = node.removeprefix("a").partition(".h")
    group = f"a{layer}.kv{int(index) // wiring.queries_per_key}"
    into = np.array(wiring.dst_nodes)[wiring.edge_dst] == group
    edges = np.flatnonzero(circuit.kept & into)
    return [edge_list(f"Edges into {group}, which it shares", circuit, edges, True, comparison)]


def edge_list(
    title: str,
    circuit: Circuit,
    edges: np.ndarray,
    source: bool | None,
    comparison: Comparison | None,
) -> html.Details:
    """Signed and sorted by size, with a bar each; named by the `source` or the other end.

    Where `source` is None an edge has its whole name.
    """
    scores = (
        np.ones(len(edges))
        if circuit.scores is None
        else circuit.scores.values[edges].astype(float)
    )
    order = np.argsort(-np.abs(scores), kind="stable")
    wiring = circuit.wiring
    largest = float(np.abs(scores).max(initial=0.0)) or 1.0
    scored = circuit.scores is not None
    rows = []
    for place in order[:MOST_LISTED].tolist():
        edge, score = int(edges[place]), float(scores[place])
        dst = wiring.edge_dst[edge]
        other = wiring.src_names[wiring.edge_src[edge]] if source else wiring.dst_names[dst]
        slot = wiring.dst_slots[dst]
        label = f"{other} ({slot})" if source and slot else other
        label = wiring.edge_name(edge) if source is None else label
        if comparison is not None and comparison.scores is not None:
            before, after = (float(values[edge]) for values in comparison.scores)
            score = after  # the bar's colour is the sign that the edge has now
            label = f"{label}: {before:+.3g} → {after:+.3g}"
        style = theme.edge_style(score if scored else None, circuit.meaning)
        value = f"{score:+.3g}" if scored else ""
        rows.append(_edge_row(label, wiring.edge_name(edge), abs(score) / largest, style, value))
    more = len(edges) - len(rows)
    return html.Details(
        [
            html.Summary(f"{title}: {len(edges)}"),
            html.Div(rows, className="bars whole" if source is None else "bars"),
            html.P(f"and {more} weaker ones, in the table", className="hint") if more > 0 else None,
        ],
        open=True,
    )


def _edge_row(label: str, name: str, share: float, style: theme.EdgeStyle, value: str) -> html.Div:
    look = {"width": f"{100 * share:.1f}%", "background": style.colour}
    if style.dash is not None:
        look["background"] = (
            f"repeating-linear-gradient(90deg, {style.colour} 0 4px, transparent 4px 6px)"
        )
    return html.Div(
        [
            html.Span(label, className="bar-name", title=name),
            html.Span(html.Span(style=look), className="bar"),
            html.Span(value, className="bar-value"),
        ],
        className="bar-row",
    )


def head_reading(view: HeadView, prompt: str) -> list[Any]:
    """A head on one prompt: where its last token looks, what it writes, what its loss changes."""
    shares = [
        (parts.token(text), float(share), f"{share:.2f}")
        for text, share in zip(view.tokens, view.weighted, strict=True)
    ]
    raised = [(parts.token(text), value) for text, value in view.written.raised]
    whole, cut = view.whole, view.without
    return [
        html.H3("On this prompt"),
        html.P(visible(prompt), className="prompt"),
        html.H3("Attends from the last token to", title="weighted by what it reads there"),
        parts.bars(shares, max(1e-9, float(np.max(view.weighted)))),
        html.Details(
            [
                html.Summary("All it attends to, token by token"),
                parts.graph(
                    "pattern",
                    "Attention from every token, one a row, to every other",
                    pattern := pattern_figure(view.tokens, view.pattern),
                    height=f"{pattern.layout.height}px",
                ),
            ],
            open=True,
        ),
        html.H3("Raises most (logits)"),
        html.P(
            [html.Span(f"{text} {value:+.2f}", className="token") for text, value in raised],
            className="tokens",
        ),
        html.H3("Without its edges"),
        parts.pairs(
            [
                ("probability of the answer", f"{whole.probability:.4f} → {cut.probability:.4f}"),
                ("first answer", f"{parts.token(whole.tokens[0])} → {parts.token(cut.tokens[0])}"),
            ]
        ),
    ]


def answers_table(before: Answers, after: Answers | None, label: str) -> html.Div:
    """The ten likeliest answers, and beside them those with parts off or after an edit."""

    def side(title: str, found: Answers) -> html.Div:
        shares = [
            (parts.token(text), share, f"{share:.3f}")
            for text, share in zip(found.tokens, found.probabilities, strict=True)
        ]
        return html.Div([html.H3(title), parts.bars(shares, 1.0)], className="answers-side")

    sides = [side("Answers", before)]
    if after is not None:
        sides.append(side(label, after))
    return html.Div(sides, className="answers")


def tokens(words: Iterable[str], answer: str | None = None) -> html.P:
    """Tokens as little boxes, so that spaces and cuts are seen; the answer's stands out."""
    return html.P(
        [
            html.Span(parts.token(word), className="token hit" if word == answer else "token")
            for word in words
        ],
        className="tokens",
    )


def known_facts(rows: Sequence[tuple[str, Any]], origin: Mapping[str, Any]) -> list[Any]:
    """The summary of a result, and behind it where it comes from."""
    hidden = [
        (str(key), visible(str(value))[:300])
        for key, value in sorted(origin.items())
        if isinstance(value, str | int | float | bool)
    ]
    return [
        parts.heading("Summary"),
        parts.pairs(rows),
        html.Details(
            [html.Summary("Where it comes from"), parts.pairs(hidden)], className="origin"
        ),
    ]
