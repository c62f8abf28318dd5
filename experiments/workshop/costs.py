"""What each method costs beside the passes that it cannot do without, as ratios of CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from circuits.base.choices import TraceKind
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.rome import RomeSettings, rome
from circuits.edits.parts.contexts import PlacedPrompt, place, place_essence, sample_contexts
from circuits.edits.parts.moments import Moments
from circuits.edits.parts.value import ValueSettings
from circuits.facts.batches import padded
from circuits.graph.curve import FRACTIONS
from circuits.graph.evaluate import run_circuits
from circuits.graph.scores import EdgeScores
from circuits.graph.select import greedy, top_n
from circuits.model.model import Model, load
from circuits.model.tokens import Span
from circuits.model.wiring import Wiring
from experiments.workshop.bare import (
    KINDS,
    N_SHARED,
    STEPS,
    BarePasses,
    forward_all,
    gpt2,
    numbered_tokenizer,
    of_kind,
    of_one_length,
    random_pairs,
)
from experiments.workshop.plain_tracing import plain_trace
from locate.asking import Collected
from locate.discover import discover
from locate.edges.eap import attribute
from locate.edges.locators import Locator
from locate.examples import collect, relations_of
from locate.options import Source
from locate.search import Scoring, Search
from locate.states.noise import subject_noise
from locate.states.tracing import trace
from viz.layout import lay_out

EAP = Scoring(Locator.EAP)
EAP_IG = Scoring(Locator.EAP_IG, steps=STEPS)


@dataclass(frozen=True)
class Measurement:
    """One figure beside its bar, if it has one; `at_most` says on which side of it it should be."""

    name: str
    value: float
    bar: float | None
    unit: str = "ratio"
    at_most: bool = True
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side of its bar."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**vars(self), "passed": self.passed}


def ratio(ours: Callable[[], object], bare: Callable[[], object], repeats: int) -> float:
    """Fastest CPU time of one side over that of the other, alternating."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(repeats + 1):  # the first round warms up and is dropped
        for side, work in enumerate((ours, bare)):
            start = time.process_time()
            work()
            times[side].append(time.process_time() - start)
    return min(times[0][1:]) / min(times[1][1:])


def attribution_costs(shape: str, bars: tuple[float, float], repeats: int) -> list[Measurement]:
    """EAP and EAP-IG (5 steps) beside the bare passes, with and without a shared beginning."""
    model = Model.from_hf(gpt2(shape), numbered_tokenizer(50257), shape)
    bare_model = gpt2(shape)
    results = []
    for shared in (N_SHARED, 1):
        pairs = random_pairs(model, shared)
        bare = BarePasses(bare_model, pairs)
        note = f"prompts share their first {shared} token{'s' if shared > 1 else ''}"
        for name, options, passes, bar in (
            ("EAP / bare (2 forward + 1 backward)", EAP, bare.eap, bars[0]),
            ("EAP-IG, 5 steps / bare", EAP_IG, bare.eap_ig, bars[1]),
        ):
            ours = partial(attribute, model, pairs, options)
            value = ratio(ours, passes, repeats)
            results.append(Measurement(f"{shape}: {name}", value, bar, note=note))
    return results


def discover_cost() -> list[Measurement]:
    """The knowledge check and `discover` on a language model beside the plain model's passes.

    32 pairs that find a circuit and 32 that test it. Bare: every question once, EAP-IG's passes,
    and clean, corrupted and circuit run of both sides. The plain model has the same shape.
    """
    model = load("smollm2-135m")
    source = Source("country_capital", n_pairs=32)
    plain = LlamaForCausalLM(model.bridge.original_model.config).eval().requires_grad_(False)
    check = Collected(model, source, relations_of(source), 32)
    check.paired(None)
    asked = [model.tokenizer.encode(each.question.prompt).ids for each in check.check.answers]
    examples = collect(model, source)
    sides = [list(examples.pairs), list(examples.held_out)]
    groups = [[BarePasses(plain, group) for group in of_one_length(side)] for side in sides]

    def bare() -> None:
        forward_all(plain, asked)
        for group in groups[0]:
            group.eap_ig()
        for group in [*groups[0], *groups[1]] * 3:
            group.forward()

    results = []
    for name, search, bar in (
        ("2,000 edges", Search(edges=2000, n_random=0, roles=False), 2.2),
        ("all that kc discover does", Search(), None),
    ):

        def ours(search: Search = search) -> None:
            discover(model, collect(model, source), search)

        note = f"{len(asked)} questions; {', '.join(str(len(side)) for side in sides)} pairs"
        title = f"smollm2-135m: discover, {name} / bare"
        results.append(Measurement(title, ratio(ours, bare, 1), bar, note=note))
    return results


def architecture_costs() -> list[Measurement]:
    """EAP-IG (5 steps) beside the bare passes, where prompts share one token, by architecture."""
    found = []
    for kind in KINDS:
        model = Model.from_hf(of_kind(kind), numbered_tokenizer(8192), kind)
        pairs = random_pairs(model, 1)
        bare = BarePasses(of_kind(kind), pairs)
        value = ratio(partial(attribute, model, pairs, EAP_IG), bare.eap_ig, 4)
        found.append(Measurement(f"{kind}, 8 layers of 512: EAP-IG, 5 steps / bare", value, 1.5))
    return found


