"""What the pages share: the results, the models, the jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any

from circuits.base.errors import OptionError
from circuits.base.progress import stop_here
from viz.app.jobs import Jobs, Stage
from viz.app.library import Library
from viz.asked import pairs_of

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit
    from circuits.model.model import Model
    from locate.ask import Question

PAIR = ("clean", "corrupted", "answer", "foil", "subject", "relation")
FURTHER = ("spans", "answers", "foils", "exact", "tokens")
"""What else a pair may say, which is checked where it is asked."""
MOST_PROMPTS = 60
TICK = 0.1
"""Seconds between two looks at whether a job that waits is to stop."""
EMBEDDED = Path(__file__).parent.parent.parent / "circuits" / "embedded"


def embedded_names() -> tuple[str, ...]:
    """Models that ship with the project; read without importing torch."""
    return tuple(sorted(path.parent.name for path in EMBEDDED.glob("*/config.json")))


class Models:
    """Models by name, loaded when first needed; only those named at the start can be loaded."""

    def __init__(self, names: tuple[str, ...] | None = None, device: str | None = None) -> None:
        self.names = embedded_names() if names is None else names
        self.device = device
        self._loaded: dict[str, Future[Model]] = {}
        self._lock = RLock()

    def can_load(self, name: str) -> bool:
        """Whether a result of this model can be looked into: a file's word loads nothing else."""
        return name in self.names or name.partition("@")[0] in embedded_names()

    def get(self, name: str) -> Model:
        """The model; OptionError for a name that was not given at the start."""
        if not self.can_load(name):
            known = ", ".join(self.names) or "none"
            raise OptionError(f"the server was not started with the model {name!r}; it has {known}")
        with self._lock:
            found = self._loaded.get(name)
            if found is None or (found.done() and found.exception() is not None):
                found = self._loaded[name] = Future()
                Thread(target=self._load, args=(name, found), daemon=True, name="kc-load").start()
        while not wait([found], TICK).done:
            stop_here()
        return found.result()

    def _load(self, name: str, found: Future[Model]) -> None:
        """In a thread of its own, which a job that is stopped need not wait for."""
        try:
            import locate.ask  # noqa: F401 - the libraries take longer than a small model
            from circuits.model.model import load

            found.set_result(load(name, device=self.device))
        except BaseException as error:
            found.set_exception(error)

    def add(self, model: Model) -> None:
        """A model that is in memory already."""
        found: Future[Model] = Future()
        found.set_result(model)
        with self._lock:
            self._loaded[model.name] = found
            self.names = tuple(dict.fromkeys((*self.names, model.name)))


@dataclass(frozen=True, eq=False)
class Context:
    """One server's state; `opened` is the id of the one result that a notebook opened it on."""

    library: Library
    models: Models = field(default_factory=Models)
    jobs: Jobs = field(default_factory=Jobs)
    questions: dict[tuple[str, ...], Question] = field(default_factory=dict)
    opened: str = ""

    def start(self, key: str, title: str, work: Callable[[Stage], Any]) -> None:
        """Begin a job, as `Jobs.start`; what a job found stays in the library as long as the job.

        OptionError where another job is running.
        """
        for old in self.jobs.start(key, title, work):
            self.library.forget(old)

    def question(
        self, model: str, prompt: str, subject: str, answer: str, against: str = "", foil: str = ""
    ) -> Question:
        """A question with its partners; the same words give the same partners."""
        key = (model, prompt, subject, answer, against, foil)
        if key not in self.questions:
            from locate.ask import ask

            if len(self.questions) > 200:
                self.questions.clear()
            self.questions[key] = ask(
                self.models.get(model), prompt, subject, answer, against=against, foil=foil
            )
        return self.questions[key]

    def stored_question(self, model: str, record: Mapping[str, Any], bos: Any) -> Question:
        """A pair that a circuit was found on, as it was: its own corrupted prompt and foil."""
        from circuits.facts.pairs import encode_pair, pair_from_record
        from locate.ask import Question

        tokenizer = self.models.get(model).tokenizer
        text = pair_from_record(dict(record), "the circuit", 1)
        pair = encode_pair(tokenizer, text, bos if isinstance(bos, bool) else None)
        return Question((pair,), pair.text.relation)


def prompts_of(circuit: Circuit) -> list[dict[str, Any]]:
    """The pairs that a circuit says it was found on, one a clean prompt, at most 60 of them."""
    found: dict[str, dict[str, Any]] = {}
    for each in pairs_of(circuit):
        record: dict[str, Any] = {
            name: each[name] for name in PAIR if isinstance(each.get(name), str)
        }
        record |= {name: each[name] for name in FURTHER if each.get(name)}
        if isinstance(each.get("start"), int):
            record["start"] = each["start"]
        if all(record.get(name) for name in PAIR[:5]):
            found.setdefault(record["clean"], record)
    return list(found.values())[:MOST_PROMPTS]
