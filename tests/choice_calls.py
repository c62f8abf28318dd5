"""How to call everything public that takes a choice; run as a program, without type checks.

Prints a JSON list of what is wrong. `CALLS` names module, callable and parameter.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import tempfile
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from circuits.base.choices import Choice, Metric, Open
from circuits.base.errors import OptionError
from circuits.base.intervals import UNDEFINED
from tests import results
from tests.tiny import equal_length_pairs, tiny_model

NONSENSE = "no-such-name"
MADE = {
    "locate.changes.circuit_layers:CircuitLayers",
    "circuits.edits.methods.run:EditOutcome",
    "locate.edit:EditRun",
    "locate.evaluate:StoredEvaluation",
    "locate.examples:Examples",
    "locate.states.sweep:Site",
    "locate.states.trace_roles:AverageTrace",
    "locate.states.trace_result:Trace",
    "locate.states.tracing:restored_values",
}
"""Results and what only this code makes or calls: nobody gives them a name."""


@cache
def model() -> Any:
    return tiny_model("llama", layers=2)


@cache
def pairs() -> Any:
    return equal_length_pairs(model())[:2]


def traced() -> Any:
    pair = pairs()[0]
    return pair.clean, pair.subject, pair.text.answer, pair.answer


@cache
def scores() -> Any:
    return call("locate.edges.eap:attribute")(model(), pairs(), steps=1)


@cache
def circuit() -> Any:
    return call("circuits.graph.select:select")(scores(), "top", 40)


@cache
def batch() -> Any:
    return next(iter(call("circuits.facts.batches:batches")(pairs(), 1, model())))


def directions(**ends: Any) -> Any:
    numbers = torch.arange(2)
    made = call("locate.features.directions:Directions")
    return made(numbers, numbers, torch.ones(2, 3), torch.ones(2, 3), **ends)


@cache
def delta() -> Any:
    edits = importlib.import_module("circuits.edits.edit")
    name = model().mlp_output_name(0)
    rows, columns = model().parameter(name).shape
    left, right = torch.linspace(-1, 1, rows)[:, None], torch.linspace(-1, 2, columns)[None]
    return edits.WeightDelta({name: edits.LowRank(left, right)})


@cache
def relation() -> Any:
    facts = importlib.import_module("circuits.facts.facts")
    told = tuple(
        facts.Fact("capital", pair.text.subject, pair.text.answer)
        for pair in equal_length_pairs(model())
    )
    wordings = ("The capital of {} is", "In {} the capital is", "{} has", "Of {} it is", "In {} is")
    return facts.Relation("capital", "places", "country", told, wordings, ("{}: ",))


def call(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def edit_pairs(contrast: Any) -> Any:
    request = call("circuits.edits.edit:EditRequest")
    facts = relation().facts
    asked = request("The capital of {} is", facts[0].subject, "Oslo", facts[0].object, "capital")
    return call("circuits.edits.effects.pairs:edit_pairs")(
        model().tokenizer, [asked], others=facts, partners=2, contrast=contrast
    )


def edit(method: Any) -> Any:
    request = call("circuits.edits.edit:EditRequest")("The capital of {} is", "Peru", "Oslo")
    return call("circuits.edits.methods.run:edit")(model(), request, method, layers=[99])


def used(use: Any) -> Any:
    asked = call("circuits.edits.edit:EditRequest")("The capital of {} is", "Peru", "Oslo", "Lima")
    return call("circuits.edits.parts.uses:sentences")(asked, [use])


def rewired(draw: Any) -> Any:
    return call("locate.changes.rewiring:rewiring")(
        model(), delta(), pairs(), selector=lambda found: circuit(), resamples=0, draws=2, draw=draw
    ).restoration


def restored(draw: Any) -> Any:
    edges = np.zeros(model().wiring().n_edges, dtype=bool)
    edges[3] = True
    return call("locate.changes.restoration:restore_edges")(
        model(), delta(), pairs(), edges, draws=3, draw=draw
    ).random


def ran(place: str = "circuits.graph.running:CircuitRunner", **options: Any) -> Any:
    runner = call(place)
    constants = None
    if str(options["ablation"]) in ("zero", "mean"):
        constants = call("circuits.graph.ablation:source_constants")(
            model(), pairs(), options["ablation"]
        )
    return runner(model(), batch(), circuit().wiring, constants=constants, **options).run(circuit())


def alone(ablation: Any, made: Any = None) -> Any:
    clean, corrupted = zip(*[(x.text.clean, x.text.corrupted) for x in pairs()], strict=True)
    given = {"prompts": clean} if str(ablation) == "mean" else {}
    plain = call("circuits.graph.circuit_model:CircuitModel")
    made = made or (lambda of, *chosen, **rest: plain(of, circuit(), *chosen, **rest))
    beside = corrupted if str(ablation) == "patch" else None
    return made(model(), ablation, **given).logits(clean, beside)


def foreign(
    sign: Any, place: str = "circuits.files.exchange:load_eap_ig", several: bool = False
) -> Any:
    """What comes of reading another tool's file, its folder's name aside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "circuit.json"
        call("circuits.files.exchange:save_eap_ig")(circuit(), path)
        document = json.loads(path.read_text())
        del document["kc"]
        path.write_text(json.dumps(document))
        try:
            read = call(place)([path] if several else path, sign=sign)
        except OptionError as error:
            raise OptionError(str(error).replace(folder, "")) from None
    [read] = read if isinstance(read, list) else [read]
    return read.scores.values, read.provenance


