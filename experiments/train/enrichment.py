"""A loss that asks for what is known of a subject at its last token, in the middle layers.

Subject representations of large models are enriched with the subject's attributes before
attention extracts one of them (Geva et al. 2023). Here this is trained: the final norm and the
unembedding, applied to the hidden state at the last token of a mention below the layer where
information starts to move, should rank the first tokens of all objects of the subject on top.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from experiments.train.anatomy import Hooked, anatomy
from experiments.train.routing import last_of_mention


class Enrichment(Hooked):
    """Context manager that reads the hidden state after `layer` (counted from 0)."""

    def __init__(self, model: PreTrainedModel, layer: int, attributes: list[list[int]]):
        super().__init__()
        self._parts = anatomy(model)
        self._unembedding = model.get_output_embeddings()
        self._states: Tensor = torch.empty(0)
        width = max(map(len, attributes))
        self._objects = torch.tensor([row + [0] * (width - len(row)) for row in attributes])
        counts = torch.tensor([[len(row)] for row in attributes])
        self._share = (torch.arange(width) < counts) / counts.clamp(min=1)

        def keep(module, inputs, output):
            self._states = output[0] if isinstance(output, tuple) else output

        self._handles.append(self._parts.blocks[layer].register_forward_hook(keep))

    def loss(
        self, mentions: Int[Tensor, "batch pos"], subjects: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy, in nats, to the uniform distribution over a subject's objects."""
        chosen = last_of_mention(mentions)
        if not chosen.any():
            return torch.zeros(())
        who = subjects[chosen]
        logits = self._unembedding(self._parts.final_norm(self._states[chosen]))
        said = logits.float().log_softmax(-1).gather(1, self._objects[who])
        return -(said * self._share[who]).sum(1).mean()
