"""Benchmarks: what the methods cost beside the passes that they cannot do without.

Full-size architectures with random weights, fp32 on the CPU, 8 pairs of 20 tokens. "Bare" is a
plain Hugging Face model: the forward and backward passes that the method needs, with logits for
the last position only. Ratios are of the fastest CPU times on one thread, the two sides
alternating in one process, so that a busy machine moves both. Memory is read from /proc and needs
Linux. Where there is a GPU, the Llama shapes are run on it in bf16: seconds and memory, no ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from circuits.base.choices import TraceKind
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.rome import RomeSettings, rome
from circuits.edits.parts.contexts import PlacedPrompt, place, place_essence, sample_contexts
from circuits.edits.parts.keys import pad
from circuits.edits.parts.moments import Moments
from circuits.edits.parts.value import ValueSettings
from circuits.graph.curve import FRACTIONS
from circuits.graph.evaluate import run_circuits
from circuits.graph.scores import EdgeScores
from circuits.graph.select import greedy, top_n
from circuits.model.model import Model, load
from circuits.model.tokens import Span
from circuits.model.wiring import Wiring
from experiments.cli.console import Console
from experiments.workshop.bare import (
    LLAMAS,
    N_SHARED,
    STEPS,
    BarePasses,
    forward_all,
    gpt2,
    llama,
    numbered_tokenizer,
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
    source = Source("country_capital", limit=32)
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
    return [Measurement("gpt2-small: 10 circuit sizes / one forward", value, 10.0, note=note)]


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
    return [Measurement(name, value, 5.0, at_most=False, note=note)]


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
    note = f"layer {layer} of 12, {len(contexts)} contexts; runs only the layers above in each step"
    return [Measurement("gpt2-small: ROME / its 20 optimisation passes", value, 1.3, note=note)]


def bare_value_pass(model: GPT2LMHeadModel, prompts: Sequence[PlacedPrompt], layer: int) -> Tensor:
    """One pass of ROME's optimisation with a plain model: the gradient for the added vector."""
    tokens = pad([prompt.ids for prompt in prompts], model.device)
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


def memory_ratio() -> list[Measurement]:
    """Peak memory above the model: EAP beside a plain forward and backward pass."""
    peaks = {side: _in_own_process(side)["peak_mib"] for side in ("eap", "bare")}
    note = f"{peaks['eap']:.0f} against {peaks['bare']:.0f} MiB"
    value = peaks["eap"] / peaks["bare"]
    return [Measurement("gpt2-small: memory above the model, EAP / bare", value, 1.4, note=note)]


def tinyllama_memory() -> list[Measurement]:
    """Peak memory of the whole process for EAP on TinyLlama's shape in bf16, in GiB."""
    figures = _in_own_process("tinyllama")
    note = f"EAP on 8 pairs in {figures['seconds']:.0f} s; the figure includes the model"
    name = "TinyLlama shape, bf16: peak memory of the process"
    return [Measurement(name, figures["process_gib"], 12.0, "GiB", note=note)]


def large_on_gpu() -> list[Measurement]:
    """Seconds and memory of the main steps on Llama shapes in bf16; nothing without a GPU."""
    if not torch.cuda.is_available():
        return []
    return [each for shape in LLAMAS for each in _on_gpu(shape)]


def _on_gpu(shape: str) -> list[Measurement]:
    hf_model = llama(shape, "cuda")
    model = Model.from_hf(hf_model, numbered_tokenizer(32000), f"{shape}-shape")
    pairs = random_pairs(model)
    bare = BarePasses(hf_model, pairs)
    words = [f"t{3 * index + 1}" for index in range(13)]
    asked = " ".join(words), " ".join(words[2:5]), "t77"
    scores = attribute(model, pairs, EAP)
    circuits = [top_n(scores, max(1, round(share * scores.wiring.n_edges))) for share in FRACTIONS]
    steps: dict[str, Callable[[], object]] = {
        "bare forward and backward": bare.forward_backward,
        "EAP": partial(attribute, model, pairs, EAP),
        "EAP-IG, 5 steps": partial(attribute, model, pairs, EAP_IG),
        "10 circuit sizes": partial(run_circuits, model, pairs, circuits),
        "causal tracing, all kinds": partial(trace, model, *asked, samples=10, bos=False),
    }
    found = []
    for name, step in steps.items():
        step()  # warms up
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.monotonic()
        step()
        torch.cuda.synchronize()
        seconds = time.monotonic() - start
        peak = torch.cuda.max_memory_allocated() / 2**30
        note = f"{torch.cuda.get_device_name()}; peak {peak:.1f} GiB, the model included"
        found.append(Measurement(f"{shape} shape, bf16: {name}", seconds, None, "s", note=note))
    return found


