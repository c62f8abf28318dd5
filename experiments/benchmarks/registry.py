"""The benchmarks that `kc benchmark` knows."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from circuits.base.errors import OptionError
from experiments.analyses.engine.base import Analysis
from experiments.benchmarks.base import Benchmark, as_analysis

EVERYTHING = "all"
_HERE = "experiments.benchmarks"
BENCHMARKS = {
    "counterfact": "editing.benchmarks:COUNTERFACT",
    "zsre": "editing.benchmarks:ZSRE",
    "knowedit": "editing.benchmarks:KNOWEDIT",
    "qaedit": "editing.benchmarks:QAEDIT",
    "mquake": "editing.benchmarks:MQUAKE",
    "lifelong": "editing.lifelong:LIFELONG",
    "conflictedit": "pitfalls.benchmark:CONFLICT_EDIT",
    "roundedit": "pitfalls.benchmark:ROUND_EDIT",
    "knowundo": "unlearning.benchmark:KNOW_UN_DO",
    "tofu": "unlearning.benchmark:TOFU",
    "safeedit": "safety.benchmark:SAFE_EDIT",
    "personality": "personality.benchmark:PERSONALITY",
}
"""By name: the module and the value in it."""


def benchmark(name: str) -> Benchmark:
    """One benchmark; OptionError with the nearest name where there is none."""
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(BENCHMARKS)}, all"
        raise OptionError(f"there is no benchmark {name!r}; {hint}")
    module, _, value = BENCHMARKS[name].partition(":")
    found = getattr(import_module(f"{_HERE}.{module}"), value)
    assert isinstance(found, Benchmark)
    return found


def chosen(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names, or all."""
    wanted = list(BENCHMARKS) if list(names) == [EVERYTHING] else list(dict.fromkeys(names))
    return [benchmark(name) for name in wanted]


def stored_benchmark(where: tuple[str, str]) -> Analysis:
    """A benchmark by its name on the cases of a file, as the engine runs it."""
    name, path = where
    found = benchmark(name)
    return as_analysis(found, found.read(Path(path)))
