"""One door to every edit method: `edit(model, requests, method)` gives an `EditOutcome`.

1. Read the method's settings and layers; check the requests.
2. Score the targets before; where the model says them all already, there is nothing to do.
3. Run the method. What is not finite, or leaves the target less likely than it was, has diverged:
   there is no delta then.
4. Score the targets with the delta applied. The model is the same bit for bit throughout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import EditMethod, EditStatus
from circuits.base.display import Shown, Summary
from circuits.base.errors import NumericalError, OptionError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.parts.contexts import PlacedPrompt, place
from circuits.edits.parts.keys import MAX_ROWS, pad
from circuits.edits.parts.moments import Moments, find_moments
from circuits.edits.parts.value import Progress
from circuits.edits.settings import settings_for
from circuits.model.model import Model

__all__ = ["EditMethod", "EditOutcome", "EditStatus", "edit", "target_scores"]


SHOWN = 8
"""Requests in a summary."""


@dataclass(frozen=True, eq=False)
class EditOutcome(Shown):
    """What came of an edit. `delta` is None unless `status` is DONE; `reason` says why in a line.

    `details` holds what the method recorded, beside the target's probability before and after
    (geometric mean over its tokens, one entry a request) and the seconds it took.
    """

    delta: WeightDelta | None
    status: EditStatus
    method: str
    layers: tuple[int, ...]
    requests: tuple[EditRequest, ...]
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> Summary:
        """What came of it, and each request with its target's probability before and after."""
        facts = {"status": str(self.status), "layers": ", ".join(map(str, self.layers))}
        if self.reason:
            facts["reason"] = self.reason
        if self.delta is not None:
            facts["norm"] = f"{self.delta.norm():.4g}"
        sides = [self.details.get(f"probability_{side}", ()) for side in ("before", "after")]
        rows = []
        for row, request in enumerate(self.requests[:SHOWN]):
            found = (f"{side[row]:.3f}" if row < len(side) else "" for side in sides)
            rows.append((request.text, request.target, *found))
        return Summary(
            f"Edit by {self.method}: {len(self.requests)} request{'s' * (len(self.requests) != 1)}",
            facts,
            "probability of the target",
            ("prompt", "target", "before", "after"),
            rows,
        )


class _Entry(NamedTuple):
    """Where a method is: its function takes (model, requests, layers, settings, [moments,]
    generator, progress) and returns the delta and details.
    """

    module: str
    function: str
    settings: str
    needs_moments: bool = False
    choices: Mapping[str, Any] = {}


_ENTRIES: dict[EditMethod, _Entry] = {
    EditMethod.ROME: _Entry("rome", "rome", "RomeSettings", True),
    EditMethod.ROME_ORIGINAL: _Entry(
        "rome", "rome", "RomeSettings", True, {"consistent_keys": False}
    ),
    EditMethod.MEMIT: _Entry("memit", "memit", "MemitSettings", True),
    EditMethod.ALPHAEDIT: _Entry("alphaedit", "alphaedit", "AlphaEditSettings", True),
    EditMethod.FT_L: _Entry(
        "finetune", "fine_tune", "FineTuneSettings", choices={"at_prompt_only": True}
    ),
    EditMethod.FT_M: _Entry("finetune", "fine_tune", "FineTuneSettings"),
    EditMethod.DINM: _Entry("dinm", "dinm", "DinmSettings"),
    EditMethod.DINM_EASYEDIT: _Entry("dinm", "dinm", "DinmSettings", choices={"shipped": True}),
}


