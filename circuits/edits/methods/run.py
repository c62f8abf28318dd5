"""One door to every edit method: `edit(model, requests, method)` gives an `EditOutcome`.

1. Read the method's settings and layers; check the requests.
2. Score the targets before; where the model says them all already, there is nothing to do.
3. Run the method. What is not finite, is many times the size of the weight (`MOST_CHANGE`), or
   leaves the target less likely than it was, has diverged: there is no delta then.
4. Score the targets with the delta applied. The model is the same bit for bit throughout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.choices import EditStatus
from circuits.base.display import Shown, Summary
from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.generation import Speaker
from circuits.edits.methods.registry import EditMethod
from circuits.edits.parts.contexts import PlacedPrompt, place
from circuits.edits.parts.keys import MAX_ROWS
from circuits.edits.parts.moments import Moments, WantedMoments, find_moments
from circuits.edits.requests import as_dict
from circuits.edits.settings import as_mapping, merge, settings_for
from circuits.facts.facts import SLOT
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tensors import check_double

SHOWN = 8
"""Requests in a summary."""
LITTLE_REACH = 0.5
"""Below this share of the change, or probability of the target, an edit gets `advice`."""


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

    @property
    def advice(self) -> str:
        """Why an edit that was made may not hold where it was asked, and what helps; or nothing."""
        if self.status != EditStatus.DONE:
            return ""
        reach = self.details.get("reach", 1.0)
        if isinstance(reach, Sequence):
            if little := [each for each in reach if each is not None and each < LITTLE_REACH]:
                return (
                    f"{len(little)} of {len(reach)} values reach the residual stream by less than "
                    f"half (the least by {min(little):.0%}); more layers reach more, and so does "
                    "less weight on other keys"
                )
        elif reach < LITTLE_REACH:
            return (
                f"{reach:.0%} of the change reaches the prompt as it is asked, whose subject is "
                "written otherwise inside a text; with `keys` both it reaches both"
            )
        found = self.details.get("target_probability_in_contexts") or [(1.0,)]
        likely = [each[-1] for each in found] if isinstance(found[0], Sequence) else found[-1:]
        weak = [index for index, share in enumerate(likely) if share < LITTLE_REACH]
        if not weak:
            return ""
        first = self.requests[weak[0]]
        text = (
            f"for {len(weak)} of {len(likely)} targets no value at the subject's last token makes "
            f"it likely ({first.target!r} p = {likely[weak[0]]:.2g})"
        )
        if first.prompt.startswith(SLOT):
            text += (
                "; a subject that is the text's first token has little hold on what follows: ask "
                "within a text"
            )
        return text

    def summary(self) -> Summary:
        """What came of it, and each request with its target's probability before and after."""
        facts = {"status": str(self.status), "layers": ", ".join(map(str, self.layers))}
        if self.reason:
            facts["reason"] = self.reason
        if self.advice:
            facts["note"] = self.advice
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


MOST_CHANGE = 10.0
"""By how many times its own norm a weight may change; beyond that an edit has diverged."""


@alone
def edit(
    model: Model,
    requests: EditRequest | Sequence[EditRequest],
    method: EditMethod | str | Callable[..., Any],
    *,
    layers: Sequence[int] | None = None,
    moments: Moments | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    bos: bool | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    cache: Path | None = None,
    earlier: Sequence[EditRequest] = (),
) -> EditOutcome:
    """Find the weight change that answers the requests; the model itself is not changed.

    `layers` None takes the model's usual ones (`locate.changes.edit_layer` finds them by causal
    tracing). `moments` are second moments, a file of them, a text to collect them from (kept in
    `cache`) or "identity"; None is the text that ships for the model (`usual_corpus`).
    `settings` overrides single hyperparameters. `bos` is whether every text begins with the BOS
    token, None for the model's way. `earlier` requests are protected by AlphaEdit.

    PromptError or OptionError for what cannot be edited: a subject that begins or ends in
    white space, a layer out of range, moments of another model.
    """
    model.patching.check_free(model.name)
    check_double(model.device)
    chosen = EditMethod.of(method)
    asked = (requests,) if isinstance(requests, EditRequest) else tuple(requests)
    _check(chosen, asked, moments)
    if chosen.at_circuit and layers is None and "layers" not in as_mapping(settings):
        raise OptionError(
            f"{chosen} changes the layers of the fact's circuit, which `kc edit` and "
            "`locate.edit.Editor` find; name `layers` here"
        )
    model = model.with_bos(bos)
    found, layers, origin = _settings(model, chosen, layers, settings)
    prompts = [place(model, request) for request in asked]
    provenance = {
        **model.provenance,
        "method": str(chosen),
        **({"method_sha256": chosen.source_sha256} if chosen.source_sha256 else {}),
        "settings": asdict(found) if chosen.settings else dict(found),
        "settings_origin": origin,
        "bos": model.tokenizer.use_bos(None),
        "seed": seed,
        "requests": [as_dict(request, probes=False) for request in asked],
    }
    before = target_scores(model, prompts)
    if not bool(torch.isfinite(before.probability).all()):
        raise NumericalError(f"{model.name!r} gives probabilities that are not finite as it is")
    details: dict[str, Any] = {"probability_before": before.probability.tolist()}

    def outcome(
        delta: WeightDelta | None, status: EditStatus = EditStatus.DONE, reason: str = ""
    ) -> EditOutcome:
        where = tuple(provenance.get("layers") or layers or ())
        return EditOutcome(delta, status, str(chosen), where, asked, reason, details, provenance)

    if bool(before.said.all()):
        return outcome(None, EditStatus.NO_CHANGE, _said_already(asked))
    options: dict[str, Any] = {"generator": torch.Generator().manual_seed(seed)}
    if chosen.needs_moments:
        options["moments"] = find_moments(model, layers or (), moments, cache, progress=progress)
        provenance["moments"] = dict(options["moments"].source)
    if chosen.protects_earlier:
        options["earlier"] = tuple(earlier)
        provenance["earlier"] = [as_dict(request, probes=False) for request in earlier]
    if chosen.may_want_moments:
        options["moments"] = WantedMoments(model, moments, cache, progress)
    start = time.monotonic()
    try:
        delta, recorded = chosen.load()(
            model, asked, layers, settings=found, progress=progress, **options
        )
        provenance |= delta.provenance
        details |= recorded | {"seconds": time.monotonic() - start}
        if not delta.changes:
            return outcome(None, EditStatus.NO_CHANGE, f"{chosen} changed no weight")
        check_size(model, delta)
        after = _scores_with(model, delta, prompts)
        details |= {"probability_after": after.probability.tolist(), "norm": delta.norm()}
        _check_gain(asked, before, after)
    except NumericalError as error:
        return outcome(None, EditStatus.DIVERGED, str(error))
    return outcome(WeightDelta(delta.changes, provenance))


