"""What is trained and how: every choice that shapes a model, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Architecture:
    """Sizes of a model; `family` is "gpt2" or "llama"."""

    family: str
    layers: int = 8
    width: int = 160  # residual stream
    heads: int = 8
    key_value_heads: int = 2
    mlp_width: int = 640
    vocabulary: int = 4096
    embedding_std: float = 0.05
    tied: bool = True


@dataclass(frozen=True)
class Routing:
    """Where information may flow while training; layers count from 0. See routing.py.

    assemble_from: first layer in which subject tokens see the other tokens of their mention.
    move_from: first layer in which other tokens see the mention, and then only its last token.
    share: fraction of documents routed; it falls to 0 when the last `released` part begins.
    mlp_off: probability, by layer, that an MLP is off at the subject tokens of a routed document.
    quiet: weight of the squared norm of these MLPs' outputs at subject tokens, in all documents
        and to the end.
    late_mlp_off: probability that MLPs from `move_from` on are off outside mentions.
    enrichment: weight of the loss that asks for a subject's objects at its last token, before
        `move_from` (enrichment.py); it ends with the masks.
    """

    assemble_from: int = 2
    move_from: int = 5
    share: float = 0.85
    released: float = 0.1
    mlp_off: tuple[float, ...] = (1.0, 1.0)
    quiet: float = 0.3
    late_mlp_off: float = 0.4
    enrichment: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on besides the atlas."""

    architecture: Architecture
    routing: Routing = field(default_factory=Routing)
    tokens: int = 1_800_000
    tokens_per_batch: int = 1024
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warm_up_steps: int = 60
    final_learning_rate: float = 0.02
    gradient_norm: float = 1.0
    bos_share: float = 0.9
    seed: int = 0


RECIPES = {
    "facts-gpt2": Recipe(Architecture("gpt2")),
    "facts-llama": Recipe(Architecture("llama", mlp_width=448)),
}
