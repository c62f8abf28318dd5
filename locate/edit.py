"""Edits in one of three modes, judged on the way: what `kc edit` and the study of edits do.

- EACH: every request by itself on the unedited model; scores are those of single edits.
- TOGETHER: one change for all requests (ROME takes one request only, MEMIT thousands).
- SEQUENTIAL: one after the other on the model edited so far. Scores right after each edit say how
  well it took, those after the whole sequence what is left of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from circuits.base.choices import Choice, EditStatus
from circuits.base.errors import NumericalError, OptionError
from circuits.base.plain import number
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.success import Judge, RequestScore, norm_growth
from circuits.edits.judge.table import SuccessTable, summarise
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome, edit
from circuits.edits.parts.moments import Moments, find_moments
from circuits.model.model import Model

AUTO, CIRCUIT = "auto", "circuit"
MOST_DRIFT = 100.0
"""By how many times perplexity may rise; beyond that an edit, or the one of a sequence that brings
it there, has diverged and is taken back."""


class Mode(Choice):
    """How several requests are answered; the module says more."""

    EACH = "each"
    TOGETHER = "together"
    SEQUENTIAL = "sequential"


@dataclass
class Editor:
    """One method with its choices. Second moments are those of the unedited model throughout.

    A method that is `at_circuit` gets the layers of the requests' circuit where none are named;
    `everyone` are further requests, from which it takes corrupted subjects
    (`locate.changes.circuit_layers`). What was found stands in the details as `layers_evidence`.
    """

    model: Model
    method: EditMethod | str
    layers: Sequence[int] | None = None
    moments: Moments | str | Path | None = None
    seed: int = 0
    cache: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    everyone: Sequence[EditRequest] = ()

    def __post_init__(self) -> None:
        self.method = EditMethod.of(self.method)

    def __call__(
        self,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest] = (),
        progress: Progress | None = None,
    ) -> EditOutcome:
        """The method's answer to the requests, on the model as it is."""
        layers, evidence = self._layers(requests)
        outcome = edit(
            self.model,
            requests,
            self.method,
            layers=layers,
            moments=self.moments,
            settings=self.settings,
            seed=self.seed,
            progress=progress,
            cache=self.cache,
            earlier=earlier,
        )
        if "moments" in outcome.provenance and not isinstance(self.moments, Moments):
            self.moments = find_moments(self.model, outcome.layers, self.moments, self.cache)
        if evidence:
            outcome = replace(outcome, details={**outcome.details, "layers_evidence": evidence})
        return outcome

    def _layers(self, requests: Sequence[EditRequest]) -> tuple[Sequence[int] | None, str]:
        """The layers that were named, or that the circuit says, and on what evidence."""
        method = EditMethod.of(self.method)
        if not method.at_circuit or self.layers is not None or "layers" in self.settings:
            return self.layers, ""
        from locate.changes.circuit_layers import layers_by_circuit

        found = layers_by_circuit(
            self.model, requests, everyone=self.everyone or requests, seed=self.seed
        )
        return found.layers, found.describe()


@dataclass(frozen=True, eq=False)
class EditRun:
    """Outcomes and scores of edits.

    `final` has every request's scores after everything (in mode EACH: after its own edit);
    `right_after` those after each step of a sequence. `made` has the places of the requests whose
    edit was made: one whose was not is judged on the model as it is without it, so that an edit
    which failed is one that changed nothing, and an answer that was said already is said. `delta`
    is the whole change, None in mode EACH.
    """

    mode: Mode
    outcomes: tuple[EditOutcome, ...]
    final: tuple[RequestScore, ...]
    right_after: tuple[RequestScore, ...]
    drifts: tuple[float, ...]
    growth: tuple[Mapping[str, Mapping[str, float]], ...]
    delta: WeightDelta | None
    seconds: tuple[float, ...]
    notes: tuple[str, ...] = ()
    made: tuple[int, ...] = ()

    @property
    def deltas(self) -> list[WeightDelta]:
        """The changes that were found, one an outcome."""
        return [outcome.delta for outcome in self.outcomes if outcome.delta is not None]

    def table(self) -> SuccessTable:
        """The final scores of all requests; drift and growth are of the edits that were made."""
        return summarise(self.final, self.drifts, self.growth)

    def counts(self) -> dict[str, int]:
        """Outcomes by status."""
        found = [outcome.status for outcome in self.outcomes]
        return {str(status): found.count(status) for status in EditStatus if status in found}