def check_size(model: Model, delta: WeightDelta) -> None:
    """NumericalError where a change is not finite, or more than MOST_CHANGE times its weight."""
    if not delta.is_finite:
        raise NumericalError("the edit holds numbers that are not finite")
    for name in delta.changes:
        weight = float(model.parameter(name).double().norm())
        change = float(delta.dense(name).double().norm())
        if change > MOST_CHANGE * weight > 0:
            raise NumericalError(
                f"the change of {name!r} is {change / weight:.3g} times the weight's norm; more "
                f"than {MOST_CHANGE:g} counts as diverged"
            )


def _check(
    method: EditMethod, requests: Sequence[EditRequest], moments: Moments | str | Path | None
) -> None:
    """OptionError for what the method does not take."""
    if not requests:
        raise OptionError("there is no request to edit")
    if method.one_request and len(requests) > 1:
        raise OptionError(
            f"{method} answers one request at a time, not {len(requests)}; edit one after the "
            "other, or use memit"
        )
    if moments is not None and not (method.needs_moments or method.may_want_moments):
        raise OptionError(f"{method} takes no second moments; leave `moments` out")


def share_moments(
    model: Model,
    methods: Sequence[EditMethod | str],
    layers: Sequence[int] = (),
    progress: Progress | None = None,
) -> None:
    """Collect in one pass the second moments that these methods take, of all their layers.

    They are left in the user's cache, where every process finds them that edits this model later.
    `layers` are those that all methods will change; without any, those of each one's settings.
    """
    taking = [each for each in map(EditMethod.of, methods) if each.needs_moments]
    found = [layers or _settings(model, each, None, None)[1] or () for each in taking]
    if wanted := sorted({layer for each in found for layer in each}):
        find_moments(model, wanted, None, progress=progress)


def _settings(
    model: Model,
    method: EditMethod,
    layers: Sequence[int] | None,
    settings: Mapping[str, Any] | None,
) -> tuple[Any, Sequence[int] | None, Any]:
    """The method's settings and layers, and where they come from."""
    given = merge(method.preset, as_mapping(settings))
    kind = method.settings_class
    if kind is None:
        return given, layers, {"settings": "given", "layers": "given" if layers else "the method's"}
    found, origin = settings_for(model, str(method), kind, layers, given)
    return found, found.layers, asdict(origin)


@dataclass(frozen=True, eq=False)
class TargetScores:
    """How a model takes the targets of requests, teacher-forced, one entry a request.

    `probability` is the geometric mean over the target's tokens; `said` is whether each of them is
    the likeliest, so that greedy decoding says the target.
    """

    probability: Float[Tensor, " request"]
    said: Tensor


def target_scores(
    model: Model, prompts: Sequence[PlacedPrompt], max_rows: int = MAX_ROWS
) -> TargetScores:
    """Score each placed prompt's target on the model as it is now; on the CPU, in fp32."""
    questions = [(each.ids[: each.prompt_length], each.targets) for each in prompts]
    read = Speaker(model, max_rows).forced(questions)
    return TargetScores(
        torch.tensor([-each.nll for each in read]).exp(),
        torch.tensor([each.accuracy == 1 for each in read]),
    )


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


def _said_already(requests: Sequence[EditRequest]) -> str:
    if len(requests) == 1:
        return f"the model answers {requests[0].text!r} with {requests[0].target!r} already"
    return f"the model gives all {len(requests)} targets already"
