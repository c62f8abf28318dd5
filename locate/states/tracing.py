"""Causal tracing: which hidden state, restored, brings a forgotten fact back (Meng et al. 2022).

1. Run the prompt: the probability of the answer is `p_clean`.
2. Add Gaussian noise to the embeddings of the subject's tokens: it falls to `p_corrupted`. Its
   standard deviation is 3 times that of the whole embedding matrix by default, which needs no
   list of subjects; Meng et al.'s is 3 times that of their subjects' embeddings, which is less.
3. Corrupt again, and set one state (a kind, a layer or window of layers, a position) back to its
   clean value. What the probability gains over `p_corrupted` is the state's indirect effect.

The noise is drawn once and is the same for every state. `locate.states.sweep` does step 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import NoiseUnit, TraceKind
from circuits.base.errors import NumericalError, OptionError
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tokens import Prompt, Span
from locate.states.noise import check_noise, noise_std, subject_noise
from locate.states.sweep import (
    CorruptedRun,
    Measure,
    Site,
    corrupted_run,
    probability_of,
    restore_at,
)
from locate.states.trace_result import ALL_KINDS, Trace

MAX_ROWS = 256


@alone
def trace(
    model: Model,
    prompt: str,
    subject: str,
    answer: str,
    *,
    kinds: Sequence[TraceKind | str] = ALL_KINDS,
    window: int = 10,
    noise: float = 3.0,
    noise_unit: NoiseUnit | str | float = NoiseUnit.MATRIX,
    samples: int = 10,
    seed: int = 0,
    bos: bool | None = None,
    max_rows: int = MAX_ROWS,
) -> Trace:
    """Trace one prompt: `trace_tokens` with the subject's one mention and the answer's first token.

    Its provenance has a warning where the model answers something else. PromptError for a subject
    that is not there exactly once or an answer that cannot follow.
    """
    encoded = model.tokenizer.encode(prompt, bos)
    span, token = encoded.span_of(subject), model.tokenizer.first_token(prompt, answer)
    found = trace_tokens(
        model,
        encoded,
        span,
        answer,
        token,
        kinds=kinds,
        window=window,
        noise=noise,
        noise_unit=noise_unit,
        samples=samples,
        seed=seed,
        max_rows=max_rows,
    )
    warnings = _another_answer(model, encoded, found)
    return replace(found, provenance={**found.provenance, "warnings": warnings})


@torch.no_grad()
def _another_answer(model: Model, prompt: Prompt, found: Trace) -> list[str]:
    """A line where the traced answer is not what the model says: its effects are no recall."""
    logits = model.last_logits(torch.tensor([prompt.ids], device=model.device))
    said = int(logits.argmax())
    if said == found.answer_token:
        return []
    return [
        f"{model.name!r} does not answer {found.answer!r} here (p {found.p_clean:.4f}) but "
        f"{model.tokenizer.token_string(said)!r}; what is traced is no recall"
    ]


@alone
@torch.no_grad()
def trace_tokens(
    model: Model,
    prompt: Prompt,
    subject: Span,
    answer: str,
    token: int,
    *,
    kinds: Sequence[TraceKind | str] = ALL_KINDS,
    window: int = 10,
    noise: float = 3.0,
    noise_unit: NoiseUnit | str | float = NoiseUnit.MATRIX,
    samples: int = 10,
    seed: int = 0,
    max_rows: int = MAX_ROWS,
) -> Trace:
    """Trace a tokenised prompt over all layers and positions (Meng et al. 2022, section 2).

    `token` is the one of the answer whose probability is followed.

    `noise` is in units of `noise_unit`: the standard deviation of the token embedding matrix, that
    of this subject's embeddings, or a number (`subjects_std` of many subjects). `window` is the
    number of layers over which MLP or attention outputs are restored together (the residual stream
    is always restored at one layer). `max_rows` bounds the sequences in one batch, and so the
    memory; it does not change the result. OptionError for absurd options.
    """
    chosen = tuple(dict.fromkeys(TraceKind.of(kind) for kind in kinds))
    check_room(len(chosen), window, max_rows)
    check_noise(noise, samples)
    model.check_length(len(prompt))
    start, stop = prompt.offsets[subject.start][0], prompt.offsets[subject.last][1]
    unit = noise_std(model, noise_unit, [prompt.text[start:stop].strip()])
    noises = subject_noise(model, len(subject), noise, samples, seed, unit)

    parts = [
        _trace_samples(model, prompt, subject, token, chosen, window, part, max_rows)
        for part in noises.split(max_rows)
    ]
    found = {kind: np.concatenate([part[1][kind] for part in parts], -1) for kind in chosen}
    corrupted = np.concatenate([part[0][1:] for part in parts])
    clean = parts[0][0][:1]
    if not all(np.isfinite(values).all() for values in (clean, corrupted, *found.values())):
        raise NumericalError(f"tracing {prompt.text!r} gave NaN or infinity")
    return Trace(
        prompt=prompt.text,
        tokens=prompt.tokens,
        subject=subject,
        answer=answer.strip(),
        answer_token=token,
        p_clean=float(clean[0]),
        p_corrupted_samples=corrupted,
        probabilities=found,
        provenance={
            **model.provenance,
            "method": "causal tracing",
            "window": window,
            "noise": noise,
            "noise_unit": str(noise_unit),
            "embedding_std": unit,
            "samples": samples,
            "seed": seed,
            "bos": prompt.bos,
        },
    )


def usual_window(n_layers: int) -> int:
    """Meng et al.'s window, 10 of GPT-2 XL's 48 layers, in proportion; at least 1 layer."""
    return max(1, n_layers * 10 // 48)


def restored_layers(kind: TraceKind | str, layer: int, window: int, n_layers: int) -> range:
    """The layers that one cell of a trace restores: `window` of them, clipped at the model's ends.

    As in Meng et al.'s code, a window of even width reaches one layer further down than up.
    """
    around = range(max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2))
    return {
        TraceKind.RESID: range(layer, layer + 1),
        TraceKind.MLP: around,
        TraceKind.ATTN: around,
    }[TraceKind.of(kind)]


def _trace_samples(
    model: Model,
    prompt: Prompt,
    subject: Span,
    answer: int,
    kinds: Sequence[TraceKind],
    window: int,
    noise: Float[Tensor, "sample subject d_model"],
    max_rows: int,
) -> tuple[np.ndarray, dict[TraceKind, np.ndarray]]:
    """Probabilities of the clean and corrupted rows, and with each state restored."""
    tokens = torch.tensor(prompt.ids, device=model.device)
    run = corrupted_run(model, tokens, subject, noise, answer)
    measure = probability_of(answer)
    restored = restored_values(model, run, subject.start, kinds, window, measure, max_rows)
    return run.value.cpu().numpy(), restored


def restored_values(
    model: Model,
    run: CorruptedRun,
    first: int,
    kinds: Sequence[TraceKind],
    window: int,
    measure: Measure,
    max_rows: int,
) -> dict[TraceKind, Float[np.ndarray, "layer pos sample"]]:
    """What is measured with each state restored; before position `first` the run is clean."""
    corrupted = run.value[1:].cpu().numpy()
    cells: dict[Site, list[tuple[TraceKind, int]]] = {}
    for kind in kinds:
        for layer in range(model.n_layers):
            layers = restored_layers(kind, layer, window, model.n_layers)
            cells.setdefault(Site(kind, layers.start, layers.stop), []).append((kind, layer))
    # A state at an earlier position is clean already: restoring it changes nothing.
    shape = (model.n_layers, run.length, run.n_samples)
    found = {kind: np.broadcast_to(corrupted, shape).copy() for kind in kinds}
    sites = sorted(cells)  # windows that begin together share their first layers
    size = max(1, max_rows // run.n_samples)
    for position in range(first, run.length):
        for start in range(0, len(sites), size):
            restored = restore_at(model, run, position, sites[start : start + size], measure)
            for site, values in restored.items():
                for kind, layer in cells[site]:
                    found[kind][layer, position] = values.cpu().numpy()
    return found


def check_room(n_kinds: int, window: int, max_rows: int) -> None:
    """OptionError where there is nothing to restore, or no room."""
    if n_kinds < 1:
        raise OptionError("name at least one kind of state to restore: resid, mlp or attn")
    if window < 1:
        raise OptionError(f"the window must be at least 1 layer, not {window}")
    if max_rows < 1:
        raise OptionError(f"a batch must have room for at least 1 row, not {max_rows}")
