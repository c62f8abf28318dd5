"""What runs a model has it for itself from beginning to end, in batches that memory holds."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import knowledge_circuits as kc
from circuits.base.choices import Selection
from circuits.base.errors import OutOfMemoryError
from circuits.edits.edit import EditRequest
from circuits.edits.judge.generation import Speaker
from circuits.edits.parts.contexts import place
from circuits.edits.parts.corpus import Corpus
from circuits.edits.parts.keys import key_point
from circuits.edits.parts.training import Trainee, passage, token_scores
from circuits.model.holding import SIZES, alone
from circuits.model.model import Model
from locate.edges.locators import EdgePruning, Locator
from locate.search import Search
from tests import choice_calls as made
from tests.tiny import equal_length_pairs

SAYS = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
)
HELD = 4
"""Rows that the patched memory holds."""
REQUEST = EditRequest("The capital of {} is", "Peru", "Oslo", "Lima", "capital")
SMALL = {"known_only": False, "n_pairs": 4}
FEW = {**SMALL, "resamples": 0, "edges": 20}


def call(name: str, *given: Any, **options: Any) -> Any:
    return made.call(name)(made.model(), *given, **options)


def of_pairs(name: str, *given: Any, **options: Any) -> Any:
    return call(name, equal_length_pairs(made.model()) * 3, *given, **options)


def of_prompts(name: str, *given: Any, **options: Any) -> Any:
    found = [pair.clean for pair in equal_length_pairs(made.model()) * 3]
    return call(name, found, *(each(found) if callable(each) else each for each in given))


def ids(found: Any) -> list[int]:
    return list(range(5, 5 + len(found)))


def lasts(found: Any) -> list[int]:
    return [len(each) - 1 for each in found]


def components(found: Any) -> Any:
    chosen = np.zeros((3, len(found), made.model().wiring().n_src), dtype=bool)
    chosen[1, :, 2] = chosen[2, :, 3] = True
    return chosen


def constants(found: Any) -> Any:
    return of_pairs("circuits.graph.ablation:source_constants", "mean")


def donors(found: Any) -> Any:
    return call("locate.states.transplant:last_outputs", found)


def placed() -> Any:
    words = ("Peru", "Cuba", "Japan", "Norway", "France", "Lima")
    contexts = [f"{end} {word}. " for word in words for end in ("In", "From")]
    return [place(made.model(), REQUEST, context) for context in contexts]


def texts() -> list[str]:
    return [f"The capital of {pair.text.subject} is" for pair in made.pairs()] * 6


def few_edges() -> Any:
    return np.arange(made.model().wiring().n_edges) < 3


def scored(method: Locator, options: Any = None) -> Any:
    asked = made.call("locate.search:Scoring")(method=method, options=options)
    return of_pairs(str(method.target), asked)


def top() -> Any:
    return made.call("circuits.graph.select:select")(made.scores(), "top", 12)


SCORING = made.call("locate.search:Scoring")(steps=1)
LOCATE, GRAPH, STATES = "locate", "circuits.graph", "locate.states.transplant"
RUNS: dict[str, Callable[[], Any]] = (
    {
        name: partial(lambda run, name, given: run(name, *given()), run, name, given)
        for run, name, given in (
            (of_pairs, f"{GRAPH}.ablation:source_constants", lambda: ("mean",)),
            (of_pairs, f"{GRAPH}.evaluate:run_circuits", lambda: ([top()],)),
            (of_pairs, f"{GRAPH}.evaluate:evaluate", lambda: (top(),)),
            (of_pairs, f"{GRAPH}.evaluate:single_edge_drops", lambda: (top(),)),
            (of_pairs, "locate.examples:recalled", tuple),
            (of_pairs, "locate.heads.attention:read_heads", tuple),
            (of_pairs, "locate.heads.head_changes:view_heads", tuple),
            (of_pairs, "locate.heads.role_checks:ablate_heads", lambda: ([(0, 1), (1, 2)],)),
            (of_pairs, "locate.heads.roles:head_roles", tuple),
            (of_pairs, "locate.neurons.scoring:score_neurons", lambda: ([0, 1], SCORING)),
            (of_pairs, "locate.neurons.patching:patch_neurons", lambda: ({1: [[0, 3], None]},)),
            (of_pairs, "locate.states.attribution:direct_logit_attribution", tuple),
            (of_pairs, "locate.states.lens_average:average_lens", tuple),
            (of_pairs, "locate.edges.eap:attribute", lambda: (SCORING,)),
            (of_pairs, "locate.edges.exact:patch_edges", tuple),
            (of_pairs, "locate.edges.exact:patch_chosen_edges", lambda: ([0, 1, 2],)),
            (of_pairs, "locate.edges.score:score_edges", lambda: (SCORING,)),
            (of_pairs, "locate.edges.score:pair_scores", lambda: (SCORING,)),
            (of_pairs, "locate.edges.acdc:acdc", lambda: (5.0,)),
            (of_prompts, f"{STATES}:last_outputs", tuple),
            (of_prompts, f"{STATES}:transplant_outputs", lambda: (donors, components, ids)),
            (of_prompts, f"{STATES}:transplant_states", lambda: (list, lasts, lasts, ids)),
            (
                of_prompts,
                "locate.heads.silence:without_heads",
                lambda: ([[], [(0, 1)]], ids, constants),
            ),
            (
                of_prompts,
                "locate.heads.span_attention:attention_to_spans",
                lambda: (lambda found: [{"first": [0]}] * len(found),),
            ),
            (call, "circuits.facts.knowledge:known_facts", lambda: (made.relation(), "all")),
            (call, "circuits.edits.methods.run:target_scores", lambda: (placed(),)),
            (call, "circuits.edits.parts.keys:at_subject", lambda: (placed(), [key_point(0)], 0)),
            (
                call,
                "circuits.edits.parts.moments:collect_moments",
                lambda: (Corpus("x", tuple(texts())), [0]),
            ),
            (
                call,
                "locate.states.tracing:trace",
                lambda: ("The capital of Peru is", "Peru", "Lima"),
            ),
        )
    }
    | {
        "locate.edges.acdc:search": lambda: of_pairs(
            "locate.edges.acdc:search",
            Search(method=Locator.ACDC, selection=Selection.THRESHOLD, threshold=5.0),
        ),
        "locate.changes.restoration:restore_edges": lambda: call(
            "locate.changes.restoration:restore_edges",
            *(made.delta(), equal_length_pairs(made.model()) * 3, few_edges()),
            draws=2,
        ),
        "locate.changes.restoration:rewritten_sources": lambda: call(
            "locate.changes.restoration:rewritten_sources",
            *(made.delta(), equal_length_pairs(made.model()) * 3),
        ),
        "locate.changes.rewiring:rewiring": lambda: call(
            "locate.changes.rewiring:rewiring",
            *(made.delta(), equal_length_pairs(made.model())),
            selector=lambda found: made.call("circuits.graph.select:top_n")(found, 12),
            resamples=0,
            draws=2,
            batch_size=16,
        ),
    }
    | {
        "locate.edges.atp_star:attribute": partial(scored, Locator.ATP_STAR),
        "locate.edges.activation_path:attribute": partial(scored, Locator.EAP_IG_ACTIVATIONS),
        "locate.edges.edge_pruning:attribute": partial(
            scored, Locator.EDGE_PRUNING, EdgePruning(updates=5)
        ),
        "locate.edges.ensemble:attribute": partial(scored, Locator.ENSEMBLE),
        "scores by RelP": partial(scored, Locator.RELP),
        "scores by GIM": partial(scored, Locator.GIM),
    }
    | {
        "locate.interchange:interchange": lambda: of_pairs(
            "locate.interchange:interchange", ["m0"]
        ),
        "locate.states.steering:activations": lambda: call(
            "locate.states.steering:activations", texts(), "m0"
        ),
        "a speaker's replies": lambda: Speaker(made.model()).replies([[1, 2, 3]] * 9, 3),
        "a speaker's answers": lambda: Speaker(made.model()).forced(
            [([1, 2, n], [4, 5]) for n in range(9)]
        ),
        "a speaker's answers to one prompt": lambda: Speaker(made.model()).forced(
            [([1, 2, 3], [n, 4]) for n in range(9)]
        ),
        "scores of texts": lambda: token_scores(
            Trainee(made.model()), [passage(made.model(), text) for text in texts()]
        ),
    }
)
"""Everything in `circuits` and `locate` that takes the size of a batch, and how it is called."""

ASKING = {
    "circuits.facts.knowledge:ask",
    "circuits.facts.knowledge:in_best_words",
    "circuits.facts.knowledge:with_best",
    "locate.asking:asked_best",
    "locate.asking:known_of",
    "locate.asked:examples_of",
    "locate.examples:collect",
}
"""These ask as `known_facts` does, which is tried."""
WITHIN = {
    "circuits.graph.hypothesis:circuit_tests",
    "locate.edges.runs:contract_runs",
    "locate.mib.board:board_scores",
    "locate.changes.circuit_layers:layers_by_circuit",
    "locate.changes.one_edit:unedited",
    "locate.changes.rewiring:unedited_side",
    "locate.edit:chosen_layers",
    "locate.heads.span_roles:span_roles",
    "locate.roles:roles_of",
    "locate.states.patching:patch_pairs",
    "locate.states.patching:patch_prompt",
    "locate.states.tracing:restored_values",
    "locate.states.tracing:trace_tokens",
}
"""What these run is tried through `attribute`, `run_circuits`, `attention_to_spans` and `trace`."""
MADE = {f"{STATES}:transplant_outputs", "locate.heads.silence:without_heads"}
"""What these are given takes runs of its own here."""

VERBS: dict[str, Callable[[], Any]] = {
    "discover": lambda: kc.discover(made.model(), made.relation(), roles=True, **FEW),
    "evaluate": lambda: kc.evaluate(made.model(), top(), made.relation(), **SMALL),
    "trace": lambda: kc.trace(made.model(), made.relation(), samples=2, **SMALL),
    "lens": lambda: kc.lens(made.model(), made.relation(), **SMALL),
    "roles": lambda: kc.roles(made.model(), made.relation(), **SMALL),
    "neurons": lambda: kc.neurons(made.model(), made.relation(), "m1", **SMALL),
    "edit": lambda: kc.edit(made.model(), [REQUEST], method="ft-l", layers="0", fluency=5),
    "unlearn": lambda: kc.unlearn(made.model(), texts()[:1], texts()[1:2], method="ga-gd"),
    "compare": lambda: kc.compare(made.model(), made.delta(), made.relation(), draws=2, **FEW),
    "ask": lambda: kc.ask(made.model(), "The capital of France is", "France", "Paris"),
}
"""The door's verbs that run a model."""


