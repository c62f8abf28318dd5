"""A stored circuit on a model and on pairs: does it fit, and how well does it recall?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuits.base.choices import Ablation, Metric
from circuits.base.display import Shown, Summary, is_page, paged
from circuits.base.errors import CircuitFileError, NothingFoundError, OptionError
from circuits.base.intervals import Interval
from circuits.base.origin import write_all
from circuits.base.progress import Stages, silent
from circuits.base.stamps import stamped
from circuits.base.writing import save_json
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import (
    Evaluation,
    check_geometry,
    evaluation_of,
    run_circuits,
    single_edge_drops,
)
from circuits.graph.hypothesis import CircuitTests, circuit_tests
from circuits.model.holding import alone
from circuits.model.model import Model
from locate.discover import random_circuits
from locate.examples import Examples
from locate.looks.says import says
from locate.options import Evaluating
from locate.report import measure_records, measure_rows, measures, minimality, over_what
from locate.seen import OTHERS, UNKNOWN, Finders

logger = logging.getLogger(__name__)

NOT_KNOWN = "the circuit does not say which subjects found it, and these may be among them"


@dataclass(frozen=True, eq=False)
class StoredEvaluation(Shown):
    """A circuit's evaluation; `warnings` say what does not fit of model, circuit and pairs.

    `measured_on` names the pairs: `other subjects` where none of theirs had a part in finding the
    circuit (`other pairs` where not all name theirs), `value` where that is not known. Where only
    some had, `others` is the evaluation on the rest, which `others_are` names. `drops` is what
    faithfulness loses without each single kept edge, in canonical order, and `tests` are those of
    `circuits.graph.hypothesis`, where they were asked for; both on the pairs without such a
    subject where there are any.
    """

    model: str
    circuit: Circuit
    examples: Examples
    metric: Metric
    ablation: Ablation
    evaluation: Evaluation
    warnings: tuple[str, ...] = ()
    drops: tuple[Interval, ...] | None = None
    measured_on: str = UNKNOWN
    others: Evaluation | None = None
    tests: CircuitTests | None = None
    others_are: str = OTHERS

    @property
    def faithfulness(self) -> Interval:
        """0 with every edge cut, 1 for the whole model; on subjects that had no part, if any."""
        return (self.others or self.evaluation).faithfulness

    def sides(self) -> dict[str, Evaluation]:
        """The evaluations by the name of their pairs."""
        found = {self.measured_on: self.evaluation}
        return found if self.others is None else found | {self.others_are: self.others}

    @property
    def tested_on(self) -> str | None:
        """The pairs of `faithfulness`, of single edges and of the tests; None: who is not known."""
        side = list(self.sides())[-1]
        return None if side == UNKNOWN else side

    def rows(self) -> list[dict[str, Any]]:
        """One record a measure, with its 95 % interval."""
        return measure_records(self.sides())

    def summary(self) -> Summary:
        """The measures, what they were taken on, and what to know before believing them."""
        found = self.evaluation.summary()
        header, rows = measure_rows(self.sides())
        over = f"means, and 95 % intervals over {over_what(self.sides())}"
        found = replace(found, note=over, header=("measure", *header[1:]), rows=rows)
        facts = {"model": self.model, "relation": self.examples.name, **found.facts}
        if self.tests is not None:
            facts |= {test.name: test.sentence for test in self.tests.tests}
        if self.warnings:
            facts["note"] = "; ".join(self.warnings)
        return replace(found, facts=facts)

    def save(self, folder: str | Path, path: Path | None = None) -> list[Path]:
        """Write the files of `kc evaluate`; `path` is the circuit's file, where it has one.

        A `folder` that ends in .html gets a page of the measures instead.
        """
        if is_page(folder):
            paged(self, folder)
            return [Path(folder)]
        record = self.as_dict(path)
        return write_all(Path(folder), {"summary.json": lambda to: save_json(record, to)})

    def as_dict(self, path: Path | None = None) -> dict[str, Any]:
        """Everything as plain JSON values; `path` is the circuit's file.

        Measures are those on the pairs without those who found it, where there are any.
        """
        record = {
            "model": self.model,
            "file": None if path is None else str(path),
            "method": self.circuit.provenance.get("method"),
            "metric": str(self.metric),
            "ablation": str(self.ablation),
            "relation": self.examples.name,
            **measures(self.others or self.evaluation),
            "edges": self.circuit.n_edges,
            "edges_in_model": self.circuit.wiring.n_edges,
            "nodes": self.evaluation.n_nodes,
            "measured_on": self.tested_on,
            "all_pairs": None if self.others is None else measures(self.evaluation),
            "minimality": None if self.drops is None else self._minimality(self.drops),
            "tests": None if self.tests is None else self._tests(self.tests),
            "facts": self.examples.counts,
            "bos": self.examples.bos,
            "warnings": list(self.warnings),
        }
        return stamped("evaluate", record, says(self))

    def _minimality(self, drops: Sequence[Interval]) -> dict[str, Any]:
        return {"measured_on": self.tested_on, **minimality(self.circuit, drops)}

    def _tests(self, tests: CircuitTests) -> dict[str, Any]:
        return {"measured_on": self.tested_on, **tests.as_dict()}


def fitted(circuit: Circuit, model: Model, path: Path) -> Circuit:
    """The circuit on the model's wiring; CircuitFileError where it is of another geometry.

    EAP-IG's format does not say how many query heads share a key-value head: a circuit with one
    key a query head fits any such sharing.
    """
    wiring = circuit.wiring
    if not wiring.kv.is_shared and wiring.n_kv_heads == wiring.n_heads:
        if wiring.n_heads == model.n_heads:
            wiring = replace(wiring, n_kv_heads=model.n_kv_heads)
        if model.wiring(wiring.kv) == wiring:
            scores = circuit.scores
            scores = None if scores is None else replace(scores, wiring=wiring)
            return replace(circuit, wiring=wiring, scores=scores)
    try:
        check_geometry(model, circuit.wiring)
    except OptionError as error:
        raise CircuitFileError(path, str(error)) from None
    return circuit


def bos_of(circuit: Circuit, bos: bool | None, allow_mismatch: bool | None) -> bool | None:
    """The BOS choice to evaluate with: the one asked for, else the circuit's own.

    OptionError where they differ, unless mismatches are allowed; None: there is no such option.
    """
    recorded = circuit.provenance.get("bos")
    if not isinstance(recorded, bool):
        return bos
    if bos is not None and bos is not recorded and not allow_mismatch:
        had = "with" if recorded else "without"
        way = "" if allow_mismatch is None else ", or add `allow_mismatch` to evaluate it otherwise"
        raise OptionError(f"the circuit was found {had} a BOS token; leave `bos` out{way}")
    return recorded if bos is None else bos


def mismatches(
    circuit: Circuit, model: Model, bos: bool | None, allow_mismatch: bool | None
) -> tuple[str, ...]:
    """What differs between the circuit's model and this one, in words.

    Other weights are worth a warning (another checkpoint, dtype or fine-tuning is a question one
    may ask); another tokenizer means other prompts, and is refused unless allowed. None: there is
    no such option.
    """
    origin = circuit.provenance
    found = []
    if (
        origin.get("weights_sha256", model.provenance["weights_sha256"])
        != (model.provenance["weights_sha256"])
    ):
        found.append(
            f"the circuit was found in {origin.get('model', 'another model')!r} "
            f"({origin.get('dtype', '?')}), whose weights differ from those of {model.name!r} "
            f"({model.provenance.get('dtype', '?')})"
        )
    now, patches = model.provenance, "patched_sha256"
    if "weights_sha256" in origin and origin.get(patches) != now.get(patches):
        found.append(f"the circuit was found {_patches(origin)}, and is looked at {_patches(now)}")
    tokenizer = model.provenance["tokenizer_sha256"]
    if origin.get("tokenizer_sha256", tokenizer) != tokenizer:
        text = f"the circuit was found with another tokenizer than that of {model.name!r}"
        if not allow_mismatch:
            way = "" if allow_mismatch is None else "; `allow_mismatch` evaluates it all the same"
            raise OptionError(f"{text}{way}")
        found.append(text)
    recorded = origin.get("bos")
    if isinstance(recorded, bool) and bos is not None and bos is not recorded:
        found.append(f"the circuit was found {'with' if recorded else 'without'} a BOS token")
    return tuple(found)


def _patches(provenance: Mapping[str, Any]) -> str:
    told = provenance.get("patched")
    return f"in a patched model ({', '.join(told)})" if told else "without patches"


def looked_into(
    circuit: Circuit, model: Model, path: Path, bos: bool | None
) -> tuple[Circuit, bool | None]:
    """A stored circuit whose parts are looked at, on the model's wiring, and the BOS to ask with.

    Errors are those of `fitted`, `bos_of` and `mismatches`; what else differs is warned of.
    """
    bos = bos_of(circuit, bos, None)
    circuit = fitted(circuit, model, path)
    for told in mismatches(circuit, model, bos, None):
        logger.warning("%s", told)
    return circuit, bos


@alone
def evaluate_on(
    model: Model,
    circuit: Circuit,
    path: Path,
    bos: bool | None,
    options: Evaluating,
    pairs_for: Callable[[bool | None, Finders | None], Examples],
    stages: Stages = silent,
) -> StoredEvaluation:
    """Hold a stored circuit against the model, make the pairs, and evaluate.

    `pairs_for` makes the pairs, with BOS or without, that do not ask about those who are to be
    avoided. Errors and warnings are those of `fitted`, `bos_of`, `mismatches` and `to_avoid`.
    """
    bos = bos_of(circuit, bos, options.allow_mismatch)
    circuit = fitted(circuit, model, path)
    warnings = mismatches(circuit, model, bos, options.allow_mismatch)
    examples = pairs_for(bos, to_avoid(circuit, options))
    return evaluate_stored(model, circuit, examples, options, warnings, stages)


@alone
def evaluate_stored(
    model: Model,
    circuit: Circuit,
    examples: Examples,
    options: Evaluating = Evaluating(),
    warnings: Sequence[str] = (),
    stages: Stages = silent,
) -> StoredEvaluation:
    """Evaluate on all pairs; metric and ablation are the circuit's own unless given.

    The tests, and what single edges are worth, are on the pairs whose subjects had no part in
    finding the circuit, where that is known. OptionError where tests are asked for and there are
    no such pairs.
    """
    used: dict[str, Any] = {
        "metric": Metric.of(_used(options.metric, circuit, "metric", Metric.LOGIT_DIFFERENCE)),
        "ablation": Ablation.of(_used(options.ablation, circuit, "ablation", Ablation.PATCH)),
        "batch_size": options.batch_size,
    }
    seed, pairs = options.seed, examples.pairs
    finders = Finders.among([circuit], pairs, examples.fingerprint)
    notes = [*warnings, *doubts(circuit, examples, finders), *examples.notes]
    seen, fresh = ([], list(range(len(pairs)))) if finders is None else finders.split(pairs)
    if options.tests and not fresh:
        raise NothingFoundError(
            "every pair asks about a subject or prompt that had a part in finding the circuit, so "
            "nothing can be tested; ask about others"
        )
    drawn: list[Circuit] = []
    if circuit.n_edges:
        drawn = random_circuits(circuit, options.n_random, seed)
    with stages("evaluation") as progress:
        runs = run_circuits(model, pairs, [circuit, ~circuit, *drawn], progress=progress, **used)
    mixed = bool(seen and fresh)
    others = evaluation_of(runs.at(fresh), circuit, seed=seed) if mixed else None
    tested = [pairs[place] for place in fresh or seen]
    drops = tests = None
    if options.minimality and circuit.n_edges:
        with stages("minimality"):
            drops = single_edge_drops(model, tested, circuit, seed=seed, **used)
    if options.tests:
        with stages("tests") as progress:
            tests = circuit_tests(
                model, tested, circuit, draws=options.draws, seed=seed, progress=progress, **used
            )
    return StoredEvaluation(
        model.name,
        circuit,
        examples,
        used["metric"],
        used["ablation"],
        evaluation_of(runs, circuit, seed=seed),
        tuple(notes),
        drops,
        UNKNOWN if finders is None else finders.side(pairs),
        others,
        tests,
        OTHERS if finders is None else finders.beside(tested),
    )


def to_avoid(circuit: Circuit, options: Evaluating) -> Finders | None:
    """Who is not to be asked about: with `others` and with `tests` those who found the circuit.

    OptionError where `others` is asked for and the circuit does not say who found it.
    """
    finders = Finders.of(circuit) if options.others or options.tests else None
    if options.others and finders is None:
        raise OptionError(f"{NOT_KNOWN}; leave `others` out")
    return finders


def doubts(circuit: Circuit, examples: Examples, finders: Finders | None) -> list[str]:
    """What to know of the pairs beside the circuit, a line each.

    Where other numbers of answered facts stand before the questions, and where nobody says who
    found it.
    """
    lines = [] if finders is not None else [NOT_KNOWN]
    found, here = _shots(circuit.provenance.get("facts")), _shots(examples.counts)
    if found is None or here is None or found == here:
        return lines
    return [
        f"the circuit was found with {found} answered facts before each question and is evaluated "
        f"with {here} (`shots`)",
        *lines,
    ]


def _shots(counts: Any) -> int | None:
    """Answered facts before each question, as `Examples.counts` has them; None: not said."""
    asked = counts.get("asked_as") if isinstance(counts, Mapping) else None
    return asked.get("shots") if isinstance(asked, Mapping) else None


def _used(given: Any, circuit: Circuit, name: str, usual: Any) -> Any:
    """What is asked for, else what the circuit was found with, else the usual."""
    return given if given is not None else circuit.provenance.get(name) or usual
