"""What edits do, over many of them: `python -m experiments.studies.edit_study`.

1. Success: random counterfactual edits of the atlas, each alone on the unedited model, judged as by
   `kc edit`. Every method and model gets the same requests (but for tokenizers that differ).
2. Rewiring: of the first edits, what each did to the circuit of its own fact, beside control edits
   of the same norm at the same weights: a random direction, and one with the edit's own keys that
   writes something random.

One JSON file a model and method is written as soon as a part is done, and not computed again while
the choices stay the same.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.errors import KnowledgeCircuitsError, OptionError, PromptError
from experiments.studies.edit_tables import SHOWN, markdown

if TYPE_CHECKING:
    from circuits.edits.methods.registry import EditOutcome
    from circuits.model.model import Model
    from experiments.cli.console import Console
    from locate.changes.rewiring import Rewiring
    from locate.edit import EditRun

MODELS = ("facts-gpt2", "facts-llama")
METHODS = ("rome", "memit", "alphaedit", "ft", "ft-l")
PARTNERS = 8
DRAWS = 5
ROLE_PAIRS = 12


@dataclass(frozen=True)
class Choices:
    """What decides the numbers of one file."""

    model: str
    method: str
    edits: int = 100
    rewired: int = 50
    seed: int = 0
    fluency_tokens: int = 60


def study(choices: Choices, cache: Path | None, console: Console) -> Iterator[dict[str, Any]]:
    """One model and method as plain JSON values: without the second part, then with both."""
    from circuits.base.origin import code_commit, timestamp
    from circuits.base.plain import plain
    from circuits.edits.judge.counterfactuals import atlas_requests
    from circuits.edits.judge.success import Judge
    from circuits.model.model import load
    from locate.edit import Editor, Mode, run_edits, texts_for_drift

    model = load(choices.model, device="cpu")
    requests = atlas_requests(choices.edits, choices.seed, tokenizer=model.tokenizer)
    judge = Judge(
        model,
        requests,
        fluency_tokens=choices.fluency_tokens,
        texts=texts_for_drift(None),
        seed=choices.seed,
    )
    editor = Editor(model, choices.method, seed=choices.seed, cache=cache)
    with console.stage(f"{choices.model} {choices.method}: edits") as progress:
        run = run_edits(editor, judge, Mode.EACH, progress)
    first = run.outcomes[0].provenance
    table = run.table()
    result = plain(
        {
            "choices": asdict(choices),
            "status": run.counts(),
            "success": table.as_dict(),
            "weak": _weak(run),
            "requests": [_record(outcome) for outcome in run.outcomes],
            "notes": list(run.notes),
            "seconds_an_edit": sum(run.seconds) / len(run.seconds),
            "rewiring": None,
            "provenance": {key: first[key] for key in first if key != "requests"},
            "commit": code_commit(),
            "created": timestamp(),
        }
    )
    yield result
    if choices.rewired:
        with console.stage(f"{choices.model} {choices.method}: rewiring") as progress:
            found = rewiring_study(model, run, choices.rewired, choices.seed, progress)
        yield {**result, "rewiring": plain(found)}


def rewiring_study(
    model: Model, run: EditRun, n: int, seed: int, progress: Any = None
) -> dict[str, Any] | None:
    """Layers and roles that the first `n` edits rewire, beside their controls; None of none."""
    from circuits.edits.effects.control import Control, control
    from locate.changes.rewiring_summary import summarise

    edited: list[Rewiring] = []
    beside: dict[Control, list[Rewiring]] = {kind: [] for kind in Control}
    left_out: list[str] = []
    roles = _Roles(model, seed)
    usable = [outcome for outcome in run.outcomes if outcome.delta is not None]
    for outcome in usable:
        if len(edited) == n:
            break
        assert outcome.delta is not None
        try:
            rewire = _Rewire(model, outcome, roles.of(outcome.requests[0].relation), seed)
        except (OptionError, PromptError) as error:
            left_out.append(str(error))
            continue
        edited.append(rewire(outcome.delta))
        for kind, found in beside.items():
            found.append(rewire(control(outcome.delta, model, seed + len(edited), kind)))
        if progress:
            progress(len(edited), min(n, len(usable)))
    if not edited:
        return None
    return {
        "n": len(edited),
        "left_out": left_out,
        "edit": {str(kind): summarise(edited, found).rows() for kind, found in beside.items()},
        "control": {str(kind): summarise(found).rows() for kind, found in beside.items()},
    }


class _Roles:
    """Each relation's roles of heads in the unedited model, found once; none where it has none."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model, self.seed = model, seed
        self._found: dict[str, Mapping[str, str]] = {}

    def of(self, relation: str | None) -> Mapping[str, str]:
        """Labels by head's name."""
        if relation is None:
            return {}
        if relation not in self._found:
            self._found[relation] = self._find(relation)
        return self._found[relation]

    def _find(self, relation: str) -> Mapping[str, str]:
        from locate.examples import Source, collect
        from locate.heads.roles import head_roles

        try:
            source = Source(relation=relation, limit=ROLE_PAIRS, hold_out=0.0, seed=self.seed)
            pairs = collect(self.model, source).pairs
            return head_roles(self.model, pairs, check=False, seed=self.seed).roles
        except (OptionError, PromptError):
            return {}


