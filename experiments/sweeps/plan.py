"""From a spec to units: each with the hash of all that decides its result.

That is the verb with all its options, the weights and the tokenizer, the precision, what the files
that it reads hold, the facts and wordings that ship, and this project's version. Where it runs and
how many pairs a pass takes is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, NothingFoundError, OptionError, PromptError
from circuits.base.plain import plain
from circuits.base.records import read_json
from circuits.base.writing import save_json
from circuits.files.units import Store
from experiments.executors.base import Job, Workplace
from experiments.sweeps.spec import ModelSpec, Work
from experiments.sweeps.verbs import decisive, forget, verb

SCHEMA = 1


@dataclass(frozen=True)
class UnitJob(Job):
    """A work with the model's identity, as an executor takes it up."""

    work: Work
    identity: str
    folder: Path

    @property
    def label(self) -> str:
        """What progress calls it."""
        return self.work.label

    @cached_property
    def key(self) -> str:
        """The unit's name: a hash of what decides its result."""
        return sha256(_decisive(self.work, self.identity).encode()).hexdigest()

    def run(self, place: Workplace) -> str | None:
        """Do the unit and store it, or why there is nothing to be found in it."""
        asked = self.work.model
        model = place.model(asked.name, asked.device, asked.dtype, asked.device_map)
        if (found := _identity(model)) != self.identity:
            raise OptionError(
                f"the weights of {self.work.model.name} are others than the sweep was planned "
                f"with ({found[:12]}, not {self.identity[:12]}): delete models.json"
            )
        chosen = verb(self.work.verb)
        told: dict[str, Any] = {
            "key": self.key,
            "verb": self.work.verb,
            "model": self.work.model.name,
            "dtype": self.work.model.dtype,
            "settings": dict(self.work.settings),
            "left_out": "",
        }
        try:
            values, result = chosen.run(model, *chosen.options(self.work.settings))
        except (PromptError, NothingFoundError) as error:
            values, result, told["left_out"] = {}, None, str(error)
        Store(self.folder).save(self.key, {**told, "values": plain(values)}, result)
        return told["left_out"] or None


def planned(works: Sequence[Work], folder: Path) -> list[UnitJob]:
    """The units of the works, each once, in order."""
    forget()
    folder = folder.absolute()
    identities = _Identities(folder)
    jobs: dict[str, UnitJob] = {}
    for work in works:
        job = UnitJob(work, identities.of(work.model), folder)
        jobs.setdefault(job.key, job)
    return list(jobs.values())


class _Identities:
    """Hashes of models by name, kept in the folder so that planning again loads none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "models.json"
        self._asked: dict[str, str] = {}
        try:
            self._known = dict(read_json(self._path))
        except (FileFormatError, ValueError, TypeError):
            self._known = {}

    def of(self, model: ModelSpec) -> str:
        """Weights and tokenizer of a model; it is loaded where they are not known of its files."""
        name = f"{model.name} {model.dtype}"
        if name not in self._asked:
            stamp, known = _stamp(model.name), self._known.get(name)
            if not isinstance(known, dict) or known.get("files") != stamp:
                from circuits.model.model import load

                loaded = load(model.name, model.device, model.dtype, device_map=model.device_map)
                known = {"files": stamp, "identity": _identity(loaded)}
                self._known[name] = known
                save_json(self._known, self._path)
            self._asked[name] = str(known.get("identity"))
        return self._asked[name]


def _stamp(name: str) -> str:
    """What tells whether a local model's files were touched; of the hub's, the revision."""
    from circuits.model.sources import resolve

    source = resolve(name)
    marks = [source.revision or ""]
    for place in dict.fromkeys((source.weights, source.tokenizer)):
        path = Path(place)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat()) for file in files if file.is_file()]
        marks += [f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states]
    return sha256("\n".join(marks).encode()).hexdigest()


def _identity(model: Any) -> str:
    from experiments.analyses.engine.context import identity

    return identity(model)


def _decisive(work: Work, identity: str) -> str:
    """Everything that decides a unit's result, as text."""
    parts = [f"{kind.__name__} {decisive(kind, text)}" for kind, text in work.shares]
    return "\n".join([_common(), work.verb, identity, work.model.dtype, *parts])


@cache
def _common() -> str:
    """What all units of this version have in common: it, and the facts that ship."""
    from importlib.metadata import version

    from circuits.facts.facts import atlas
    from circuits.facts.wordings import wordings

    facts = sha256(repr((atlas(), wordings())).encode()).hexdigest()
    return f"{SCHEMA} {version('knowledge-circuits')} {facts}"
