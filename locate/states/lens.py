"""What the residual stream says about the answer: logit lens and direct logit attribution.

The logit lens (nostalgebraist 2020) reads every layer's residual stream through the final norm and
the output matrix. Direct logit attribution (Elhage et al. 2021) splits the final logit difference
into what each head and MLP wrote; with the final norm's denominator kept as it is in the run, the
split is exact:

    logit difference = sum over sources of contribution + constant

where the constant is what belongs to no source: position embeddings, the attention blocks' output
biases and the final norm's shift. TransformerLens' `logit_attrs` is not used because on raw
weights it leaves out the final norm's gain, so its parts do not sum to the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.display import Summary, named, plotted, token_name
from circuits.base.errors import OptionError
from circuits.base.results import Result, numeric, texts
from circuits.facts.pairs import TokenPair, batches
from circuits.model import taps
from circuits.model.metrics import rank
from circuits.model.model import Hook, Model
from circuits.model.tokens import Prompt
from circuits.model.wiring import Wiring, stored_wiring
from locate.states.frozen_norm import FrozenNorm

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = 12
"""Contributions in a summary."""
_ATTRIBUTED = ("contributions", "constant", "logit_difference")


@dataclass(frozen=True, eq=False)
class LensResult(Result):
    """The logit lens on one prompt.

    State 0 is the embedding, state l + 1 the residual stream after layer l; the last state is the
    model's own output. `positions` and `labels` name the other two axes; `best` holds the ids of
    each state's most likely tokens, likeliest first.
    """

    KIND = "lens"

    prompt: Prompt
    positions: Mapping[str, int]
    labels: Mapping[str, int]
    rank: Int[np.ndarray, "state position label"]
    probability: Float[np.ndarray, "state position label"]
    best: Int[np.ndarray, "state position top"]
    best_tokens: Mapping[int, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One record a state, position and label, for tables; layer -1 is the embedding."""
        return [
            {
                "layer": state - 1,
                "position": where,
                "label": label,
                "rank": int(self.rank[state, place, column]),
                "probability": float(self.probability[state, place, column]),
                "best": self.best_tokens[int(self.best[state, place, 0])],
            }
            for state in range(self.rank.shape[0])
            for place, where in enumerate(self.positions)
            for column, label in enumerate(self.labels)
        ]

    def summary(self) -> Summary:
        """Rank of what is followed and the most likely token, layer by layer, at one position."""
        place = next(iter(self.positions))
        rows = [
            (
                "embedding" if not state else str(state - 1),
                *(str(rank) for rank in self.rank[state, 0].tolist()),
                token_name(self.best_tokens[int(self.best[state, 0, 0])]),
            )
            for state in range(self.rank.shape[0])
        ]
        return Summary(
            "Logit lens",
            {"prompt": self.prompt.text, **named(self.provenance, "model")},
            f"rank at {place!r} (0 is the top)",
            ("layer", *self.labels, "most likely"),
            rows,
        )

    def plot(self, **options: Any) -> go.Figure:
        """Rank and probability by layer; options are those of `viz.screen.lens_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers, for a file; `metadata` holds the rest."""
        return {"rank": self.rank, "probability": self.probability, "best": self.best}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {
            "prompt": self.prompt.text,
            "ids": list(self.prompt.ids),
            "tokens": list(self.prompt.tokens),
            "offsets": [list(pair) for pair in self.prompt.offsets],
            "bos": self.prompt.bos,
            "positions": dict(self.positions),
            "labels": dict(self.labels),
            "best_tokens": [[index, text] for index, text in self.best_tokens.items()],
            "provenance": dict(self.provenance),
        }

    def heading(self) -> str:
        """The prompt."""
        return self.prompt.text

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> LensResult:
        """The inverse of `arrays` and `metadata`; OptionError where they are no logit lens."""
        try:
            found = cls(
                prompt=Prompt(
                    text=str(metadata["prompt"]),
                    ids=tuple(map(int, metadata["ids"])),
                    tokens=texts(metadata["tokens"]),
                    bos=bool(metadata["bos"]),
                    offsets=tuple((int(start), int(stop)) for start, stop in metadata["offsets"]),
                ),
                positions={str(k): int(at) for k, at in metadata["positions"].items()},
                labels={str(k): int(token) for k, token in metadata["labels"].items()},
                rank=numeric(arrays, "rank", "i", 3),
                probability=numeric(arrays, "probability", "f", 3),
                best=numeric(arrays, "best", "i", 3),
                best_tokens={int(index): str(text) for index, text in metadata["best_tokens"]},
                provenance=dict(metadata["provenance"]),
            )
        except (AttributeError, KeyError, ValueError, TypeError) as error:
            raise OptionError(f"these arrays are not a logit lens: {error}") from None
        shape, axes = found.rank.shape, (len(found.positions), len(found.labels))
        n_tokens = len(found.prompt.tokens)
        inside = all(0 <= place < n_tokens for place in found.positions.values())
        fits = all(shape) and shape[1:] == axes and found.probability.shape == shape and inside
        if not fits or not found.best.size or found.best.shape[:2] != shape[:2]:
            raise OptionError("these arrays are not a logit lens: their shapes do not fit")
        if not set(np.unique(found.best).tolist()) <= set(found.best_tokens):
            raise OptionError("these arrays are not a logit lens: tokens without a name")
        return found