def family_cost() -> list[Measurement]:
    """Ten circuit sizes on the same pairs beside one bare forward pass."""
    model = Model.from_hf(gpt2("gpt2-small"), numbered_tokenizer(50257), "gpt2-small")
    pairs = random_pairs(model)
    scores = attribute(model, pairs, EAP)
    sizes = [max(1, round(share * scores.wiring.n_edges)) for share in FRACTIONS]
    circuits = [top_n(scores, size) for size in sizes]
    bare = BarePasses(gpt2("gpt2-small"), pairs)
    value = ratio(partial(run_circuits, model, pairs, circuits), bare.forward, 4)
    note = "includes the clean, corrupted and empty runs"
    return [Measurement("gpt2-small: 10 circuit sizes / one forward", value, 7.0, note=note)]


def graph_costs() -> list[Measurement]:
    """Work on edges without a model: greedy selection beside a sort, layouts of two sizes."""
    wiring, draw = Wiring(22, 32, 4), np.random.default_rng(0)
    scores = EdgeScores(wiring, draw.standard_normal(wiring.n_edges).astype(np.float32))
    chosen = ratio(partial(greedy, scores, 100_000), partial(np.argsort, scores.values), 4)
    circuit = top_n(scores, 4000)
    drawn = ratio(partial(lay_out, circuit, 2000), partial(lay_out, circuit, 200), 4)
    note = f"{wiring.n_edges:,} edges"
    return [
        Measurement("greedy, 100,000 edges / one sort", chosen, 60.0, note=note),
        Measurement("layout of 2,000 edges / of 200", drawn, 10.0),
    ]


def tracing_cost() -> list[Measurement]:
    """The sweep over all kinds beside the plain loop, which runs at one position and is scaled."""
    n_tokens, samples, position = 13, 10, 6
    model = Model.from_hf(gpt2("gpt2-small"), numbered_tokenizer(50257), "gpt2-small")
    words = [f"t{3 * index + 1}" for index in range(n_tokens)]
    prompt, subject, answer = " ".join(words), " ".join(words[2:5]), "t77"
    ids = torch.tensor(model.tokenizer.encode(prompt, bos=False).ids)
    noise = subject_noise(model, 3, 3.0, samples, 0)

    def plain() -> None:
        for kind in TraceKind:
            plain_trace(model, ids, Span(2, 5), 77, noise, kind, 10, [position])

    ours = partial(trace, model, prompt, subject, answer, samples=samples, bos=False)
    value = n_tokens / ratio(ours, plain, 1)
    note = f"{n_tokens} tokens, {samples} samples, window 10; loop run at one position, scaled"
    name = "gpt2-small: causal tracing, all kinds, plain loop / sweep"
    return [Measurement(name, value, 10.0, at_most=False, note=note)]


def rome_cost(layer: int = 4) -> list[Measurement]:
    """A whole ROME edit beside the 20 passes over its batch that it cannot do without.

    Second moments are at hand, but not yet factorised. Bare passes are forward passes of the whole
    model, with logits where a target or the essence is predicted, and backward to the added vector.
    """
    model = Model.from_hf(gpt2("gpt2-small"), numbered_tokenizer(50257), "gpt2-small")
    request = EditRequest("t1 t2 {} t3 t4", "t5", "t77")
    draws = torch.randn(4096, 3072, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = draws.T @ draws / len(draws)
    settings = RomeSettings((layer,), ValueSettings(stop_below=-1.0))

    def ours() -> WeightDelta:
        fresh = Moments({layer: moments}, "", {"kind": "text"})
        generator = torch.Generator().manual_seed(0)
        return rome(model, [request], [layer], settings, fresh, generator)[0]

    contexts = sample_contexts(model, settings.contexts, torch.Generator().manual_seed(0))
    prompts = [place(model, request, context) for context in contexts]
    prompts.append(place_essence(model, request.subject))
    plain = gpt2("gpt2-small")
    plain.set_attn_implementation("eager")

    def bare() -> None:
        for _ in range(settings.value.steps):
            bare_value_pass(plain, prompts, layer)

    value = ratio(ours, bare, 1)
    note = f"layer {layer} of 12, {len(contexts)} contexts; a step runs what comes after"
    return [Measurement("gpt2-small: ROME / its 20 optimisation passes", value, 1.3, note=note)]


def bare_value_pass(model: GPT2LMHeadModel, prompts: Sequence[PlacedPrompt], layer: int) -> Tensor:
    """One pass of ROME's optimisation with a plain model: the gradient for the added vector."""
    tokens = padded([prompt.ids for prompt in prompts], model.device)[0]
    rows = torch.arange(len(prompts))
    delta = torch.zeros(model.config.n_embd, requires_grad=True)
    subject = torch.tensor([prompt.subject_last for prompt in prompts])
    ends = torch.tensor([prompt.prompt_length - 1 for prompt in prompts])

    def add(module: object, inputs: object, output: Tensor) -> Tensor:
        return output.index_put((rows, subject), delta.expand(len(rows), -1), accumulate=True)

    mlp: Any = model.transformer.h[layer].mlp
    handle = mlp.register_forward_hook(add)
    try:
        hidden = model.transformer(tokens, use_cache=False).last_hidden_state[rows, ends]
    finally:
        handle.remove()
    return torch.autograd.grad(model.lm_head(hidden).log_softmax(-1)[:, 77].sum(), delta)[0]
