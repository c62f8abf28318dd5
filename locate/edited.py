"""Facts edited and judged in one go: what `kc edit` and Python callers get.

1. The requests get the probes that the atlas has for them, and the model is asked them all.
2. The layers are the method's own for the model, those named, or those that a causal trace or the
   facts' circuit finds.
3. The edits are made in their mode (`locate.edit`), and judged by the same questions again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuits.base.display import Shown, Summary, is_page, paged
from circuits.base.errors import NothingFoundError, OptionError
from circuits.base.origin import code_commit, timestamp
from circuits.base.plain import plain
from circuits.base.progress import Stages, silent
from circuits.base.writing import atomic_write
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.judge.counterfactuals import with_atlas_probes
from circuits.edits.judge.success import Judge, RequestScore
from circuits.edits.judge.table import SuccessTable, summarise
from circuits.edits.methods.registry import EditMethod
from circuits.edits.requests import as_dict, as_jsonl
from circuits.edits.settings import as_mapping
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.edit import (
    Editor,
    EditRun,
    chosen_layers,
    mode_for,
    parse_layers,
    run_edits,
    texts_for_drift,
    worst,
)
from locate.options import Editing, Judging
from locate.report import number

DELTA = "edit.kc.safetensors"
SHOWN = 8
"""Requests in a summary."""
NOT_IN_ORIGIN = ("requests", "earlier", "forget", "retain")
"""Parts of a provenance that are results by themselves."""


@dataclass(frozen=True, eq=False)
class Edited(Shown):
    """Edits of a model with what they did; the model itself is as it was.

    `run` has the outcomes and scores, `requests` what was asked for. `evidence` says how the layers
    were chosen, where a trace or a circuit did. `perplexity` is that before, `left_out` lists
    probes that could not be asked.
    """

    model: Model
    method: str
    requests: tuple[EditRequest, ...]
    run: EditRun
    perplexity: float
    seed: int
    evidence: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def delta(self) -> WeightDelta | None:
        """The whole change of weights; None where there is none, or several apart."""
        single = len(self.run.outcomes) == 1 == len(self.deltas)
        return self.deltas[0] if single else self.run.delta

    @property
    def deltas(self) -> list[WeightDelta]:
        """The changes that were found, one an outcome."""
        return self.run.deltas

    @property
    def scores(self) -> tuple[RequestScore, ...]:
        """How each request fared: measures before and after, the target's probability, replies.

        One whose edit was not made (`run.made` has the places of the others) is judged without it.
        """
        return self.run.final

    @property
    def status(self) -> dict[str, int]:
        """Outcomes by status."""
        return self.run.counts()

    def table(self) -> SuccessTable:
        """Measures over all requests, before and after."""
        return self.run.table()

    @contextmanager
    def applied(self) -> Iterator[Model]:
        """The edited model; its weights are back bit for bit when the block ends."""
        if self.delta is None:
            reason = self.run.notes[0] if self.run.notes else "each edit stands by itself"
            raise OptionError(f"there is no one change to apply: {reason}; see `deltas`")
        with self.delta.applied(self.model) as edited:
            yield edited

    def rows(self) -> list[dict[str, Any]]:
        """One record a request and measure: the three scorings before and after, 0 to 1."""
        return [
            {
                "prompt": score.request.text,
                "target": score.request.target,
                "measure": str(measure),
                **{f"{name}_before": value for name, value in vars(score.before[measure]).items()},
                **{f"{name}_after": value for name, value in vars(after).items()},
            }
            for score in self.scores
            for measure, after in score.after.items()
        ]

    def summary(self) -> Summary:
        """Method, layers and outcome, and what the model says of each request before and after."""
        facts = {
            "model": self.model.name,
            "status": ", ".join(f"{count} {status}" for status, count in self.status.items()),
            "layers": ", ".join(map(str, self.layers)),
        }
        notes = [*self.run.notes, *self.left_out]
        facts |= {"note": "; ".join(notes)} if notes else {}
        rows = [
            (
                score.request.text,
                score.request.target,
                *(f"{value:.3f}" for value in score.probability),
                *(text.strip() for text in score.reply),
            )
            for score in self.scores[:SHOWN]
        ]
        count = len(self.requests)
        return Summary(
            f"Edit by {self.method}: {count} request{'s' * (count != 1)}",
            facts,
            "probability of the target, and what the model says",
            ("prompt", "target", "before", "after", "said before", "says after"),
            rows,
        )

    @property
    def layers(self) -> list[int]:
        """Where weights were changed."""
        return sorted({layer for each in self.run.outcomes for layer in each.layers})

    def as_dict(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON values."""
        run = self.run
        return {
            "model": self.model.name,
            "method": self.method,
            "mode": str(run.mode),
            "status": self.status,
            "layers": self.layers,
            "layers_evidence": self.evidence or None,
            "requests": len(self.requests),
            **self._fared(run),
            "norms": [number(delta.norm()) for delta in self.deltas],
            "weights": [{name: dict(sizes) for name, sizes in each.items()} for each in run.growth],
            "seconds": [round(each, 3) for each in run.seconds],
            "scores": [
                {**score_record(score), "made": place in run.made}
                for place, score in enumerate(run.final)
            ],
            "details": [plain(dict(outcome.details)) for outcome in run.outcomes],
            "provenance": origin(run.outcomes[0].provenance, self.seed),
            "warnings": [*run.notes, *self.left_out],
        }

    def writers(self) -> dict[str, Callable[[Path], Any]]:
        """The changes of weights and the requests, as files by name."""
        return {
            **self._delta_files(),
            "requests.jsonl": lambda path: atomic_write(path, as_jsonl(self.requests)),
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write the files of `kc edit`, whole or not at all; returns their paths.

        A path that ends in .html gets a page of what the edit did instead.
        """
        if is_page(folder):
            paged(self, folder)
            return [Path(folder)]
        from locate.looks.edits import edit_look, owned_in

        return edit_look(self).write(Path(folder), owned_in(Path(folder)))

    def _delta_files(self) -> dict[str, Callable[[Path], Any]]:
        """The whole change in one file, or, of edits that do not belong together, one file each.

        Each says how it fared.
        """
        run = self.run
        if self.delta is not None:
            return {DELTA: self.delta.judged(self._fared(run)).save}
        places = [n for n, each in enumerate(run.outcomes, 1) if each.delta is not None]
        made = [run.final[place] for place in run.made]
        columns = zip(run.deltas, made, run.drifts, run.growth, strict=True)
        each = [
            delta.judged(self._fared(replace(run, final=(score,), drifts=(drift,), growth=(norm,))))
            for delta, score, drift, norm in columns
        ]
        return {
            f"edit-{place:04d}.kc.safetensors": delta.save
            for place, delta in zip(places, each, strict=True)
        }

    def _fared(self, run: EditRun) -> dict[str, Any]:
        """How edits fared, as plain JSON values."""
        return {
            "success": run.table().as_dict() if run.made else None,
            "right_after": (
                summarise(run.right_after).as_dict() if run.made and run.right_after else None
            ),
            "perplexity_before": number(self.perplexity),
        }


@alone
def edit_facts(
    model: Model,
    requests: Sequence[EditRequest],
    editing: Editing = Editing(),
    judging: Judging = Judging(),
    stages: Stages = silent,
) -> Edited:
    """Edit and judge; OptionError for options that do not fit, or where nothing is to be done.

    An edit that diverged is an outcome without a change (`locate.edit.worst` makes an error).
    """
    method = checked_method(editing)
    texts = texts_for_drift(model, judging.text)
    asked = [with_atlas_probes(request, editing.seed) for request in requests]
    run_on = model.with_bos(judging.bos)
    with stages("questions"):
        judge = Judge(
            run_on,
            asked,
            batch_size=judging.batch_size,
            fluency_tokens=judging.fluency,
            texts=texts,
            seed=judging.seed,
        )
    settings = dict(as_mapping(editing.settings))
    if editing.hparams is not None:
        settings["hparams"] = editing.hparams
    layers, evidence = chosen_layers(
        run_on, editing.layers, asked, seed=editing.seed, batch_size=judging.batch_size
    )
    editor = Editor(
        run_on,
        method,
        layers,
        editing.moments,
        editing.seed,
        editing.cache,
        settings,
    )
    mode = mode_for(method, len(asked), editing.sequential)
    collects = EditMethod.of(method).needs_moments and editing.moments is None
    with stages("second moments of a text, then edits" if collects else "edits") as progress:
        run = run_edits(editor, judge, mode, progress)
    if worst(run) is None and not run.deltas:
        raise NothingFoundError(f"nothing to edit: {run.outcomes[0].reason}")
    return Edited(
        model,
        method,
        judge.requests,
        run,
        judge.perplexity,
        editing.seed,
        evidence or _found_evidence(run),
        tuple(judge.left_out),
    )


def _found_evidence(run: EditRun) -> str:
    """How the method itself chose the layers of the one edit there is; empty for several."""
    found = [outcome.details.get("layers_evidence", "") for outcome in run.outcomes]
    return found[0] if len(found) == 1 else ""


def checked_method(editing: Editing) -> EditMethod:
    """The method; OptionError for a choice that does not fit, before a model is loaded."""
    method = EditMethod.of(editing.method)
    if editing.hparams is not None and not method.is_foreign:
        raise OptionError("`hparams` is EasyEdit's: it goes with `method` easyedit:NAME")
    parse_layers(editing.layers)
    return method


def score_record(score: RequestScore) -> dict[str, Any]:
    """One request's scores as plain JSON values."""
    return {
        **as_dict(score.request),
        "before": {str(m): plain(vars(rates)) for m, rates in score.before.items()},
        "after": {str(m): plain(vars(rates)) for m, rates in score.after.items()},
        "probability": plain(list(score.probability)),
        "reply": list(score.reply),
        "fluency": plain(list(score.fluency)),
        "entropy_to_end": plain(list(score.entropy_to_end)),
    }


def origin(provenance: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Where the numbers of an edit come from; its requests stand in their own file."""
    kept = {key: value for key, value in provenance.items() if key not in NOT_IN_ORIGIN}
    return {**plain(kept), "seed": seed, "commit": code_commit(), "created": timestamp()}