class _Rewire:
    """The pairs of one request, attributed once in the unedited model."""

    def __init__(
        self, model: Model, outcome: EditOutcome, roles: Mapping[str, str], seed: int
    ) -> None:
        from circuits.edits.effects.pairs import edit_pairs
        from locate.discover import Search
        from locate.edges.eap import attribute

        self.model, self.roles, self.seed = model, roles, seed
        pairs = edit_pairs(model.tokenizer, outcome.requests, partners=PARTNERS, seed=seed)
        self.before, self.after = pairs.encode(model.tokenizer)
        self.search = Search()
        self.scores = attribute(model, self.before, self.search, keep_pairs=True)

    def __call__(self, delta: Any) -> Rewiring:
        from locate.changes.rewiring import rewiring

        return rewiring(
            self.model,
            delta,
            self.before,
            self.after,
            selector=self.search.selected,
            scoring=self.search,
            before=self.scores,
            roles=self.roles,
            resamples=0,
            draws=DRAWS,
            seed=self.seed,
        )


def _record(outcome: EditOutcome) -> dict[str, Any]:
    names = ("probability_before", "probability_after", "norm", "seconds")
    (request,) = outcome.requests
    return {
        "prompt": request.text,
        "target": request.target,
        "ground_truth": request.ground_truth,
        "relation": request.relation,
        "status": str(outcome.status),
        **{name: outcome.details.get(name) for name in names},
    }


def _weak(run: EditRun) -> dict[str, list[str]]:
    """The requests of which a measure is below 1, to see where and why it falls short."""
    weak: dict[str, list[str]] = {}
    for score in run.final:
        for measure, rates in score.after.items():
            if str(measure) in SHOWN and rates.tokens < 1:
                weak.setdefault(str(measure), []).append(
                    f"{score.request.relation}: {score.request.text} -> {score.request.target} "
                    f"({rates.tokens:.2f}), says {score.reply[1].strip()!r}"
                )
    return weak


# --- running -------------------------------------------------------------------------------------


def run(folder: Path, wanted: Sequence[Choices], cache: Path | None) -> Path:
    """Compute what is not there yet; returns the path of the page."""
    from circuits.base.writing import atomic_write, save_json
    from experiments.cli.console import Console

    console, results = Console(as_json=False), []
    for choices in wanted:
        path = folder / f"{Path(choices.model).name}-{choices.method}.json"
        result = _stored(path, choices)
        if result is None:
            with console.working():
                for result in study(choices, cache, console):
                    save_json(result, path)
        assert result is not None, "a study gives a result or raises"
        results.append(result)
        atomic_write(folder / "study.md", markdown(results))
    return folder / "study.md"


def _stored(path: Path, choices: Choices) -> dict[str, Any] | None:
    """A result of the same choices, where one is there."""
    from circuits.base.records import read_json

    if not path.is_file():
        return None
    found = read_json(path)
    same = isinstance(found, dict) and found.get("choices") == asdict(choices)
    return found if same and (found["rewiring"] or not choices.rewired) else None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = ArgumentParser(prog="python -m experiments.studies.edit_study", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/edit-study"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--rewired", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    try:
        import torch

        torch.set_num_threads(options.threads)
        wanted = [
            Choices(model, method, options.edits, options.rewired, options.seed)
            for model in options.models
            for method in options.methods
        ]
        print(run(options.out, wanted, options.cache))
    except KnowledgeCircuitsError as error:
        print(f"edit_study: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
