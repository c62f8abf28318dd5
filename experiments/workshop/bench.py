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
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from circuits.base.choices import TraceKind
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.graph.curve import FRACTIONS
from circuits.graph.evaluate import run_circuits
from circuits.graph.select import top_n
from circuits.model.model import Model, load
from circuits.model.sources import resolve
from experiments.cli.console import Console
from experiments.workshop.bare import (
    LLAMAS,
    BarePasses,
    gpt2,
    llama,
    numbered_tokenizer,
    random_pairs,
)
from experiments.workshop.costs import (
    EAP,
    EAP_IG,
    Measurement,
    architecture_costs,
    attribution_costs,
    discover_cost,
    family_cost,
    graph_costs,
    rome_cost,
    tracing_cost,
)
from locate.edges.eap import attribute
from locate.states.tracing import trace

ROOT = Path(__file__).parents[2]
SMALL, REAL = "facts-gpt2", "smollm2-135m"
LOADING = "loading"
_WORDS = [f"t{3 * index + 1}" for index in range(13)]
TRACED = " ".join(_WORDS), " ".join(_WORDS[2:5]), "t77"
"""A prompt of 13 tokens, its subject and an answer."""


def memory_ratio() -> list[Measurement]:
    """Peak memory above the model: EAP beside a plain forward and backward pass."""
    peaks = {side: _in_own_process(side)["peak_mib"] for side in ("eap", "bare")}
    note = f"{peaks['eap']:.0f} against {peaks['bare']:.0f} MiB"
    value = peaks["eap"] / peaks["bare"]
    return [Measurement("gpt2-small: memory above the model, EAP / bare", value, 1.4, note=note)]


def tinyllama_memory() -> list[Measurement]:
    """Peak memory of the whole process for EAP and a trace of TinyLlama's shape in bf16, in GiB."""
    figures = _in_own_process("tinyllama")
    note = f"EAP on 8 pairs and a trace in {figures['seconds']:.0f} s; the model is included"
    name = "TinyLlama shape, bf16: peak memory of the process"
    return [Measurement(name, figures["process_gib"], 6.0, "GiB", note=note)]


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
    scores = attribute(model, pairs, EAP)
    circuits = [top_n(scores, max(1, round(share * scores.wiring.n_edges))) for share in FRACTIONS]
    steps: dict[str, Callable[[], object]] = {
        "bare forward and backward": bare.forward_backward,
        "EAP": partial(attribute, model, pairs, EAP),
        "EAP-IG, 5 steps": partial(attribute, model, pairs, EAP_IG),
        "10 circuit sizes": partial(run_circuits, model, pairs, circuits),
        "causal tracing, all kinds": partial(trace, model, *TRACED, samples=10, bos=False),
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


def demo_time(name: str, bar: float) -> list[Measurement]:
    """Wall time of `make demo`, imports included; ModelNotFoundError where there is no model."""
    resolve(name)
    with tempfile.TemporaryDirectory() as folder:
        command = ["make", "demo", f"MODEL={name}", f"OUT={folder}"]
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        value = time.monotonic() - start
    return [Measurement(f"make demo on {name}", value, bar, "s")]


def loading_cost(name: str, seconds: float, memory: float) -> list[Measurement]:
    """Wall time of loading a model, and its peak memory beside the model's weights in fp32.

    The libraries are there before. ModelNotFoundError where there is no model.
    """
    resolve(name)
    found = _in_own_process(f"{LOADING} {name}")
    value = found["peak_mib"] / found["weights_mib"]
    note = f"{found['peak_mib']:.0f} against {found['weights_mib']:.0f} MiB"
    return [
        Measurement(f"loading {name}, imports excluded", found["seconds"], seconds, "s"),
        Measurement(f"loading {name}: peak memory / fp32 weights", value, memory, note=note),
    ]


MEASUREMENTS: dict[str, Callable[[], list[Measurement]]] = {
    "attribution-small": partial(attribution_costs, "gpt2-small", (1.25, 1.12), 4),
    "attribution-medium": partial(attribution_costs, "gpt2-medium", (1.25, 1.15), 2),
    "architectures": architecture_costs,
    "discover": discover_cost,
    "family": family_cost,
    "tracing": tracing_cost,
    "rome": rome_cost,
    "graph": graph_costs,
    "memory": memory_ratio,
    "tinyllama": tinyllama_memory,
    "loading": partial(loading_cost, REAL, 8.0, 1.5),
    "demo": partial(demo_time, SMALL, 12.0),
    "demo-real": partial(demo_time, REAL, 60.0),
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
    if side == "tinyllama":
        trace(model, *TRACED, samples=1, kinds=[TraceKind.RESID], bos=False)
    peak = _status("VmHWM")
    return {
        "peak_mib": (peak - before) / 1024,
        "process_gib": peak / 2**20,
        "seconds": time.monotonic() - start,
    }


def _measure_loading(name: str) -> dict[str, float]:
    """Run in a process of its own: seconds, and peak resident memory above the libraries'."""
    load(SMALL)  # the libraries are imported and allocate what they keep
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.monotonic()
    model = load(name)
    seconds = time.monotonic() - start
    weights = 4 * sum(model.shape(each).numel() for each in model.parameter_names)
    return {
        "peak_mib": (_status("VmHWM") - before) / 1024,
        "weights_mib": weights / 2**20,
        "seconds": seconds,
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
        side, _, name = chosen.memory.partition(" ")
        print(json.dumps(_measure_loading(name) if side == LOADING else _measure_memory(side)))
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