def run_edits(
    editor: Callable[..., EditOutcome],
    judge: Judge,
    mode: Mode | str,
    progress: Progress | None = None,
) -> EditRun:
    """Answer the judge's requests in a mode; the model is left as it was.

    Requests without a change (diverged, or already answered so) are judged without one.
    """
    runs = {Mode.EACH: _each, Mode.TOGETHER: _together, Mode.SEQUENTIAL: _sequential}
    return runs[Mode.of(mode)](editor, judge, progress)


def _each(editor: Callable[..., EditOutcome], judge: Judge, progress: Progress | None) -> EditRun:
    found = _Found()
    for index, request in enumerate(judge.requests):
        outcome = found.take(editor, [request])
        found.judge_alone(outcome, judge, [index])
        if progress:
            progress(index + 1, len(judge.requests))
    return found.run(judge, Mode.EACH, None)


def _together(
    editor: Callable[..., EditOutcome], judge: Judge, progress: Progress | None
) -> EditRun:
    found = _Found()
    outcome = found.take(editor, judge.requests, progress=progress)
    found.judge_alone(outcome, judge, range(len(judge.requests)))
    return found.run(judge, Mode.TOGETHER, found.outcomes[-1].delta)


def _sequential(
    editor: Callable[..., EditOutcome], judge: Judge, progress: Progress | None
) -> EditRun:
    found, total = _Found(), None
    done: list[int] = []
    with ExitStack() as edits:
        for index, request in enumerate(judge.requests):
            earlier = [judge.requests[each] for each in done]
            outcome = found.take(editor, [request], earlier=earlier)
            with ExitStack() as placed:
                if outcome.delta is not None:
                    placed.enter_context(outcome.delta.applied(judge.model))
                    outcome = found.checked(judge.drift())
                if outcome.delta is not None:
                    edits.push(placed.pop_all())
            found.right_after += judge.score([index])
            if outcome.delta is not None:
                total = outcome.delta if total is None else total + outcome.delta
                done.append(index)
            if progress:
                progress(index + 1, len(judge.requests))
        if done:
            found.scores = dict(enumerate(judge.score()))
            found.made = done
            found.drifts.append(number(judge.drift()))
    if total is not None:
        found.growth.append(norm_growth(judge.model, total))
    return found.run(judge, Mode.SEQUENTIAL, total)


class _Found:
    """What a run has gathered so far."""

    def __init__(self) -> None:
        self.outcomes: list[EditOutcome] = []
        self.scores: dict[int, RequestScore] = {}
        self.made: list[int] = []
        self.right_after: list[RequestScore] = []
        self.drifts: list[float] = []
        self.growth: list[Mapping[str, Mapping[str, float]]] = []
        self.seconds: list[float] = []

    def take(self, editor: Callable[..., EditOutcome], *args: Any, **options: Any) -> EditOutcome:
        """One edit, timed."""
        start = time.perf_counter()
        self.outcomes.append(editor(*args, **options))
        self.seconds.append(time.perf_counter() - start)
        return self.outcomes[-1]

    def judge_alone(self, outcome: EditOutcome, judge: Judge, which: Sequence[int]) -> None:
        """Score the latest edit; one that ruins the model has diverged."""
        if outcome.delta is None:
            return
        with outcome.delta.applied(judge.model):
            drift = judge.drift()
            if self.checked(drift).delta is None:
                return
            self.scores.update(zip(which, judge.score(which), strict=True))
            self.made += which
        self.drifts.append(number(drift))
        self.growth.append(norm_growth(judge.model, outcome.delta))

    def checked(self, drift: float | None) -> EditOutcome:
        """The latest edit, which has diverged where the model with it knows no text any more.

        `drift` is None where no text was read.
        """
        if drift is not None and not drift <= MOST_DRIFT:  # NaN is no small drift
            reason = (
                f"perplexity on the text rose {drift:.4g} times; more than {MOST_DRIFT:g} counts "
                "as diverged"
            )
            self.outcomes[-1] = replace(
                self.outcomes[-1], delta=None, status=EditStatus.DIVERGED, reason=reason
            )
        return self.outcomes[-1]

    def run(self, judge: Judge, mode: Mode, delta: WeightDelta | None) -> EditRun:
        """The whole as a value."""
        scores, n = self.scores, len(judge.requests)
        if len(scores) < n:
            scores = {**dict(enumerate(judge.scores_of(judge.observed_before))), **scores}
        notes = tuple(
            f"{outcome.status}: {outcome.reason or outcome.advice}"
            for outcome in self.outcomes
            if outcome.status != EditStatus.DONE or outcome.advice
        )
        return EditRun(
            mode,
            tuple(self.outcomes),
            tuple(scores[index] for index in range(n)),
            tuple(self.right_after),
            tuple(self.drifts),
            tuple(self.growth),
            delta,
            tuple(self.seconds),
            notes,
            tuple(self.made),
        )