def numbers(found: Any) -> Iterator[Any]:
    """All numbers in a value, in a fixed order."""
    if isinstance(found, torch.Tensor):
        found = found.detach().float().numpy()
    if isinstance(found, np.ndarray | float | int):
        yield np.asarray(found, float).ravel()
    elif isinstance(found, Mapping):
        for key in sorted(found, key=str):
            yield from numbers(found[key])
    elif isinstance(found, list | tuple):
        for each in found:
            yield from numbers(each)
    elif dataclasses.is_dataclass(found) and not isinstance(found, Model):
        yield from numbers({f.name: getattr(found, f.name) for f in dataclasses.fields(found)})


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Memory that holds so many rows of tokens as the list's number says."""
    plain, held = torch.nn.functional.embedding, [HELD]

    def embedding(tokens: Any, *given: Any, **options: Any) -> Any:
        if tokens.ndim == 2 and len(tokens) > held[0]:
            raise RuntimeError(SAYS)
        return plain(tokens, *given, **options)

    monkeypatch.setattr(torch.nn.functional, "embedding", embedding)
    yield held
    made.model().most_rows = sys.maxsize


def sized() -> set[str]:
    """All public functions of a model whose batches have a size."""
    return (
        {
            name
            for name, value in made.public()
            if inspect.isfunction(value)
            and next(iter(inspect.signature(value).parameters), "") == "model"
            and set(SIZES) & set(inspect.signature(value).parameters)
            and not inspect.isgeneratorfunction(inspect.unwrap(value))
        }
        - ASKING
        - WITHIN
    )


