"""What unlearning forgets and what it keeps: `python -m experiments.studies.unlearn_study`.

A few facts of the atlas are unlearned in one wording while a hundred others are retained, several
times over with other facts. Scored are the facts to forget in that wording and in the two held-out
ones, the facts to retain, and facts that no method saw. Each score is token accuracy, its interval
a bootstrap over the draws. One JSON file and one Markdown table.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.choices import Templates, UnlearnMethod
from circuits.base.errors import KnowledgeCircuitsError

if TYPE_CHECKING:
    from circuits.base.intervals import Interval
    from circuits.edits.parts.examples import Example
    from circuits.model.model import Model

MODELS = ("facts-gpt2", "facts-llama")
FORGET, REWORDED, RETAIN, UNSEEN = "forget", "forget, other wordings", "retain", "unseen facts"
SETS = (FORGET, REWORDED, RETAIN, UNSEEN)


@dataclass(frozen=True)
class Draw:
    """The sets of one draw: facts, each in one wording; `reworded` are those to forget again."""

    forget: list[Example]
    reworded: list[Example]
    retain: list[Example]
    unseen: list[Example]

    def sets(self) -> dict[str, list[Example]]:
        """By the name that the table gives them."""
        parts = (self.forget, self.reworded, self.retain, self.unseen)
        return dict(zip(SETS, parts, strict=True))


def draw(known: Sequence[Example], forget: int, retain: int, seed: int) -> Draw:
    """Sets of known facts, each in its first wording; no subject stands in two of them.

    OptionError where too few facts are known.
    """
    from circuits.edits.parts.examples import fact_examples, split_facts
    from circuits.facts.facts import atlas

    first, rest = split_facts(known, forget, 2 * retain, seed)
    keep, unseen = rest[:retain], rest[retain:]
    seen = {each.subject for each in keep}
    facts = {(each.relation, each.subject) for each in first}
    held_out = fact_examples(atlas().values(), Templates.HELD_OUT)
    reworded = [each for each in held_out if (each.relation, each.subject) in facts]
    return Draw(first, reworded, keep, [each for each in unseen if each.subject not in seen])


def known_facts(model: Model) -> list[Example]:
    """The atlas' facts in their first wording, of which the model says the whole answer."""
    from circuits.edits.parts.examples import fact_examples
    from circuits.facts.facts import atlas

    asked = fact_examples(atlas().values())
    return [each for each, right in zip(asked, scores(model, asked), strict=True) if right == 1]


def scores(model: Model, examples: Sequence[Example]) -> list[float]:
    """Share of each answer's tokens that are the model's first choice, in the model as it is."""
    from circuits.edits.parts.examples import encode_examples
    from circuits.edits.parts.training import Trainee, token_scores

    passages = encode_examples(model.tokenizer, examples, "scored")
    return token_scores(Trainee(model), passages)[1].tolist()


def one(model: Model, method: UnlearnMethod, drawn: Draw, seed: int) -> dict[str, Any]:
    """Scores of all sets before and after one unlearning, and what came of it."""
    from circuits.edits.methods.unlearn import unlearn

    before = _accuracy(model, drawn)
    outcome = unlearn(model, drawn.forget, drawn.retain, method, seed=seed)
    after: Mapping[str, float | None] = dict.fromkeys(before)
    if outcome.delta is not None:
        with outcome.delta.applied(model):
            after = _accuracy(model, drawn)
    return {
        "model": model.name,
        "method": str(method),
        "seed": seed,
        "status": str(outcome.status),
        "before": before,
        "after": after,
        "seconds": outcome.details["seconds"],
        "settings": outcome.provenance["settings"],
    }


def _accuracy(model: Model, drawn: Draw) -> dict[str, float]:
    found = {name: scores(model, part) for name, part in drawn.sets().items()}
    return {name: sum(each) / len(each) for name, each in found.items()}


def rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row a model and method: the unedited model's mean and, after it, the edited one's."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in results:
        groups.setdefault((each["model"], each["method"]), []).append(each)
    return [
        (model, method, *(_cell(found, name) for name in SETS), str(len(found)))
        for (model, method), found in groups.items()
    ]


def _cell(found: Sequence[Mapping[str, Any]], name: str) -> str:
    ended = [each for each in found if each["after"][name] is not None]
    before = _mean([each["before"][name] for each in found])
    if not ended:
        return f"{before.value:.3f} -> none"
    after = _mean([each["after"][name] for each in ended])
    return f"{before.value:.3f} -> {after}"


def _mean(values: Sequence[float]) -> Interval:
    import numpy as np

    from circuits.base.intervals import bootstrap, mean

    return bootstrap(mean, np.array(values), resamples=1000, seed=0)


def run(folder: Path, models: Sequence[str], forget: int, retain: int, draws: int) -> Path:
    """Compute and write everything; returns the path of the page."""
    from circuits.base.origin import code_commit, timestamp
    from circuits.base.writing import atomic_write, save_json
    from circuits.model.model import load
    from locate.report import markdown_table

    results = []
    for name in models:
        model = load(name, device="cpu")
        known = known_facts(model)
        for seed in range(draws):
            drawn = draw(known, forget, retain, seed)
            results += [one(model, method, drawn, seed) for method in UnlearnMethod]
            print(f"{name}: {seed + 1} of {draws}", file=sys.stderr)
    about = {"forget": forget, "retain": retain, "draws": draws}
    origin = {"commit": code_commit(), "created": timestamp()}
    save_json({"choices": about, "results": results, **origin}, folder / "unlearning.json")
    lines = [f"# {forget} facts unlearned, {retain} retained, {draws} draws", ""]
    lines += markdown_table(("model", "method", *SETS, "draws"), rows(results))
    atomic_write(folder / "unlearning.md", "\n".join(lines) + "\n")
    return folder / "unlearning.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = ArgumentParser(prog="python -m experiments.studies.unlearn_study", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/edit-study"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--forget", type=int, default=10)
    parser.add_argument("--retain", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args(argv)
    try:
        import torch

        torch.set_num_threads(1)
        print(run(options.out, options.models, options.forget, options.retain, options.draws))
    except KnowledgeCircuitsError as error:
        print(f"unlearn_study: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
