"""The product behind edge attribution: what sources write times how inputs matter, all at once.

One matrix product a layer and example gives the scores of every edge into the layer; where spans
are told apart, one for each stretch of positions of one span. Sources and gradients stand in
d_model space only here, in buffers of a bounded size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.model.wiring import Wiring
from locate.edges.passes import InputGradients, SourceDifferences
from locate.edges.room import Contraction, Share


@torch.no_grad()
def contract(
    wiring: Wiring,
    differences: SourceDifferences,
    gradients: InputGradients,
    n_examples: int,
    share: Share,
    spans: Int[np.ndarray, "pair pos"] | None = None,
) -> Float[Tensor, "pair *span src dst"]:
    """Inner products of source differences and input gradients, example by example.

    `spans` are the places of the spans of the positions that were run, where the wiring tells them
    apart.
    """
    model = gradients.model
    n_positions = gradients.final(slice(None)).shape[0] // n_examples
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    shape = (n_examples, wiring.n_spans, wiring.n_src, wiring.n_dst)
    scores = torch.zeros(shape, dtype=torch.float32, device=model.device)
    row_bytes = Contraction.of(model, wiring).position
    for examples, rows in _pieces(n_examples, n_positions, row_bytes, share):
        size = (rows.stop - rows.start, model.d_model)
        parts = list(_stretches(examples, rows, n_positions, spans))
        sources = torch.empty(wiring.n_src, *size, dtype=dtype, device=model.device)
        inputs = torch.empty(wiring.n_attn + 1, *size, dtype=dtype, device=model.device)
        sources[0] = differences.values["embedding"].reshape(-1, model.d_model)[rows]
        # A layer's MLP reads the same sources as the next layer's heads, less one, and stands
        # right before them in the wiring: both share one product.
        for layer in range(wiring.n_layers + 1):
            is_end, has_mlp = layer == wiring.n_layers, layer > 0
            if has_mlp:
                inputs[0] = gradients.mlp(layer - 1, rows)
            if is_end:
                inputs[1] = gradients.final(rows)
            else:
                gradients.attention(layer, rows, inputs[1:])
            read = inputs[: 2 if is_end else None][0 if has_mlp else 1 :]
            stop = wiring.attn_dst(layer) + (1 if is_end else wiring.n_attn)
            n_src = wiring.head_src(layer)
            _inner_products(
                sources[:n_src], read, scores[..., :n_src, stop - len(read) : stop], parts
            )
            if not is_end:
                differences.write_layer(layer, rows, sources, n_src)
        del sources, inputs, read  # before the next piece makes its own
    return scores if wiring.spans else scores[:, 0]


def _pieces(
    n_examples: int, n_positions: int, row_bytes: int, share: Share
) -> Iterator[tuple[slice, slice]]:
    """Examples and their rows whose buffers fit; a part of one example's rows where it is split."""
    at_once = share.buffer // row_bytes
    if share.split and at_once < n_positions:
        for example in range(n_examples):
            first, stop = example * n_positions, (example + 1) * n_positions
            for start in range(first, stop, max(1, at_once)):
                rows = slice(start, min(start + max(1, at_once), stop))
                yield slice(example, example + 1), rows
        return
    example_bytes = row_bytes * n_positions
    n_chunks = min(n_examples, -(-n_examples * example_bytes // share.buffer))
    chunk = -(-n_examples // n_chunks)
    for first in range(0, n_examples, chunk):
        examples = slice(first, min(first + chunk, n_examples))
        yield examples, slice(examples.start * n_positions, examples.stop * n_positions)


def _stretches(
    examples: slice, rows: slice, n_positions: int, spans: Int[np.ndarray, "pair pos"] | None
) -> Iterator[tuple[int, int, slice]]:
    """Example, span and rows, from the first of `rows` on, of positions that are added up."""
    for example in range(examples.start, examples.stop):
        first = max(rows.start, example * n_positions)
        stop = min(rows.stop, (example + 1) * n_positions)
        if spans is None:
            yield example, 0, slice(first - rows.start, stop - rows.start)
            continue
        places = spans[example, first - example * n_positions : stop - example * n_positions]
        ends = [*(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            here = slice(first - rows.start + start, first - rows.start + end)
            yield example, int(places[start]), here


def _inner_products(
    sources: Float[Tensor, "src row d_model"],
    inputs: Float[Tensor, "dst row d_model"],
    out: Float[Tensor, "pair span src dst"],
    parts: Sequence[tuple[int, int, slice]],
) -> None:
    """Add the products of each part of the rows to its example's span."""
    width = sources.shape[2]
    left, right = sources.flatten(1), inputs.flatten(1)
    for example, span, rows in parts:
        part = slice(rows.start * width, rows.stop * width)
        out[example, span].add_(left[:, part] @ right[:, part].T)