def demo_time() -> list[Measurement]:
    """Wall time of the main job on an embedded model, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "experiments.cli.main",
            "discover",
            "--model",
            "facts-gpt2",
        ]
        command += ["--relation", "country_capital", "--out", folder]
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        value = time.monotonic() - start
    return [Measurement("demo: kc discover on facts-gpt2", value, 20.0, "s")]


MEASUREMENTS: dict[str, Callable[[], list[Measurement]]] = {
    "attribution-small": partial(attribution_costs, "gpt2-small", (1.25, 1.12), 4),
    "attribution-medium": partial(attribution_costs, "gpt2-medium", (1.4, 1.15), 2),
    "discover": discover_cost,
    "family": family_cost,
    "tracing": tracing_cost,
    "rome": rome_cost,
    "graph": graph_costs,
    "memory": memory_ratio,
    "tinyllama": tinyllama_memory,
    "demo": demo_time,
    "large": large_on_gpu,
}


def run(
    only: Sequence[str] | None = None, progress: Callable[[str], None] = lambda line: None
) -> list[Measurement]:
    """The named measurements, or all; `progress` gets a line before each."""
    for name in only or ():
        if name not in MEASUREMENTS:
            raise OptionError(f"no measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: list[Measurement] = []
    try:
        for name in only or MEASUREMENTS:
            progress(f"measuring {name} ...")
            try:
                found += MEASUREMENTS[name]()
            except KnowledgeCircuitsError as error:  # a model that cannot be had
                progress(f"{name} left out: {error}")
            gc.collect()
    finally:
        torch.set_num_threads(threads)
    return found


def _in_own_process(side: str) -> dict[str, float]:
    command = [sys.executable, "-m", "experiments.workshop.bench", "--memory", side]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _measure_memory(side: str) -> dict[str, float]:
    """Run in a process of its own: peak resident memory above what the loaded model takes."""
    if side == "tinyllama":
        hf_model: PreTrainedModel = llama("tinyllama")
        model = Model.from_hf(hf_model, numbered_tokenizer(32000), "tinyllama-shape")
    else:
        hf_model = gpt2("gpt2-small")
        model = Model.from_hf(gpt2("gpt2-small"), numbered_tokenizer(50257), "gpt2-small")
    pairs = random_pairs(model)
    bare = BarePasses(hf_model, pairs[:1])
    if side != "tinyllama":  # let libraries allocate what they keep
        bare.forward_backward()
        attribute(model, pairs[:1], EAP)
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start = time.monotonic()
    if side == "bare":
        BarePasses(hf_model, pairs).forward_backward()
    else:
        attribute(model, pairs, EAP)
    peak = _status("VmHWM")
    return {
        "peak_mib": (peak - before) / 1024,
        "process_gib": peak / 2**20,
        "seconds": time.monotonic() - start,
    }


def _status(field: str) -> int:
    """A line of /proc/self/status, in KiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: prints the measurements as a table or as JSON; 2 for a name that is none."""
    parser = argparse.ArgumentParser(prog="python -m experiments.workshop.bench")
    parser.add_argument("--only", action="append", help="name of a measurement; repeatable")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--memory", help=argparse.SUPPRESS)  # the child that is measured
    chosen = parser.parse_args(argv)
    if chosen.memory:
        torch.set_num_threads(1)
        print(json.dumps(_measure_memory(chosen.memory)))
        return 0
    console = Console(chosen.json)
    try:
        with console.working():
            found = run(chosen.only, progress=console.note)
    except OptionError as error:
        console.note(f"error: {error}")
        return error.exit_code
    console.table(
        ("measurement", "value", "bar", "unit", "passed", "note"),
        [
            (
                m.name,
                f"{m.value:.3g}",
                "–" if m.bar is None else f"{m.bar:.3g}",
                m.unit,
                "yes" if m.passed else "NO",
                m.note,
            )
            for m in found
        ],
    )
    console.result({"measurements": [each.as_dict() for each in found]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