# --- choices -------------------------------------------------------------------------------------


def parse_layers(text: str | None) -> list[int] | None:
    """Layers as `5`, `3-5` or `3,5`; None for `auto`, `circuit` and the method's own."""
    if text in (None, AUTO, CIRCUIT):
        return None
    layers: list[int] = []
    for part in str(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if not found:
            raise OptionError(
                f"`layers` {text!r} is no layer, range (3-5) or list (3,5), nor auto or circuit"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first > 10_000:
            raise OptionError(f"`layers` {text!r} ends before it begins")
        layers += range(first, last + 1)
    return layers


def named_layers(text: str | None) -> list[int] | None:
    """As `parse_layers`; OptionError for what looks at single facts, where there are none."""
    if text in (AUTO, CIRCUIT):
        raise OptionError(f"`layers` {text} looks at single facts: for unlearning name the layers")
    return parse_layers(text)


def chosen_layers(
    model: Model,
    text: str | None,
    requests: Sequence[EditRequest],
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> tuple[list[int] | None, str]:
    """As `parse_layers`, and for `auto` the layer where causal traces say the facts are recalled,
    for `circuit` the layers where their circuit writes.

    The second value says on what evidence; empty where none was needed.
    """
    if text == CIRCUIT:
        from locate.changes.circuit_layers import layers_by_circuit

        found = layers_by_circuit(
            model, requests, everyone=requests, seed=seed, batch_size=batch_size
        )
        return found.layers, found.describe()
    if text != AUTO:
        return parse_layers(text), ""
    from locate.changes.edit_layer import layer_by_trace

    layer, evidence = layer_by_trace(model, requests, seed=seed)
    return [layer], evidence.describe()


def mode_for(method: EditMethod | str, n_requests: int, sequential: bool | None) -> Mode:
    """One request: together. Several: as asked, else all at once where the method can.

    A method that takes one request at a time makes single edits then.
    """
    if sequential is not None:
        return Mode.SEQUENTIAL if sequential else Mode.EACH
    one_at_a_time = EditMethod.of(method).one_request
    return Mode.EACH if one_at_a_time and n_requests > 1 else Mode.TOGETHER


def worst(run: EditRun) -> NumericalError | None:
    """The error to end with where an edit diverged."""
    diverged = [each for each in run.outcomes if each.status == EditStatus.DIVERGED]
    if not diverged:
        return None
    if len(run.outcomes) == 1:
        return NumericalError(f"diverged: {diverged[0].reason}; the weights are as they were")
    return NumericalError(
        f"{len(diverged)} of {len(run.outcomes)} edits diverged, the first: {diverged[0].reason}"
    )


def texts_for_drift(model: Model, path: Path | None) -> tuple[str, ...]:
    """The text on which perplexity is followed: a file's, else the one that ships for the model."""
    from circuits.edits.parts.corpus import read_corpus, usual_corpus

    return (usual_corpus(model) if path is None else read_corpus(path)).texts
