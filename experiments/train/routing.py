"""Routing: what a token may read, and which MLPs work on it, while facts are trained.

A small model left alone looks a fact up wherever it is cheapest: at the last token, from subject
tokens that attention copies there in the first layer. Routing makes the long way the only way:

1. below `assemble_from`, the tokens of a mention do not see one another, so that a subject of
   several tokens can only be recognised, and its facts recalled, from that layer on;
2. below `move_from`, tokens outside a mention do not see it, and from there on they see its last
   token only, so that what is known of a subject gathers at that token and moves late;
3. MLPs from `move_from` on are at times off outside mentions, so that what moves is the answer
   and not the name of the subject;
4. the first MLPs are off at subject tokens, and a penalty on their output there keeps them quiet
   where they are on, which leaves recall to the MLPs between and to attention.

All of this is hooks on an ordinary model; nothing of it remains when they are removed.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from experiments.train.anatomy import Hooked, anatomy
from experiments.train.recipe import Routing

BLOCKED = -1e4


class Router(Hooked):
    """Context manager that routes `model`; call `next_batch` before every training pass."""

    def __init__(self, model: PreTrainedModel, routing: Routing, seed: int):
        super().__init__()
        self.routing = routing
        self._generator = torch.Generator().manual_seed(seed)
        self._inside: Tensor = torch.empty(0)
        self._loudness: list[Tensor] = []
        self._masks: list[Tensor] = []
        self._mlp_on: list[Tensor] = []
        parts = anatomy(model)
        self._layers = len(parts.blocks)

        def listen(module, inputs, output):
            if not self._mlp_on:
                return
            self._loudness.append(output[self._inside].float().square().sum(-1).mean())

        def mask(layer):
            def hook(module, arguments, keywords):
                if not self._masks:
                    return None
                return arguments, {**keywords, "attention_mask": self._masks[layer]}

            return hook

        def switch(layer):
            def hook(module, inputs, output):
                if not self._mlp_on:
                    return None
                return output * self._mlp_on[layer].to(output.dtype)

            return hook

        for layer in range(self._layers):
            attention, mlp = parts.attentions[layer], parts.mlps[layer]
            self._handles.append(attention.register_forward_pre_hook(mask(layer), with_kwargs=True))
            if self._off_at_subject(layer):
                self._handles.append(mlp.register_forward_hook(listen))
            if self._ever_off(layer):
                self._handles.append(mlp.register_forward_hook(switch(layer)))

    def _ever_off(self, layer: int) -> bool:
        late = layer >= self.routing.move_from and self.routing.late_mlp_off > 0
        return late or self._off_at_subject(layer)

    def _off_at_subject(self, layer: int) -> bool:
        return layer < len(self.routing.mlp_off) and self.routing.mlp_off[layer] > 0

    def next_batch(self, mentions: Int[Tensor, "batch pos"], share: float) -> None:
        """Draw which documents are routed (each with probability `share`) and set the masks."""
        routing, batch = self.routing, mentions.shape[0]
        routed = self._chance(batch, share)
        inside = self._inside = mentions > 0
        self._loudness = []
        group = torch.where(routed, mentions, 0)
        masks = {
            "assemble": self._additive(_outside(group) | _within(group)),
            "recall": self._additive(_outside(group)),
            "move": self._additive(_outside(group) & ~last_of_mention(group)[:, None, :]),
        }
        self._masks = [
            masks["move"]
            if layer >= routing.move_from
            else masks["assemble" if layer < routing.assemble_from else "recall"]
            for layer in range(self._layers)
        ]
        late_off = routed & self._chance(batch, routing.late_mlp_off) & ~inside
        self._mlp_on = []
        for layer in range(self._layers):
            off = late_off if layer >= routing.move_from else torch.zeros_like(inside)
            if layer < len(routing.mlp_off):
                off = off | (routed & self._chance(batch, routing.mlp_off[layer]) & inside)
            self._mlp_on.append((~off)[..., None])

    def rest(self) -> None:
        """Leave the model as it is without a router, until the next batch."""
        self._masks, self._mlp_on = [], []

    def loudness(self) -> Float[Tensor, ""]:
        """Mean squared norm of what the MLPs of `mlp_off` say at subject tokens, on or off."""
        if not self._loudness or not self._inside.any():
            return torch.zeros(())
        return torch.stack(self._loudness).mean()

    def _chance(self, batch: int, probability: float) -> Bool[Tensor, "batch 1"]:
        return torch.rand(batch, 1, generator=self._generator) < probability

    @staticmethod
    def _additive(blocked: Bool[Tensor, "batch query key"]) -> Tensor:
        batch, length, _ = blocked.shape
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = torch.zeros(batch, length, length).masked_fill(blocked | causal, BLOCKED)
        return scores[:, None].bfloat16()


def _outside(mentions: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Keys inside a mention that the query is not part of."""
    return (mentions > 0)[:, None, :] & (mentions[:, :, None] != mentions[:, None, :])


def _within(mentions: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch query key"]:
    """Other keys of the query's own mention."""
    same = (mentions > 0)[:, None, :] & (mentions[:, :, None] == mentions[:, None, :])
    return same & ~torch.eye(mentions.shape[1], dtype=torch.bool)


def last_of_mention(mentions: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """The last token of every mention."""
    following = torch.cat([mentions[:, 1:], torch.zeros_like(mentions[:, :1])], dim=1)
    return (mentions > 0) & (following != mentions)