@dataclass(frozen=True, eq=False)
class LogitAttribution(Result):
    """Contributions of the wiring's sources to the logit difference, answer minus foil.

    Positive contributions speak for the answer. An MLP's contains its output bias. For every pair
    the contributions and the constant sum to the logit difference.
    """

    KIND = "attribution"

    wiring: Wiring
    contributions: Float[np.ndarray, "pair src"]
    constant: Float[np.ndarray, " pair"]
    logit_difference: Float[np.ndarray, " pair"]
    provenance: Mapping[str, Any]

    def mean(self) -> Float[np.ndarray, " src"]:
        """Contributions averaged over pairs."""
        return self.contributions.mean(0)

    def rows(self) -> list[dict[str, Any]]:
        """One record a source, the largest contribution by size first."""
        mean = self.mean()
        names = self.wiring.src_names
        order = np.argsort(-np.abs(mean), kind="stable")
        return [{"source": names[src], "contribution": float(mean[src])} for src in order]

    def summary(self) -> Summary:
        """The mean logit difference, and the largest contributions."""
        rows = [(row["source"], f"{row['contribution']:+.3f}") for row in self.rows()[:SHOWN]]
        facts = named(self.provenance, "model", "relation", "pairs")
        facts["mean logit difference"] = f"{self.logit_difference.mean():.3f}"
        header = ("source", "logits")
        return Summary("Direct logit attribution", facts, "largest contributions", header, rows)

    def plot(self, **options: Any) -> go.Figure:
        """Bars, largest first; options are those of `viz.screen.attribution_figure`."""
        return plotted(self, **options)

    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers of each pair, for a file."""
        return {name: getattr(self, name) for name in _ATTRIBUTED}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values."""
        return {"geometry": self.wiring.geometry(), "provenance": dict(self.provenance)}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
    ) -> LogitAttribution:
        """The inverse of `arrays` and `metadata`; OptionError where shapes do not fit."""
        wiring = stored_wiring(metadata)
        numbers = [numeric(arrays, name, "f", 1 + (not at)) for at, name in enumerate(_ATTRIBUTED)]
        n_pairs = len(numbers[0])
        shapes = [each.shape for each in numbers]
        if not n_pairs or shapes != [(n_pairs, wiring.n_src), (n_pairs,), (n_pairs,)]:
            raise OptionError("the shapes do not fit")
        contributions, constant, difference = numbers
        origin = dict(metadata["provenance"])
        return cls(wiring, contributions, constant, difference, origin)


@dataclass(frozen=True)
class WrittenTokens:
    """The tokens whose logits a head raises and lowers most, with by how much (in logits)."""

    layer: int
    head: int
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]


def lens_positions(prompt: Prompt, subject: str | None = None) -> dict[str, int]:
    """The positions that are usually looked at: the last token and the subject's last token."""
    positions = {"last": len(prompt) - 1}
    if subject is not None:
        positions["subject last"] = prompt.span_of(subject).last
    return positions