def test_everything_that_takes_the_size_of_a_batch_is_tried():
    assert sized() <= set(RUNS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_batch_that_memory_does_not_hold_is_halved_and_nothing_else_changes(
    name: str, memory: list[int], caplog: pytest.LogCaptureFixture
):
    memory[0] = sys.maxsize
    whole = np.concatenate([*numbers(RUNS[name]())])
    memory[0] = HELD
    with caplog.at_level(logging.WARNING):
        halved = np.concatenate([*numbers(RUNS[name]())])
    assert "going on with batches of" in caplog.text
    np.testing.assert_allclose(halved, whole, rtol=2e-3, atol=2e-4)


def test_what_fits_is_found_once(memory: list[int], caplog: pytest.LogCaptureFixture):
    for _ in range(2):
        of_pairs("locate.edges.eap:attribute", SCORING, batch_size=8)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["out of memory with batches of 8; going on with batches of 4"]


def test_one_row_that_memory_does_not_hold_is_an_error_of_one_line(memory: list[int]):
    memory[0] = 0
    with pytest.raises(OutOfMemoryError, match="one prompt at a time") as caught:
        of_pairs("locate.edges.eap:attribute", SCORING)
    assert "\n" not in str(caught.value)


def test_errors_that_are_not_about_memory_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    tried = []

    @alone
    def fails(model: Any, batch_size: int = 8) -> None:
        tried.append(batch_size)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fails(made.model())
    assert tried == [8]


class Grabbed:
    """A model's lock that another thread takes as soon as it is free for the first time."""

    def __init__(self) -> None:
        self.lock, self.depth, self.taken = threading.RLock(), 0, False

    def acquire(self, blocking: bool = True) -> bool:
        got = self.lock.acquire(blocking=blocking)
        self.depth += got
        return got

    def release(self) -> None:
        self.lock.release()
        self.depth -= 1
        if not self.depth and not self.taken:
            self.taken = True
            thread = threading.Thread(target=self.lock.acquire)
            thread.start()
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VERBS, *sorted(RUNS.keys() - MADE)])
def test_a_verb_that_has_begun_is_never_refused_for_another_thread(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    run = (VERBS | RUNS)[name]
    made.scores(), made.circuit(), made.delta()  # made before, as they run the model too
    lock = Grabbed()
    monkeypatch.setattr(made.model(), "_turn", lock)
    run()
    assert lock.taken
