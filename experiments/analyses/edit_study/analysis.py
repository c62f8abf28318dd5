"""What edits do, over many of them.

1. Success: random counterfactual edits of the atlas, each alone on the unedited model, judged as by
   `kc edit`. Every method gets the same requests.
2. Rewiring: of the first edits, what each did to the circuit of its own fact, beside control edits
   of the same norm at the same weights: a random direction, and one with the edit's own keys that
   writes something random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.base.choices import Control
from circuits.base.errors import OptionError, PromptError
from circuits.base.options import Options, option
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.effects.control import control, control_seed
from circuits.edits.judge.counterfactuals import atlas_requests
from circuits.edits.judge.success import Judge, RequestScore, TextDrift
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome, share_moments
from experiments.analyses.edit_study.report import SHOWN, report
from experiments.analyses.edit_study.stored import EDITED, quantity_rows, score_values
from experiments.analyses.engine.base import Analysis, Part
from experiments.analyses.engine.context import Context
from locate.changes.one_edit import Unedited, unedited
from locate.changes.rewiring_summary import quantities
from locate.edit import Editor, Mode, run_edits, texts_for_drift


@dataclass(frozen=True)
class Config(Options):
    """Options of the analysis."""

    methods: tuple[EditMethod, ...] = option(
        (
            EditMethod.ROME,
            EditMethod.MEMIT,
            EditMethod.ALPHAEDIT,
            EditMethod.FT_M,
            EditMethod.FT_L,
        ),
        "edit methods",
        selects=True,
    )
    edits: int = option(100, "facts that are edited, each alone on the unedited model", low=1)
    rewired: int = option(50, "edits whose circuits are compared, the first ones", low=0)
    fluency_tokens: int = option(60, "length of the text that fluency is measured on", low=0)
    partners: int = option(8, "corrupted subjects a fact, for the edges' scores", low=2)
    draws: int = option(5, "random sets of edges beside those called changed", low=1)
    role_pairs: int = option(
        12, "prompt pairs a relation from which roles of heads are read", low=1
    )


def steps(context: Context, config: Config) -> Sequence[str]:
    """One unit an edit. OptionError with other facts: only the atlas has all the probes."""
    if context.facts is not None:
        raise OptionError("edit-study edits facts of the atlas and takes no others")
    return [f"{method} {i}" for method in config.methods for i in range(1, config.edits + 1)]


def prepare(context: Context, config: Config) -> None:
    """Second moments of all methods' layers, in one pass over the text."""
    share_moments(context.model, config.methods, progress=context.progress)


def compute(context: Context, config: Config, key: str) -> Part:
    """One edit by one method, judged, and what it rewires if it is one of the first."""
    method, _, place = key.rpartition(" ")
    index = int(place) - 1
    judge = context.once(
        ("judge", config.edits, index, config.fluency_tokens, context.seed),
        lambda: _judge(context, config, index),
    )
    editor = context.once(
        ("editor", method, context.seed), lambda: Editor(context.model, method, seed=context.seed)
    )
    run = run_edits(editor, judge, Mode.EACH)
    (outcome,) = run.outcomes
    (score,) = run.final
    rewired = index < config.rewired and outcome.delta is not None
    return {
        "method": method,
        "record": _record(outcome, score),
        "score": score_values(score),
        "drift": run.drifts[-1] if run.drifts else None,
        "growth": run.growth[-1] if run.growth else None,
        "notes": run.notes,
        "seconds": sum(run.seconds),
        "rewiring": _rewired(context, config, outcome, index) if rewired else None,
        "provenance": {
            name: value for name, value in outcome.provenance.items() if name != "requests"
        },
    }


def _judge(context: Context, config: Config, index: int) -> Judge:
    requests = context.once(
        ("requests", config.edits, context.seed),
        lambda: atlas_requests(config.edits, context.seed, tokenizer=context.model.tokenizer),
    )
    return Judge(
        context.model,
        requests[index : index + 1],
        fluency_tokens=config.fluency_tokens,
        texts=context.once(
            "drift", lambda: TextDrift(context.model, texts_for_drift(context.model, None))
        ),
        seed=context.seed,
    )


def _record(outcome: EditOutcome, score: RequestScore) -> dict[str, Any]:
    names = ("probability_before", "probability_after", "norm", "seconds")
    (request,) = outcome.requests
    return {
        "prompt": request.text,
        "target": request.target,
        "ground_truth": request.ground_truth,
        "relation": request.relation,
        "status": str(outcome.status),
        "says": score.reply[1].strip(),
        "tokens": {str(name): rates.tokens for name, rates in score.after.items() if name in SHOWN},
        **{name: outcome.details.get(name) for name in names},
    }


# --- rewiring ------------------------------------------------------------------------------------


def _rewired(context: Context, config: Config, outcome: EditOutcome, index: int) -> dict[str, Any]:
    """What the edit and its controls rewire, or why that cannot be said."""
    assert outcome.delta is not None
    try:
        before = context.once(
            ("unedited", index, config.partners, config.role_pairs, context.seed),
            lambda: _unedited(context, config, outcome.requests[0]),
        )
    except (OptionError, PromptError) as error:
        return {"left_out": str(error)}

    def rewired(delta: WeightDelta) -> list[list[Any]]:
        return quantity_rows(quantities(before.rewired(delta, config.draws)))

    found = {EDITED: rewired(outcome.delta)}
    for kind in Control:
        seed = control_seed(context.seed, outcome.requests[0])
        found[kind.value] = rewired(control(outcome.delta, context.model, seed, kind))
    return found


def _unedited(context: Context, config: Config, request: EditRequest) -> Unedited:
    roles: Mapping[str, str] = {}
    if request.relation is not None:
        roles = context.roles(request.relation, config.role_pairs, hold_out=0.0)
    return unedited(
        context.model,
        request,
        partners=config.partners,
        seed=context.seed,
        batch_size=context.batch_size,
        roles=roles,
    )


ANALYSIS = Analysis(
    name="edit-study",
    title="What edit methods do",
    question="Do edits take, what else do they change, and what do they rewire that a random "
    "change of their size would not?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    version=3,
    slow=True,
    prepare=prepare,
)
