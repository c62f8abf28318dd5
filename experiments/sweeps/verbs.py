"""The verbs that a sweep knows: which options each takes, and what one unit of it gives.

A verb's options are the classes that its command and the door have. A unit gives plain values, and
the result that they are read off (a circuit, a trace, an edit), whose file is the unit's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from sys import intern
from typing import Any

from circuits.base.choices import Ablation
from circuits.base.content import content_sha256
from circuits.base.errors import OptionError
from circuits.base.idle import Idle
from circuits.base.options import Options, as_dict, build, meaning, option, sources
from circuits.base.results import Result
from circuits.base.writing import to_json
from circuits.model.model import Model
from locate.neurons.options import NeuronSearch, Within
from locate.options import Batched, Editing, Evaluating, Judging, Source, Tracing, Wish
from locate.search import Search

INDECISIVE = ("batch_size", "cache", "memory")
"""Options that decide no result."""
Found = tuple[Mapping[str, Any], Result | None]
"""A unit's values, and its result where it has one."""


@dataclass(frozen=True)
class Stored(Options):
    """A circuit that is measured."""

    circuit: Path | None = option(None, "a stored circuit")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.circuit is None:
            raise OptionError("evaluate: `circuit` is missing")


@dataclass(frozen=True)
class Looking(Batched):
    """How heads are looked at."""

    ablation: Ablation = option(Ablation.ZERO, "how heads are silenced")


@dataclass(frozen=True)
class Rewired(Options):
    """Whether an edit's circuit is compared before and after, beside random sets of edges."""

    compare: bool = option(False, "find the circuit before and after the edit")
    draws: int = option(20, "random edge sets in the causal check", low=0)
    request: int = option(1, "which request, counted from 1", low=1)

    def idle(self) -> tuple[Idle, ...]:
        """Nothing is checked where nothing is compared."""
        return () if self.compare else (Idle("without `compare`", ("draws",)),)