def edit(
    model: Model,
    requests: EditRequest | Sequence[EditRequest],
    method: EditMethod | str,
    *,
    layers: Sequence[int] | None = None,
    moments: Moments | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
    earlier: Sequence[EditRequest] = (),
) -> EditOutcome:
    """Find the weight change that answers the requests; the model itself is not changed.

    `layers` None takes the model's usual ones (`locate.changes.edit_layer` finds them by causal
    tracing). `moments` are second moments, a file of them, a text to collect them from (kept in
    `cache`) or "identity"; None is the project's own text, for the models that ship with it.
    `settings` overrides single hyperparameters. `earlier` requests are protected by AlphaEdit.

    PromptError or OptionError for what cannot be edited: a subject that does not stand in its
    prompt exactly once, a layer out of range, moments of another model.
    """
    chosen = _parse(method)
    asked = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    if not asked:
        raise OptionError("there is no request to edit")
    entry = _ENTRIES[chosen]
    module = import_module(f"circuits.edits.methods.{entry.module}")
    found, origin = settings_for(
        model,
        chosen,
        getattr(module, entry.settings),
        layers,
        {**entry.choices, **(settings or {})},
    )
    prompts = [place(model, request) for request in asked]
    provenance = {
        **model.provenance,
        "method": str(chosen),
        "settings": asdict(found),
        "settings_origin": asdict(origin),
        "seed": seed,
        "requests": [_as_dict(request) for request in asked],
    }
    outcome = partial(EditOutcome, method=str(chosen), layers=found.layers, requests=asked)
    before = target_scores(model, prompts)
    if bool(before.said.all()):
        return outcome(
            None, EditStatus.NO_CHANGE, reason=_said_already(asked), provenance=provenance
        )

    run: Callable[..., tuple[WeightDelta, dict[str, Any]]] = getattr(module, entry.function)
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed)}
    if entry.needs_moments:
        options["moments"] = find_moments(model, found.layers, moments, cache)
        provenance["moments"] = dict(options["moments"].source)
    if chosen == EditMethod.ALPHAEDIT:
        options["earlier"] = tuple(earlier)
        provenance["earlier"] = [_as_dict(request) for request in earlier]
    start = time.monotonic()
    details: dict[str, Any] = {"probability_before": before.probability.tolist()}
    try:
        delta, recorded = run(
            model, asked, found.layers, settings=found, progress=progress, **options
        )
        details |= recorded | {"seconds": time.monotonic() - start}
        after = _scores_with(model, delta, prompts)
        details |= {"probability_after": after.probability.tolist(), "norm": delta.norm()}
        _check_gain(asked, before, after)
    except NumericalError as error:
        return outcome(
            None, EditStatus.DIVERGED, reason=str(error), details=details, provenance=provenance
        )
    delta = WeightDelta(delta.changes, {**delta.provenance, **provenance})
    return outcome(delta, EditStatus.DONE, details=details, provenance=provenance)


@dataclass(frozen=True, eq=False)
class TargetScores:
    """How a model takes the targets of requests, teacher-forced, one entry a request.

    `probability` is the geometric mean over the target's tokens; `said` is whether each of them is
    the likeliest, so that greedy decoding says the target.
    """

    probability: Float[Tensor, " request"]
    said: Tensor


@torch.no_grad()
def target_scores(model: Model, prompts: Sequence[PlacedPrompt]) -> TargetScores:
    """Score each placed prompt's target on the model as it is now; on the CPU, in fp32."""
    shares: list[float] = []
    said: list[bool] = []
    for start in range(0, len(prompts), MAX_ROWS):
        chunk = prompts[start : start + MAX_ROWS]
        log_p = _all_log_probabilities(model, chunk)
        for row, prompt in enumerate(chunk):
            first = prompt.prompt_length - 1
            here = log_p[row, first : first + len(prompt.targets)]
            target = torch.tensor(prompt.targets)
            shares.append(float(here.gather(1, target[:, None]).mean().exp()))
            said.append(bool((here.argmax(1) == target).all()))
    return TargetScores(torch.tensor(shares), torch.tensor(said))


def _all_log_probabilities(
    model: Model, prompts: Sequence[PlacedPrompt]
) -> Float[Tensor, "row pos d_vocab"]:
    found: dict[str, Tensor] = {}

    def keep(value: Any, hook: Any) -> None:
        found["residual"] = value

    tokens = pad([prompt.ids for prompt in prompts], model.device)
    model.last_logits(tokens, [(f"blocks.{model.n_layers - 1}.hook_out", keep)])
    return model.unembed(found["residual"]).float().log_softmax(-1).cpu()


def _scores_with(model: Model, delta: WeightDelta, prompts: Sequence[PlacedPrompt]) -> TargetScores:
    with delta.applied(model):
        return target_scores(model, prompts)


def _check_gain(requests: Sequence[EditRequest], before: TargetScores, after: TargetScores) -> None:
    """NumericalError where the targets are, on the whole, no likelier than they were."""
    gain = after.probability.log().mean() - before.probability.log().mean()
    if not bool(torch.isfinite(after.probability).all()):
        raise NumericalError("the edited model's probabilities are not finite")
    if not float(gain) > 0:
        which = f"of {requests[0].text!r}" if len(requests) == 1 else f"of {len(requests)} requests"
        raise NumericalError(f"the edit {which} did not make its target likelier")


def _parse(method: EditMethod | str) -> EditMethod:
    chosen = EditMethod.of(method)
    if chosen not in _ENTRIES:
        raise OptionError(f"the method {chosen} is not available; there are {', '.join(_ENTRIES)}")
    return chosen


def _said_already(requests: Sequence[EditRequest]) -> str:
    if len(requests) == 1:
        return f"the model answers {requests[0].text!r} with {requests[0].target!r} already"
    return f"the model gives all {len(requests)} targets already"


def _as_dict(request: EditRequest) -> dict[str, Any]:
    """The request without its probes, which do not enter the edit."""
    names = ("prompt", "subject", "target", "ground_truth", "relation")
    return {name: getattr(request, name) for name in names}
