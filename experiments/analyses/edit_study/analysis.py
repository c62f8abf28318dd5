"""What edits do, over many of them.

1. Success: random counterfactual edits of the atlas, each alone on the unedited model, judged as by
   `kc edit`. Every method gets the same requests.
2. Rewiring: of the first edits, what each did to the circuit of its own fact, beside control edits
   of the same norm at the same weights: a random direction, and one with the edit's own keys that
   writes something random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.base.choices import Control
from circuits.base.errors import OptionError, PromptError
from circuits.base.options import Options, option
from circuits.edits.edit import WeightDelta
from circuits.edits.effects.control import control
from circuits.edits.effects.pairs import edit_pairs
from circuits.edits.judge.counterfactuals import atlas_requests
from circuits.edits.judge.success import Judge, RequestScore
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome
from experiments.analyses.edit_study.report import SHOWN, report
from experiments.analyses.engine.base import Analysis, Part
from experiments.analyses.engine.context import Context
from locate.changes.rewiring import Rewiring, rewiring
from locate.changes.rewiring_summary import summarise
from locate.edges.eap import attribute
from locate.edit import Editor, EditRun, Mode, run_edits, texts_for_drift
from locate.search import Scoring, Search


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
    """One unit a method. OptionError with other facts: only the atlas has all the probes."""
    if context.facts is not None:
        raise OptionError("edit-study edits facts of the atlas and takes no others")
    return [str(method) for method in config.methods]


def compute(context: Context, config: Config, key: str) -> Part:
    """All edits by one method, and what the first of them rewire."""
    judge = context.once(
        ("judge", config.edits, config.fluency_tokens, context.seed),
        lambda: _judge(context, config),
    )
    editor = Editor(context.model, key, seed=context.seed)
    run = run_edits(editor, judge, Mode.EACH, context.progress)
    first = run.outcomes[0].provenance
    scores = iter(run.final)
    return {
        "status": run.counts(),
        "success": run.table().as_dict(),
        "requests": [
            _record(each, next(scores) if each.delta is not None else None) for each in run.outcomes
        ],
        "notes": run.notes,
        "seconds_an_edit": sum(run.seconds) / len(run.seconds),
        "rewiring": _rewired(context, config, run) if config.rewired else None,
        "provenance": {name: first[name] for name in first if name != "requests"},
    }


def _judge(context: Context, config: Config) -> Judge:
    requests = atlas_requests(config.edits, context.seed, tokenizer=context.model.tokenizer)
    return Judge(
        context.model,
        requests,
        fluency_tokens=config.fluency_tokens,
        texts=texts_for_drift(context.model, None),
        seed=context.seed,
    )


def _record(outcome: EditOutcome, score: RequestScore | None) -> dict[str, Any]:
    names = ("probability_before", "probability_after", "norm", "seconds")
    (request,) = outcome.requests
    after = {} if score is None else score.after
    return {
        "prompt": request.text,
        "target": request.target,
        "ground_truth": request.ground_truth,
        "relation": request.relation,
        "status": str(outcome.status),
        "says": "" if score is None else score.reply[1].strip(),
        "tokens": {str(name): rates.tokens for name, rates in after.items() if name in SHOWN},
        **{name: outcome.details.get(name) for name in names},
    }


# --- rewiring ------------------------------------------------------------------------------------


def _rewired(context: Context, config: Config, run: EditRun) -> dict[str, Any] | None:
    """Layers and roles that the first edits rewire, beside their controls; None of none."""
    edited: list[Rewiring] = []
    beside: dict[Control, list[Rewiring]] = {kind: [] for kind in Control}
    left_out: list[str] = []
    usable = [outcome for outcome in run.outcomes if outcome.delta is not None]
    for outcome in usable:
        if len(edited) == config.rewired:
            break
        assert outcome.delta is not None
        try:
            rewire = _rewire(context, config, outcome)
        except (OptionError, PromptError) as error:
            left_out.append(str(error))
            continue
        edited.append(rewire(outcome.delta))
        for kind, found in beside.items():
            other = control(outcome.delta, context.model, context.seed + len(edited), kind)
            found.append(rewire(other))
        context.progress(len(edited), min(config.rewired, len(usable)))
    if not edited:
        return None
    return {
        "n": len(edited),
        "left_out": left_out,
        "edit": {str(kind): summarise(edited, found).rows() for kind, found in beside.items()},
        "control": {str(kind): summarise(found).rows() for kind, found in beside.items()},
    }


def _rewire(
    context: Context, config: Config, outcome: EditOutcome
) -> Callable[[WeightDelta], Rewiring]:
    """What a change does to the pairs of one request, attributed once in the unedited model."""
    model, relation = context.model, outcome.requests[0].relation
    roles: Mapping[str, str] = {}
    if relation is not None:
        roles = context.roles(relation, config.role_pairs, hold_out=0.0)
    pairs = edit_pairs(
        model.tokenizer, outcome.requests, partners=config.partners, seed=context.seed
    )
    before, after = pairs.encode(model.tokenizer)
    scoring = Scoring()
    scores = attribute(model, before, scoring, batch_size=context.batch_size, keep_pairs=True)

    def rewire(delta: WeightDelta) -> Rewiring:
        return rewiring(
            model,
            delta,
            before,
            after,
            selector=Search().selected,
            scoring=scoring,
            before=scores,
            roles=roles,
            resamples=0,
            draws=config.draws,
            seed=context.seed,
            batch_size=context.batch_size,
        )

    return rewire


ANALYSIS = Analysis(
    name="edit-study",
    title="What edit methods do",
    question="Do edits take, what else do they change, and what do they rewire that a random "
    "change of their size would not?",
    config=Config,
    steps=steps,
    compute=compute,
    report=report,
    slow=True,
)
