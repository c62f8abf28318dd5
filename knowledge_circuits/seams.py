"""What users add of their own: metrics, locators, edit methods, analyses, kinds of results.

`metric`, `locator`, `edit_method` and `result_kind` stand above a function or class, bare or with
options; what they stand above stays as it is. `docs/tasks/plugins.md` has an example of each.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import getdoc
from typing import TYPE_CHECKING, Any, TypeVar

from circuits.base.errors import OptionError

if TYPE_CHECKING:
    from circuits.base.choices import Open
    from experiments.analyses.engine.base import Analysis

F = TypeVar("F", bound=Callable[..., Any])


def metric(
    function: F | None = None,
    *,
    name: str = "",
    text: str = "",
    relative: bool = False,
    whole: bool = False,
) -> Any:
    """Add a metric: (logits [batch d_vocab], answer [batch], foil [batch]) to one value an example.

    Higher where the fact is recalled, differentiable. A `relative` one gets the clean run's logits
    as well. One that is `whole` is asked of every token of an answer, each after those before it,
    and is the sum of what it gives. `name` is by default the function's, `text` the first line of
    its docstring.
    """
    from circuits.base.choices import Metric

    return _adding(Metric, function, name, text, relative=relative, whole=whole)


def locator(
    function: F | None = None,
    *,
    name: str = "",
    text: str = "",
    options: type | None = None,
    **traits: Any,
) -> Any:
    """Add a method that scores edges.

    The function is (model, pairs, scoring, *, batch_size, keep_pairs, progress) -> EdgeScores.
    `options` is the class of its own options, `traits` are those of `locate.edges.locators`.
    """
    from locate.edges.locators import Locator

    return _adding(Locator, function, name, text, options=options, **traits)


def edit_method(
    function: F | None = None,
    *,
    name: str = "",
    text: str = "",
    settings: type | None = None,
    **traits: Any,
) -> Any:
    """Add an edit method, which leaves the model as it is.

    The function is (model, requests, layers, settings, *, generator, progress) -> (WeightDelta,
    details). `settings` is a class of options with a field `layers`, `traits` are those of
    `circuits.edits.methods.registry`.
    """
    from circuits.edits.methods.registry import EditMethod

    return _adding(EditMethod, function, name, text, settings=settings, **traits)


def analysis(
    name: str,
    title: str,
    question: str,
    config: type,
    steps: Callable[..., Any],
    compute: Callable[..., Any],
    report: Callable[..., Any],
    **traits: Any,
) -> Analysis:
    """Add an analysis to `kc run` and `run`.

    `config` is a class of options; `steps(context, config)` lists units of work,
    `compute(context, config, unit)` gives a unit's plain values, which are stored, and
    `report(config, values)` makes the `Report` of all of them without a model.
    """
    from experiments.analyses.engine.base import Analysis
    from experiments.analyses.engine.registry import register

    return register(Analysis(name, title, question, config, steps, compute, report, **traits))


def result_kind(
    holds: type | None = None, *, screen: Any = None, paper: Any = None, label: str = ""
) -> Any:
    """Have files of a class of results opened, listed, shown and drawn like all others.

    The class is a `Result` with a `KIND`. `screen(result)` gives a figure of plotly,
    `paper(result, path)` writes a picture for `kc figures`, whose `--kind` is the KIND with dashes.
    """
    from circuits.files.kinds import add_kind

    def added(kind: type) -> type:
        add_kind(kind, screen=screen, paper=paper, label=label)
        return kind

    return added if holds is None else added(holds)


def _adding(
    kind: type[Open], function: F | None, name: str, text: str, **traits: Any
) -> F | Callable[[F], F]:
    """The function once it is added, or what adds it."""

    def added(made: F) -> F:
        if not callable(made):
            raise OptionError(f"what is added is a function, not {made!r:.40}")
        known = name or made.__name__.replace("_", "-")
        said = text or (getdoc(made) or "").partition("\n")[0]
        kind.add(known, made, said, **traits)
        return made

    return added if function is None else added(function)
