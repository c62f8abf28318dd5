"""What the pages share: the results, the models, the jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from circuits.base.errors import OptionError
from viz.app.jobs import Jobs
from viz.app.library import Library

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.ask import Question

EMBEDDED = Path(__file__).parent.parent.parent / "circuits" / "embedded"


def embedded_names() -> tuple[str, ...]:
    """Models that ship with the project; read without importing torch."""
    return tuple(sorted(path.parent.name for path in EMBEDDED.glob("*/config.json")))


class Models:
    """Models by name, loaded when first needed; only those named at the start can be loaded."""

    def __init__(self, names: tuple[str, ...] | None = None, device: str | None = None) -> None:
        self.names = embedded_names() if names is None else names
        self.device = device
        self._loaded: dict[str, Model] = {}
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
            if name not in self._loaded:
                from circuits.model.model import load

                self._loaded[name] = load(name, device=self.device)
            return self._loaded[name]

    def add(self, model: Model) -> None:
        """A model that is in memory already."""
        with self._lock:
            self._loaded[model.name] = model
            self.names = tuple(dict.fromkeys((*self.names, model.name)))


@dataclass(frozen=True, eq=False)
class Context:
    """One server's state."""

    library: Library
    models: Models = field(default_factory=Models)
    jobs: Jobs = field(default_factory=Jobs)
    questions: dict[tuple[str, str, str, str], Question] = field(default_factory=dict)

    def question(self, model: str, prompt: str, subject: str, answer: str) -> Question:
        """A question with its partners; the same words give the same partners."""
        key = (model, prompt, subject, answer)
        if key not in self.questions:
            from locate.ask import ask

            if len(self.questions) > 200:
                self.questions.clear()
            self.questions[key] = ask(self.models.get(model), prompt, subject, answer)
        return self.questions[key]

    def prompts_of(self, result: str, provenance: Mapping[str, Any]) -> list[dict[str, str]]:
        """Prompts that a result was found on: prompt, subject, answer; at most 60 of them."""
        own = [provenance.get(name) for name in ("prompt", "subject", "answer")]
        if all(isinstance(each, str) and each for each in own):
            return [dict(zip(("prompt", "subject", "answer"), map(str, own), strict=True))]
        path = self.library.sibling(result, "pairs.jsonl")
        if path is None:
            return []
        from circuits.base.errors import KnowledgeCircuitsError
        from circuits.base.records import read_jsonl

        try:
            records = [record for _, record in read_jsonl(path, self.library.max_bytes)]
        except KnowledgeCircuitsError:
            return []
        found = [
            {
                "prompt": each.get("clean"),
                "subject": each.get("subject"),
                "answer": each.get("answer"),
            }
            for each in records
        ]
        return [
            {key: str(value) for key, value in each.items()}
            for each in found
            if all(isinstance(value, str) and value for value in each.values())
        ][:60]