@torch.no_grad()
def residual_states(
    model: Model, tokens: Int[Tensor, "batch pos"], places: Int[Tensor, "batch place"]
) -> list[Float[Tensor, "batch place d_model"]]:
    """The embedding and the residual stream after every layer, at places of each prompt."""
    states: list[Tensor] = []
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]

    def read(value: Tensor, hook: Any) -> None:
        states.append(value[rows, places])

    names = [taps.resid_pre(layer) for layer in range(model.n_layers)]
    names.append(taps.resid_post(model.n_layers - 1))
    model.last_logits(tokens, [(name, read) for name in names])
    return states


@torch.no_grad()
def logit_lens(
    model: Model,
    prompt: Prompt,
    tokens: Mapping[str, int],
    positions: Mapping[str, int] | None = None,
    top: int = 5,
) -> LensResult:
    """Rank (0 is best) and probability of some tokens at every layer of some positions.

    `tokens` maps labels (answer, foil, ...) to token ids; `positions` maps names to positions,
    by default the last token alone.
    """
    positions = lens_positions(prompt) if positions is None else positions
    _check_lens(model, prompt, tokens, positions, top)
    ids = torch.tensor([prompt.ids], device=model.device)
    places = torch.tensor([list(positions.values())], device=model.device)
    states = residual_states(model, ids, places)
    logits = model.unembed(torch.stack(states)[:, 0]).float()
    probability = logits.softmax(-1)
    columns = list(tokens.values())
    ranks = [
        rank(logits, torch.full(logits.shape[:2], token).to(logits.device)) for token in columns
    ]
    best = logits.topk(min(top, logits.shape[-1]), -1).indices.cpu().numpy()
    return LensResult(
        prompt=prompt,
        positions=dict(positions),
        labels=dict(tokens),
        rank=torch.stack(ranks, -1).cpu().numpy(),
        probability=probability[..., columns].cpu().numpy(),
        best=best,
        best_tokens={int(i): model.tokenizer.token_string(int(i)) for i in np.unique(best)},
        provenance={**model.provenance, "method": "logit lens", "bos": prompt.bos},
    )


@torch.no_grad()
def direct_logit_attribution(
    model: Model, pairs: Sequence[TokenPair], batch_size: int = 16
) -> LogitAttribution:
    """Each source's part in the clean prompt's logit difference at the last position."""
    if not pairs:
        raise OptionError("there are no prompt pairs to work on")
    wiring = model.wiring()
    contributions = np.empty((len(pairs), wiring.n_src))
    constant, difference = np.empty(len(pairs)), np.empty(len(pairs))
    unembedding = model.unembedding().float()
    for batch in batches(pairs, batch_size, model):
        read = _last_position(model, batch.clean)
        direction = unembedding[batch.answer] - unembedding[batch.foil]
        parts, rest = _contributions(model, read, direction)
        rows = list(batch.index)
        contributions[rows], constant[rows] = parts.cpu().numpy(), rest.cpu().numpy()
        answer, foil = batch.answer[:, None], batch.foil[:, None]
        logits = read["logits"].float()
        found = (logits.gather(1, answer) - logits.gather(1, foil))[:, 0]
        difference[rows] = found.cpu().numpy()
    provenance = {**model.provenance, "method": "direct logit attribution", "pairs": len(pairs)}
    return LogitAttribution(wiring, contributions, constant, difference, provenance)


@torch.no_grad()
def head_logits(
    model: Model, tokens: Int[Tensor, "batch pos"], heads: Sequence[tuple[int, int]]
) -> Float[Tensor, "batch head d_vocab"]:
    """What heads (layer, head) add to each logit at the last position.

    The final norm's denominator is the run's own. Only differences between tokens mean anything.
    """
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise OptionError(
                f"there is no head a{layer}.h{head} in a model of {model.wiring().describe()}"
            )
    read = _last_position(model, tokens)
    written = [
        _head_outputs(model, read, layer)[:, head] @ weight[head]
        for layer, head in heads
        for weight in [model.head_output_weights(layer).float()]
    ]
    norm = FrozenNorm.of_run(model, read["final"])
    return norm.apply(torch.stack(written, 1)) @ model.unembedding().float().T