def submitted(option: str, value: Any) -> Any:
    """Files of a submission, or why there are none: the model is none of the board's."""
    options = {"task": "ioi", "model": "gpt2", "form": "circuits", "by": "signed", option: value}
    with tempfile.TemporaryDirectory() as folder:
        return call(f"{SUBMISSION}:save_submission")(circuit(), folder, **options)


def written(place: str, suffix: str, *given: Any, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"written{suffix}"
        call(place)(given[0], path, *given[1:], **options)
        return path.read_bytes()


def read(place: str, schema: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.jsonl"
        row = {"subject": "Peru", "object": "Lima", "prompt": "The capital of Peru is"}
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        try:
            return repr(call(place)(path, schema)).replace(folder, "")
        except Exception as error:
            raise type(error)(*[str(error).replace(folder, "")] * len(error.args)) from None


def changed(decision: Any) -> Any:
    changes = importlib.import_module("circuits.graph.noise").EdgeChanges
    none, code = np.zeros(4), np.array([0, 1, 2, 1])
    settings = call("circuits.graph.noise:NoiseSettings")()
    return changes(*[none] * 8, code, 0.1, 1, 1, 1, settings).called(decision)


def unlearned(method: Any) -> Any:
    return call("circuits.edits.methods.unlearn:unlearn")(model(), [], [], method)


def edits_run(mode: Any) -> Any:
    judge = SimpleNamespace(requests=[], model=model())
    return call("locate.edit:run_edits")(lambda *a, **o: None, judge, mode)


def measured(metric: Any = "logit-diff", ablation: Any = "patch") -> Any:
    base = call("circuits.graph.measuring:BaseRuns")
    found = base(model(), pairs(), model().wiring(), metric, ablation, 4)
    return call("circuits.graph.measuring:MeanMetric")(found).of(circuit().matrix())


@cache
def runs() -> Any:
    return call(f"{EVALUATE}:run_circuits")(model(), pairs(), [circuit()])


def logits() -> Any:
    return torch.linspace(-1, 2, 14).reshape(2, 7), torch.tensor([1, 2]), torch.tensor([3, 4])


def placed(place: str, what: str) -> Callable[[Any], Any]:
    return lambda v: call(place)(getattr(results, what)(), placement=v)


EVALUATE = "circuits.graph.evaluate"
SUBMISSION = "locate.mib.submission"
OPTIONS = "locate.options"
SELECT = "circuits.graph.select"
QUESTIONS = "circuits.facts.questions"
KNOWLEDGE = "circuits.facts.knowledge"
TRACE, AVERAGE = "locate.states.trace_result:Trace", "locate.states.trace_roles:AverageTrace"
CALLS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("circuits.edits.effects.control:control", "kind"): lambda v: call(
        "circuits.edits.effects.control:control"
    )(delta(), model(), 0, v).dense(model().mlp_output_name(0)),
    ("circuits.edits.effects.pairs:edit_pairs", "contrast"): edit_pairs,
    ("circuits.edits.methods.cake:CakeSettings", "uses"): lambda v: call(
        "circuits.edits.methods.cake:CakeSettings"
    )(uses=[v]),
    ("circuits.edits.methods.run:edit", "method"): edit,
    ("circuits.edits.methods.run:share_moments", "methods"): lambda v: call(
        "circuits.edits.methods.run:share_moments"
    )(model(), [v], [99]),
    ("circuits.edits.methods.unlearn:unlearn", "method"): unlearned,
    ("circuits.edits.parts.uses:sentences", "uses"): used,
    ("circuits.edits.methods.rome:RomeSettings", "keys"): lambda v: call(
        "circuits.edits.methods.rome:RomeSettings"
    )((0,), keys=v),
    **{
        ("locate.features.directions:Directions", end): lambda v, end=end: directions(**{end: v})
        for end in ("reads", "writes")
    },
    ("locate.features.frozen_run:FrozenRun.reader", "reads"): lambda v: (
        call("locate.features.frozen_run:FrozenRun")(model(), pairs()[0].clean)
        .reader(1, 2, torch.ones(model().d_model), v)
        .here
    ),
    ("circuits.edits.parts.value:ValueSettings", "kl_position"): lambda v: call(
        "circuits.edits.parts.value:ValueSettings"
    )(kl_position=v),
    ("circuits.edits.parts.examples:fact_examples", "templates"): lambda v: call(
        "circuits.edits.parts.examples:fact_examples"
    )(relation(), v),
    **{
        (place, "schema"): lambda v, place=place: read(place, v)
        for place in (
            "circuits.edits.requests:read_requests",
            "circuits.facts.loaders:load_facts",
            "circuits.facts.loaders:read_facts",
            "circuits.facts.loaders:list_facts",
        )
    },
    **{
        (place, "style"): lambda v, place=place: call(place)("{} is", "Peru", relation().facts, v)
        for place in (
            "circuits.facts.demonstrations:demonstrated",
            "circuits.facts.demonstrations:with_demonstrations",
        )
    },
    (f"{QUESTIONS}:chosen_templates", "templates"): lambda v: call(f"{QUESTIONS}:chosen_templates")(
        relation(), v
    ),
    ("locate.asking:resolved", "templates"): lambda v: call("locate.asking:resolved")(model(), v),
    (f"{QUESTIONS}:questions", "templates"): lambda v: call(f"{QUESTIONS}:questions")(
        relation(), v
    ),
    (f"{KNOWLEDGE}:known_facts", "templates"): lambda v: call(f"{KNOWLEDGE}:known_facts")(
        model(), relation(), v
    ),
    (f"{KNOWLEDGE}:known_facts", "known"): lambda v: call(f"{KNOWLEDGE}:known_facts")(
        model(), relation(), known=v
    ),
    (f"{KNOWLEDGE}:with_best", "known"): lambda v: call(f"{KNOWLEDGE}:with_best")(
        model(), [relation()], known=v
    ),
    (f"{KNOWLEDGE}:ask", "known"): lambda v: call(f"{KNOWLEDGE}:ask")(
        model(), call(f"{QUESTIONS}:questions")(relation()), [relation()], known=v
    ),
    ("locate.examples:recalled", "known"): lambda v: call("locate.examples:recalled")(
        model(), pairs(), known=v
    ),
    ("locate.options:Source", "known"): lambda v: call("locate.options:Source")(known=v),
    ("circuits.files.exchange:load_eap_ig", "sign"): foreign,
    ("circuits.files.exchange:signed", "sign"): lambda v: (
        call("circuits.files.exchange:signed")(circuit(), v).scores.values
    ),
    ("circuits.files.reading:read_circuit", "sign"): lambda v: foreign(
        v, "circuits.files.reading:read_circuit"
    ),
    ("circuits.files.reading:both_signed", "sign"): lambda v: foreign(
        v, "circuits.files.reading:both_signed", several=True
    ),
    (f"{SUBMISSION}:read_submission", "sign"): lambda v: foreign(
        v, f"{SUBMISSION}:read_submission"
    ),
    (f"{SUBMISSION}:board_folder", "task"): lambda v: call(f"{SUBMISSION}:board_folder")(
        v, "llama3"
    ),
    (f"{SUBMISSION}:board_folder", "model"): lambda v: call(f"{SUBMISSION}:board_folder")("ioi", v),
    **{
        (f"{SUBMISSION}:save_submission", option): lambda v, option=option: submitted(option, v)
        for option in ("task", "model", "form", "by")
    },
    ("locate.mib.board:nested", "by"): lambda v: [
        each.kept for each in call("locate.mib.board:nested")(scores(), v)
    ],
    ("circuits.files.exchange:export_circuit", "format"): lambda v: written(
        "circuits.files.exchange:export_circuit", ".x", circuit(), v
    ),
    ("circuits.graph.ablation:source_constants", "ablation"): lambda v: (
        call("circuits.graph.ablation:source_constants")(model(), pairs(), v).embedding
    ),
    **{
        (f"{EVALUATE}:{name}", option): lambda v, name=name, option=option, given=given: call(
            f"{EVALUATE}:{name}"
        )(model(), pairs(), given(), **{option: v})
        for name, given in (
            ("run_circuits", lambda: [circuit()]),
            ("evaluate", circuit),
            ("single_edge_drops", lambda: call(f"{SELECT}:select")(scores(), "top", 12)),
        )
        for option in ("metric", "ablation")
    },
    ("locate.neurons.patching:patch_neurons", "metric"): lambda v: call(
        "locate.neurons.patching:patch_neurons"
    )(model(), pairs(), {0: [[0]]}, metric=v),
    **{
        ("circuits.graph.hypothesis:circuit_tests", option): lambda v, option=option: call(
            "circuits.graph.hypothesis:circuit_tests"
        )(
            model(),
            pairs(),
            call(f"{SELECT}:select")(scores(), "top", 12),
            draws=29,
            **{option: v},
        ).as_dict()
        for option in ("metric", "ablation")
    },
    ("circuits.facts.whole_answers:Parts.of", "metric"): lambda v: call(
        "circuits.facts.whole_answers:Parts"
    ).of(model().tokenizer, pairs(), v),
    **{
        ("circuits.graph.measuring:BaseRuns", option): lambda v, option=option: measured(
            **{option: v}
        )
        for option in ("metric", "ablation")
    },
    ("viz.theme:plain_style", "meaning"): lambda v: call("viz.theme:plain_style")(v),
    ("viz.theme:edge_style", "meaning"): lambda v: call("viz.theme:edge_style")(-1.0, v),
    ("circuits.facts.tasks:task_pairs", "task"): lambda v: call("circuits.facts.tasks:task_pairs")(
        model().tokenizer, v, 2
    ),
    ("locate.search:with_each", "methods"): lambda v: call("locate.search:with_each")(
        call("locate.search:Scoring")(), [v]
    ),
    ("locate.states.patching:patch_prompt", "kinds"): lambda v: call(
        "locate.states.patching:patch_prompt"
    )(model(), pairs()[0], kinds=[v]).effect(v),
    ("locate.states.patching:patch_pairs", "metric"): lambda v: (
        call("locate.states.patching:patch_pairs")(
            model(), pairs(), kinds=["mlp"], metric=v
        ).p_clean
    ),
    ("locate.states.patching:patch_pairs", "kinds"): lambda v: call(
        "locate.states.patching:patch_pairs"
    )(model(), pairs(), kinds=[v]).mean(v),
    ("circuits.graph.noise:NoiseSettings", "control"): lambda v: call(
        "circuits.graph.noise:NoiseSettings"
    )(control=v),
    ("circuits.graph.noise:EdgeChanges.called", "decision"): changed,
    ("circuits.graph.running:CircuitRunner", "ablation"): lambda v: ran(ablation=v),
    ("circuits.graph.soft:SoftRunner", "ablation"): lambda v: ran(
        "circuits.graph.soft:SoftRunner", ablation=v
    ),
    ("circuits.graph.circuit_model:CircuitModel", "ablation"): lambda v: alone(v),
    ("circuits.graph.circuit:Circuit.as_model", "ablation"): lambda v: alone(v, circuit().as_model),
    ("circuits.graph.curve:FaithfulnessCurve", "ranking"): lambda v: (
        call("circuits.graph.curve:FaithfulnessCurve")(
            (1.0,), (9,), (), UNDEFINED, UNDEFINED, v
        ).areas
    ),
    ("circuits.graph.curves:faithfulness_curve", "ranking"): lambda v: (
        call("circuits.graph.curves:faithfulness_curve")(runs(), [circuit()], ranking=v).areas
    ),
    ("locate.interchange:interchange", "metric"): lambda v: (
        call("locate.interchange:interchange")(model(), pairs(), ["m0"], metric=v).changed
    ),
    (f"{SELECT}:top_n", "by"): lambda v: call(f"{SELECT}:top_n")(scores(), 9, v).kept,
    (f"{SELECT}:threshold", "by"): lambda v: call(f"{SELECT}:threshold")(scores(), 0.5, v).kept,
    (f"{SELECT}:greedy", "by"): lambda v: call(f"{SELECT}:greedy")(scores(), 9, v).kept,
    (f"{SELECT}:select", "by"): lambda v: call(f"{SELECT}:select")(scores(), "top", 9, by=v).kept,
    (f"{SELECT}:select", "selection"): lambda v: (
        call(f"{SELECT}:select")(scores(), v, 9, 0.5).provenance
    ),
    ("circuits.model.metrics:evaluate_metric", "metric"): lambda v: call(
        "circuits.model.metrics:evaluate_metric"
    )(v, *logits(), logits()[0].flip(1)),
    ("circuits.model.model:Model.wiring", "kv"): lambda v: model().wiring(v),
    ("circuits.model.weights:Weights.head_projections", "kv"): lambda v: (
        model().head_projections(0, v).weight
    ),
    ("circuits.model.weights:Weights.head_input_weights", "kv"): lambda v: (
        model().head_input_weights(0, v)[1]
    ),
    ("circuits.model.weights:Weights.head_offsets", "kv"): lambda v: model().head_offsets(0, v),
    ("circuits.model.wiring:Wiring", "kv"): lambda v: (
        call("circuits.model.wiring:Wiring")(2, 4, 2, v).edge_src
    ),
    ("circuits.model.wiring:Wiring.with_kv", "kv"): lambda v: model().wiring().with_kv(v).edge_src,
    ("locate.changes.restoration:restore_edges", "draw"): restored,
    ("locate.changes.rewiring:rewiring", "draw"): rewired,
    ("locate.edit:Editor", "method"): lambda v: str(call("locate.edit:Editor")(model(), v).method),
    ("locate.edit:mode_for", "method"): lambda v: call("locate.edit:mode_for")(v, 2, None),
    ("locate.edit:run_edits", "mode"): edits_run,
    **{
        (f"{OPTIONS}:{name}", option): lambda v, name=name, option=option: call(
            f"{OPTIONS}:{name}"
        )(**{option: v})
        for name, option in (
            ("Evaluating", "metric"),
            ("Evaluating", "ablation"),
            ("Source", "templates"),
            ("Source", "corrupt"),
            ("Source", "task"),
            ("Unlearning", "method"),
            ("Editing", "method"),
        )
    },
    (f"{OPTIONS}:Tracing", "kinds"): lambda v: call(f"{OPTIONS}:Tracing")(kinds=[v]),
    (f"{OPTIONS}:Tracing", "noise_unit"): lambda v: call(f"{OPTIONS}:Tracing")(noise_unit=v),
    ("locate.heads.role_checks:ablate_heads", "ablation"): lambda v: call(
        "locate.heads.role_checks:ablate_heads"
    )(model(), pairs(), [(0, 1)], ablation=v),
    ("locate.heads.roles:head_roles", "ablation"): lambda v: (
        call("locate.heads.roles:head_roles")(model(), pairs(), ablation=v).provenance
    ),
    ("locate.roles:roles_of", "ablation"): lambda v: (
        call("locate.roles:roles_of")(
            model(), call("locate.examples:Examples")("pairs", tuple(pairs())), ablation=v
        ).provenance
    ),
    **{
        (f"locate.search:{name}", option): lambda v, name=name, option=option: call(
            f"locate.search:{name}"
        )(**{option: v})
        for name in ("Scoring", "Search")
        for option in ("method", "rule", "metric", "ablation", "kv")
    },
    ("locate.edges.locators:RelP", "patterns"): lambda v: call("locate.edges.locators:RelP")(v),
    ("locate.edges.locators:Ensemble", "by"): lambda v: call("locate.edges.locators:Ensemble")(
        by=v
    ),
    **{
        ("locate.neurons.options:NeuronSearch", option): lambda v, option=option: call(
            "locate.neurons.options:NeuronSearch"
        )(**{option: v})
        for option in ("method", "rule", "metric", "ranking")
    },
    ("locate.search:Scoring.by", "method"): lambda v: call("locate.search:Scoring")().by(v),
    ("locate.search:Search", "selection"): lambda v: call("locate.search:Search")(
        selection=v, threshold=0.5 if str(v) == "threshold" else None
    ),
    ("locate.search:Search", "ranking"): lambda v: call("locate.search:Search")(ranking=v),
    ("locate.states.noise:noise_std", "unit"): lambda v: call("locate.states.noise:noise_std")(
        model(), v, ["Peru"]
    ),
    ("locate.states.tracing:trace", "noise_unit"): lambda v: (
        call("locate.states.tracing:trace")(
            model(), "The capital of Peru is", "Peru", "Lima", samples=2, noise_unit=v
        ).p_corrupted
    ),
    ("locate.states.tracing:trace_tokens", "noise_unit"): lambda v: (
        call("locate.states.tracing:trace_tokens")(
            model(), *traced(), samples=2, noise_unit=v
        ).p_corrupted
    ),
    ("locate.states.tracing:trace_tokens", "kinds"): lambda v: call(
        "locate.states.tracing:trace_tokens"
    )(model(), *traced(), kinds=[v], samples=1).metadata(),
    ("locate.states.trace_average:trace_facts", "noise_unit"): lambda v: (
        call("locate.states.trace_average:trace_facts")(
            model(), pairs(), samples=2, noise_unit=v
        ).p_corrupted
    ),
    (f"{AVERAGE}.mean", "kind"): lambda v: results.average_trace().mean(v),
    (f"{AVERAGE}.interval", "kind"): lambda v: results.average_trace().interval(v, resamples=9),
    (f"{AVERAGE}.peak", "kind"): lambda v: results.average_trace().peak(v, "last token"),
    (f"{AVERAGE}.peak", "role"): lambda v: results.average_trace().peak("mlp", v),
    (f"{TRACE}.probability", "kind"): lambda v: results.trace().probability(v),
    (f"{TRACE}.effect", "kind"): lambda v: results.trace().effect(v),
    (f"{TRACE}.standard_error", "kind"): lambda v: results.trace().standard_error(v),
    ("locate.states.tracing:trace", "kinds"): lambda v: (
        call("locate.states.tracing:trace")(
            model(), pairs()[0].text.clean, pairs()[0].text.subject, "Lima", kinds=[v], samples=1
        ).metadata()
        | {}
    ),
    ("locate.states.tracing:restored_layers", "kind"): lambda v: call(
        "locate.states.tracing:restored_layers"
    )(v, 3, 3, 9),
    ("viz.layout:lay_out", "placement"): placed("viz.layout:lay_out", "circuit"),
    ("viz.paper.circuit:draw_circuit", "placement"): lambda v: written(
        "viz.paper.circuit:draw_circuit", ".svg", results.circuit(), placement=v
    ),
    ("viz.paper.difference:draw_difference", "placement"): lambda v: written(
        "viz.paper.difference:draw_difference", ".svg", results.comparison(), placement=v
    ),
    ("viz.screen.circuit:circuit_figure", "placement"): placed(
        "viz.screen.circuit:circuit_figure", "circuit"
    ),
    ("viz.screen.circuit:circuit_scene", "placement"): placed(
        "viz.screen.circuit:circuit_scene", "circuit"
    ),
    ("viz.screen.difference:difference_figure", "placement"): placed(
        "viz.screen.difference:difference_figure", "comparison"
    ),
    ("viz.screen.difference:difference_scene", "placement"): placed(
        "viz.screen.difference:difference_scene", "comparison"
    ),
}
SCORED = ("metric", "ablation", "kv", "rule", "method")
"""Fields of a scoring whose scores are compared as well."""


def choices_in(hint: Any) -> set[Any]:
    """The choice types anywhere in an annotation."""
    if isinstance(hint, type) and issubclass(hint, Choice | Open):
        return {hint}
    return set().union(*(choices_in(part) for part in typing.get_args(hint)))


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Everything public that can be called, by module and name; a class by its constructor."""
    for top in ("circuits", "locate", "viz"):
        package = importlib.import_module(top)
        for found in pkgutil.walk_packages(package.__path__, f"{top}."):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if name.startswith("_") or getattr(value, "__module__", None) != found.name:
                    continue
                place = f"{found.name}:{name}"
                if not inspect.isclass(value):
                    yield place, value
                elif not issubclass(value, Choice | Open):
                    yield place, value.__init__
                    for each in vars(value):
                        if not each.startswith("_"):
                            yield f"{place}.{each}", getattr(value, each)


def parameters() -> dict[tuple[str, str], Any]:
    """Every parameter of a public callable that is a choice, with its type."""
    found = {}
    for place, function in public():
        function = inspect.unwrap(function)
        if inspect.ismethod(function) or inspect.isfunction(function):
            for name, hint in hints_of(function).items():
                if name != "return" and (kinds := choices_in(hint)):
                    (found[place, name],) = kinds
    return found


def hints_of(function: Any) -> dict[str, Any]:
    """Annotations that can be resolved; those of names imported for type checkers cannot."""
    hints = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        try:
            hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
        except (NameError, TypeError, AttributeError, SyntaxError):
            names = [kind.__name__ for kind in (*Choice.__subclasses__(), *Open.__subclasses__())]
            assert not set(names) & set(re.findall(r"\w+", hint)), hint
    return hints


def outcome(made: Callable[[], Any]) -> Any:
    """What comes of a call, as something to compare."""
    try:
        return comparable(made())
    except Exception as error:
        return [type(error).__name__, str(error)]


def comparable(value: Any) -> Any:
    """Arrays as bytes, all else by its parts or its text."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {str(key): comparable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return [type(value).__name__, comparable(vars(value))]
    return str(value)


def scored(field: str, value: Any) -> Any:
    options = {"steps": 2, field: value}
    locators = importlib.import_module("locate.edges.locators")
    scoring = importlib.import_module("locate.search").Search(**options)
    if locators.Locator.of(scoring.method).selects:
        return scoring.record()
    found = call("locate.edges.score:score_edges")(model(), pairs(), scoring)
    return [found.values, found.provenance]


def wrong() -> Iterator[str]:
    """Every breach of the law, in words."""
    known = parameters()
    for place, name in sorted(set(known) - set(CALLS)):
        if place not in MADE:
            yield f"{place} takes a choice as {name!r} and is not in the table"
    for place, name in sorted(set(CALLS) - set(known)):
        yield f"{place} has no choice {name!r}: the table is out of date"
    for (place, name), made in CALLS.items():
        kind = known.get((place, name))
        if kind is not None:
            yield from breaches(f"{place}({name})", kind, made)
    scoring = importlib.import_module("locate.search")
    hints = typing.get_type_hints(scoring.Scoring)
    for field in SCORED:
        yield from breaches(f"scores by {field}", hints[field], lambda v, f=field: scored(f, v))
        different = {repr(outcome(lambda v=v, f=field: scored(f, v))) for v in hints[field]}
        if len(different) < len(hints[field]):
            yield f"two {field}s give the same scores"
    yield from breaches("Metric.of", Metric, Metric.of)


def breaches(what: str, kind: Any, made: Callable[[Any], Any]) -> Iterator[str]:
    for value in kind:
        typed, named = outcome(lambda v=value: made(v)), outcome(lambda v=value: made(str(v)))
        if typed != named:
            yield f"{what}: {value!s} as text is not the value: {named!r:.200} and {typed!r:.200}"
    try:
        made(NONSENSE)
    except OptionError as error:
        missing = [str(value) for value in kind if str(value) not in str(error)]
        if missing:
            yield f"{what}: the refusal does not name {missing}: {error}"
    except Exception as error:
        yield f"{what}: nonsense gives {type(error).__name__}: {error}"
    else:
        yield f"{what}: nonsense is taken"


if __name__ == "__main__":
    print(json.dumps(list(wrong())))
