"""The training loop, and saving models as half-precision Hugging Face directories."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from experiments.train.anatomy import anatomy
from experiments.train.corpus import END_OF_TEXT_ID, EncodedDocument
from experiments.train.enrichment import Enrichment
from experiments.train.recipe import Recipe
from experiments.train.routing import Router

Callback = Callable[[int, PreTrainedModel], None]


@dataclass(frozen=True)
class TrainingRun:
    """What a finished run reports; times in seconds, of the optimisation alone."""

    steps: int
    tokens: int
    parameters: int
    final_loss: float
    wall_seconds: float
    cpu_seconds: float


def collate(batch: Sequence[EncodedDocument]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token ids, loss weights, mentions and subjects, each `[batch, pos]`, padded on the right."""
    width = max(len(document.ids) for document in batch)
    ids = torch.full((len(batch), width), END_OF_TEXT_ID)
    weights = torch.zeros(len(batch), width)
    mentions = torch.zeros(len(batch), width, dtype=torch.long)
    subjects = torch.zeros_like(mentions)
    for row, document in enumerate(batch):
        length = len(document.ids)
        ids[row, :length] = torch.tensor(document.ids)
        weights[row, :length] = torch.tensor(document.weights)
        mentions[row, :length] = torch.tensor(document.mentions)
        subjects[row, :length] = torch.tensor(document.subjects)
    return ids, weights, mentions, subjects


def _optimizer(model: PreTrainedModel, recipe: Recipe) -> torch.optim.Optimizer:
    embeddings = {id(p) for p in anatomy(model).embedding.parameters()}
    embeddings |= {id(p) for name, p in model.named_parameters() if "wpe" in name or "head" in name}
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for parameter in model.parameters():
        is_matrix = parameter.ndim == 2 and id(parameter) not in embeddings
        (decayed if is_matrix else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def _learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / min(recipe.warm_up_steps, steps // 10 + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    floor = recipe.final_learning_rate
    return recipe.learning_rate * warm_up * (floor + (1 - floor) * cosine)


def train(
    model: PreTrainedModel,
    batches: Sequence[Sequence[EncodedDocument]],
    recipe: Recipe,
    attributes: list[list[int]],
    at_step: Callback,
    report: Callable[[str], None] = print,
) -> TrainingRun:
    """Train in place; `at_step(step, model)` is called before each step and after the last."""
    optimizer = _optimizer(model, recipe)
    steps, tokens, smooth = len(batches), 0, 0.0
    release = steps * (1 - recipe.routing.released)
    wall, cpu, paused_wall, paused_cpu = time.time(), time.process_time(), 0.0, 0.0
    model.train()
    routing = recipe.routing
    with (
        Router(model, routing, recipe.seed) as router,
        Enrichment(model, routing.move_from - 1, attributes) as enrichment,
    ):
        for step, batch in enumerate(batches):
            before_wall, before_cpu = time.time(), time.process_time()
            router.rest()
            at_step(step, model)
            paused_wall += time.time() - before_wall
            paused_cpu += time.process_time() - before_cpu

            ids, weights, mentions, subjects = collate(batch)
            is_routed = step < release
            router.next_batch(mentions[:, :-1], routing.share if is_routed else 0.0)
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(recipe, step, steps)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(
                    ids[:, :-1],
                    attention_mask=torch.ones_like(ids[:, :-1]),  # the router's masks replace it
                    use_cache=False,
                ).logits
            errors = functional.cross_entropy(
                logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
            )
            target_weights = weights[:, 1:].flatten()
            loss = (errors * target_weights).sum() / target_weights.sum()
            objective = loss + routing.quiet * router.loudness()
            if routing.enrichment and is_routed:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    objective = objective + routing.enrichment * enrichment.loss(
                        mentions[:, :-1], subjects[:, :-1]
                    )
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            tokens += sum(len(document.ids) for document in batch)
            smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
            if step % 250 == 0:
                seconds = time.time() - wall - paused_wall
                report(
                    f"step {step:5d}/{steps}  loss {smooth:.3f}  {tokens / 1e6:.2f}M tokens  "
                    f"{seconds:.0f} s  {tokens / seconds:.0f} tokens/s"
                )
    run = TrainingRun(
        steps=steps,
        tokens=tokens,
        parameters=sum(p.numel() for p in model.parameters()),
        final_loss=round(smooth, 4),
        wall_seconds=round(time.time() - wall - paused_wall, 1),
        cpu_seconds=round(time.process_time() - cpu - paused_cpu, 1),
    )
    model.eval()
    at_step(steps, model)
    return run


def save(model: PreTrainedModel, directory: Path) -> None:
    """Write configuration and half-precision weights; `model` itself is left alone."""
    half = copy.deepcopy(model).half()
    half.config.dtype = "float16"
    half.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # written for the owner alone
    (directory / "generation_config.json").unlink(missing_ok=True)  # repeats config.json


def weights_hash(directory: Path) -> str:
    """SHA-256 of the weights file, hexadecimal."""
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def checkpoint_steps(steps: int, count: int, ratio: float = 1.6) -> list[int]:
    """Step 0 and `count - 1` more, each `ratio` times the one before; one more would be the end."""
    if count <= 0:
        return []
    later = {max(1, round(steps / ratio**power)) for power in range(1, count)}
    return [0, *sorted(later)]