def written_tokens(
    model: Model, prompt: Prompt, heads: Sequence[tuple[int, int]], top: int = 10
) -> list[WrittenTokens]:
    """The tokens that each head writes for and against at the prompt's last position."""
    if top < 1:
        raise OptionError(f"ask for at least 1 token, not {top}")
    if not heads:
        return []
    ids = torch.tensor([prompt.ids], device=model.device)
    logits = head_logits(model, ids, heads)[0]
    logits = logits - logits.mean(-1, keepdim=True)
    found = []
    for (layer, head), row in zip(heads, logits, strict=True):
        ends = []
        for largest in (True, False):
            values, indices = row.topk(min(top, len(row)), largest=largest)
            words = [model.tokenizer.token_string(index) for index in indices.tolist()]
            ends.append(tuple(zip(words, values.tolist(), strict=True)))
        found.append(WrittenTokens(layer, head, *ends))
    return found


def _last_position(model: Model, tokens: Int[Tensor, "batch pos"]) -> dict[str, Tensor]:
    """What the sources wrote at the last position, by hook name, with `final` and `logits`."""
    read: dict[str, Tensor] = {}

    def keep(name: str, key: str) -> Hook:
        def store(value: Tensor, hook: Any) -> None:
            read[key] = value[:, -1].float()

        return (name, store)

    names = [taps.EMBEDDING] + ([] if model.is_rotary else [taps.POSITIONS])
    for layer in range(model.n_layers):
        names += [taps.head_outputs(layer), taps.mlp_out(layer)]
    hooks = [keep(name, name) for name in names]
    hooks.append(keep(taps.resid_post(model.n_layers - 1), "final"))
    read["logits"] = model.last_logits(tokens, hooks)
    return read


def _contributions(
    model: Model, read: Mapping[str, Tensor], direction: Float[Tensor, "batch d_model"]
) -> tuple[Float[Tensor, "batch src"], Float[Tensor, " batch"]]:
    """Every source's and the constant's part in the logits along a direction of the output."""
    reader = FrozenNorm.of_run(model, read["final"]).pull_back(direction)
    parts = [(read[taps.EMBEDDING] * reader).sum(-1, keepdim=True)]
    unowned = torch.zeros_like(reader)
    if not model.is_rotary:
        unowned = unowned + read[taps.POSITIONS]
    for layer in range(model.n_layers):
        weight = model.head_output_weights(layer).float()
        into_heads = torch.einsum("hed,bd->bhe", weight, reader)
        parts.append((_head_outputs(model, read, layer) * into_heads).sum(-1))
        parts.append((read[taps.mlp_out(layer)] * reader).sum(-1, keepdim=True))
        bias = model.head_output_bias(layer)
        if bias is not None:
            unowned = unowned + bias.float()
    constant = (unowned * reader).sum(-1)
    shift = model.final_norm()[1]
    if shift is not None:
        constant = constant + direction @ shift.float()
    return torch.cat(parts, 1), constant


def _head_outputs(
    model: Model, read: Mapping[str, Tensor], layer: int
) -> Float[Tensor, "batch head d_head"]:
    """Each head's output before the output matrix."""
    output = read[taps.head_outputs(layer)]
    return output.reshape(output.shape[0], model.n_heads, model.d_head)


def _check_lens(
    model: Model,
    prompt: Prompt,
    tokens: Mapping[str, int],
    positions: Mapping[str, int],
    top: int,
) -> None:
    if not tokens:
        raise OptionError("the logit lens needs at least one token to follow")
    if top < 1:
        raise OptionError(f"ask for at least 1 token, not {top}")
    for label, token in tokens.items():
        if not 0 <= token < model.d_vocab:
            raise OptionError(
                f"{label!r}: there is no token {token}, only 0 to {model.d_vocab - 1}"
            )
    if not positions:
        raise OptionError("the logit lens needs at least one position to look at")
    for name, position in positions.items():
        if not 0 <= position < len(prompt):
            raise OptionError(
                f"position {name!r} is {position}, but the prompt has {len(prompt)} tokens"
            )