@dataclass(frozen=True)
class Verb:
    """A verb: its options' classes, other defaults than theirs, and what one unit does."""

    name: str
    kinds: tuple[type, ...]
    run: Callable[..., Found]
    usual: Mapping[str, Any] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        """The names by which a spec may call the options, with the fields that they are."""
        known: dict[str, str] = {}
        for kind in self.kinds:
            for each in fields(kind):
                spelled = (flag.split("/")[0] for flag in meaning(each).flags)
                for name in (each.name, *spelled):
                    known.setdefault(name.lstrip("-").replace("-", "_"), each.name)
        return known

    def options(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The classes' values; OptionError for what one of them does not take."""
        return checked(self.shares(values))

    def shares(self, values: Mapping[str, Any]) -> tuple[tuple[type, str], ...]:
        """Each class with the part of the settings that it takes, as JSON."""
        given = {**self.usual, **values}
        return tuple(
            (kind, intern(to_json({name: given[name] for name in _names(kind) if name in given})))
            for kind in self.kinds
        )


def checked(shares: Sequence[tuple[type, str]]) -> tuple[Any, ...]:
    """The classes' values; OptionError for what one of them does not take."""
    return tuple(_built(kind, text) for kind, text in shares)


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


@lru_cache(maxsize=100_000)
def _built(kind: type, text: str) -> Any:
    """A class's value; few differ between the many units of a grid."""
    return build(kind, json.loads(text))


@lru_cache(maxsize=100_000)
def decisive(kind: type, text: str) -> str:
    """What of a class's value decides a result, as JSON.

    Files count by what they hold, functions of the user's own by their source.
    """
    built = _built(kind, text)
    found = as_dict(built)
    for name in found:
        if name != "relation" and isinstance(found[name], str) and is_data(found[name]):
            found[name] = {"sha256": content_hash(found[name])}
    found |= sources(built)
    return to_json({name: value for name, value in found.items() if name not in INDECISIVE})


def forget() -> None:
    """Have files and functions read again: they may have changed since an earlier plan."""
    _built.cache_clear()
    decisive.cache_clear()
    content_hash.cache_clear()


def is_data(name: str) -> bool:
    """Whether an option's text is the path of something."""
    return ("/" in name or "." in name) and Path(name).expanduser().exists()


@cache
def content_hash(name: str) -> str:
    """A hash over what a file, or every file of a folder, holds; each is read once a plan."""
    return content_sha256(Path(name).expanduser())


def verb(name: str) -> Verb:
    """The verb of a name; OptionError where a sweep knows none such."""
    found = VERBS.get(name)
    if found is None:
        there_are = ", ".join([*VERBS, *PARTS])
        raise OptionError(f"a sweep knows no verb {name!r:.40}; there are {there_are}")
    return found


def _examples(model: Model, source: Source, batch_size: int, avoid: Any = None) -> Any:
    from locate.asked import limited
    from locate.examples import collect

    return collect(model, limited(source), batch_size, avoid=avoid)


def _discover(model: Model, source: Source, search: Search) -> Found:
    from locate.discover import discover

    found = discover(model, _examples(model, source, search.batch_size), search)
    return found.as_dict(), found.circuit


def _evaluate(model: Model, source: Source, evaluating: Evaluating, stored: Stored) -> Found:
    from circuits.files.reading import read_circuit
    from locate.evaluate import evaluate_on

    def pairs_for(bos: bool | None, avoid: Any) -> Any:
        return _examples(model, replace(source, bos=bos), evaluating.batch_size, avoid)

    path = stored.circuit
    assert path is not None, "its class refuses that"
    done = evaluate_on(model, read_circuit(path), path, source.bos, evaluating, pairs_for)
    return done.as_dict(), None


def _trace(model: Model, source: Source, tracing: Tracing) -> Found:
    from locate.looks.look import about
    from locate.looks.trace import average_trace
    from locate.states.trace_average import trace_facts

    examples = _examples(model, source, tracing.pairs_a_pass)
    found = about(trace_facts(model, examples.pairs, **tracing.asked(model.n_layers)), examples)
    return average_trace(found).summary, found


def _lens(model: Model, source: Source, looking: Batched) -> Found:
    from locate.looks import lens
    from locate.looks.look import about
    from locate.states.attribution import direct_logit_attribution
    from locate.states.lens_average import average_lens

    examples = _examples(model, source, looking.batch_size)
    found = about(average_lens(model, examples.pairs, batch_size=looking.batch_size), examples)
    direct = direct_logit_attribution(model, examples.pairs, looking.batch_size)
    return lens.average_lens(found, about(direct, examples)).summary, found


def _roles(model: Model, source: Source, looking: Looking) -> Found:
    from locate.looks import roles
    from locate.roles import roles_of

    examples = _examples(model, source, looking.batch_size)
    asked: dict[str, Any] = {"batch_size": looking.batch_size, "seed": source.seed}
    found = roles_of(model, examples, ablation=looking.ablation, **asked)
    return roles.roles(found).summary, found if isinstance(found, Result) else None


def _neurons(model: Model, source: Source, search: NeuronSearch, within: Within) -> Found:
    from locate.looks import neurons
    from locate.looks.look import about
    from locate.neurons.find import find_neurons

    mlps, bos = within.mlps(model, source.bos)
    examples = _examples(model, replace(source, bos=bos), search.batch_size)
    found = about(find_neurons(model, examples, mlps, search), examples)
    return neurons.neurons(found).summary, found


def _edit(model: Model, wish: Wish, editing: Editing, judging: Judging, rewired: Rewired) -> Found:
    from circuits.base.errors import NumericalError
    from locate.changes.rewiring_summary import whole_numbers
    from locate.compare import about_the_edit, compare_edit
    from locate.edited import edit_facts
    from locate.looks.edits import edit_look

    request = _request(model, wish, editing.seed, rewired.request)
    edited = edit_facts(model, [request], editing, judging)
    values = dict(edit_look(edited).summary)
    if edited.delta is None:
        raise NumericalError(f"no edit was made: {', '.join(map(str, edited.status))}")
    if rewired.compare:
        asked = about_the_edit(model, edited.delta, seed=editing.seed)
        search = Search(roles=True, seed=editing.seed)
        found = compare_edit(model, edited.delta, asked, search, rewired.draws)
        values["rewiring"] = whole_numbers(found)
        return values, found
    return values, edited.delta


def _request(model: Model, wish: Wish, seed: int, place: int) -> Any:
    """The request at its place in a file, of the random ones, or the one that is spelled out."""
    from circuits.edits.edit import EditRequest
    from circuits.edits.judge.counterfactuals import atlas_requests
    from circuits.edits.requests import read_requests, slotted

    if wish.requests is not None:
        requests = list(read_requests(wish.requests).requests)
    elif wish.random is not None:
        names = None if wish.relation is None else [wish.relation]
        requests = atlas_requests(wish.random, seed, names, model.tokenizer)
    else:
        subject, target = str(wish.subject), str(wish.target)
        template = slotted(str(wish.prompt), subject)
        requests = [EditRequest(template, subject, target, wish.ground_truth, wish.relation)]
    if place > len(requests):
        raise OptionError(f"there is no request {place}; there are {len(requests)}")
    return requests[place - 1]


_FACTS = {"hold_out": 0.0}
PARTS = {"run": "analysis", "benchmark": "benchmark"}
"""Verbs whose units are the engine's own, and what names one of them."""
VERBS: dict[str, Verb] = {
    each.name: each
    for each in (
        Verb("discover", (Source, Search), _discover, {"roles": True}),
        Verb("evaluate", (Source, Evaluating, Stored), _evaluate, _FACTS),
        Verb("trace", (Source, Tracing), _trace, {**_FACTS, "known_only": True}),
        Verb("lens", (Source, Batched), _lens, _FACTS),
        Verb("roles", (Source, Looking), _roles, _FACTS),
        Verb("neurons", (Source, NeuronSearch, Within), _neurons),
        Verb("edit", (Wish, Editing, Judging, Rewired), _edit),
    )
}
