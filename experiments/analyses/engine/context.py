"""What an analysis works with: the model, pairs of a relation and its circuit, each made once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from circuits.base.choices import Templates
from circuits.base.errors import CircuitFileError
from circuits.base.progress import Progress
from circuits.base.writing import to_json
from circuits.facts.facts import Relation, atlas
from circuits.facts.questions import KnowledgeCheck, known_facts
from circuits.files.store import load_circuit, save_circuit
from circuits.graph.circuit import Circuit
from circuits.model.loading import resolve
from circuits.model.model import Model, load
from locate.discover import Search, find
from locate.examples import Examples, Source, collect, relations_of

CIRCUITS = "circuits"


def _unwatched(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(eq=False)
class _Held:
    """What a run has made so far."""

    model: Model | None = None
    other: tuple[str, Model] | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    relations: dict[str, Relation] | None = None
    known: dict[tuple[str, Templates], KnowledgeCheck] = field(default_factory=dict)
    examples: dict[tuple[Any, ...], Examples] = field(default_factory=dict)


@dataclass(eq=False)
class Context:
    """One run's surroundings.

    `folder` is the analysis's own, `shared` the folder whose circuits all analyses of a run share.
    `facts` names a fact file or data set to ask about instead of the atlas.
    """

    model_name: str
    folder: Path
    seed: int = 0
    device: str | None = None
    dtype: str = "fp32"
    facts: str | None = None
    shared: Path | None = None
    batch_size: int = 16
    progress: Progress = _unwatched
    _held: _Held = field(default_factory=_Held, repr=False)

    @property
    def model(self) -> Model:
        """The model that is looked at; loaded when first asked for."""
        if self._held.model is None:
            self._held.model = load(self.model_name, self.device, self.dtype)
        return self._held.model

    def load(self, name: str) -> Model:
        """Another model, as a checkpoint `NAME@REVISION`; the one asked for last is kept."""
        if name == self.model_name:
            return self.model
        if self._held.other is None or self._held.other[0] != name:
            self._held.other = None  # make room before, not after
            self._held.other = (name, load(name, self.device, self.dtype))
        other = self._held.other[1]
        self._held.hashes[name] = other.provenance["weights_sha256"]
        return other

    def exists(self, name: str) -> None:
        """ModelNotFoundError, in seconds, where there is no model of that name."""
        resolve(name)

    def inside(self, folder: Path) -> Context:
        """The same run with another folder for parts; model, pairs and circuits stay shared."""
        return replace(self, folder=folder, shared=self.shared or self.folder)

    # --- facts -------------------------------------------------------------------------------

    @property
    def relations(self) -> dict[str, Relation]:
        """The relations that can be asked about, by name: the atlas's, or those of `facts`."""
        if self._held.relations is None:
            found = relations_of(Source(facts=self.facts)) if self.facts else atlas().values()
            self._held.relations = {relation.name: relation for relation in found}
        return self._held.relations

    def names(self, chosen: Sequence[str] = ()) -> list[str]:
        """Names of the chosen relations, all of them for none; OptionError for an unknown one."""
        for name in chosen:
            relations_of(Source(relation=name, facts=self.facts))
        return list(chosen) or list(self.relations)

    def examples(
        self,
        relation: str,
        limit: int | None = None,
        *,
        templates: Templates = Templates.FIRST,
        hold_out: float | None = None,
        model: Model | None = None,
        known_only: bool = True,
    ) -> Examples:
        """Prompt pairs of a relation: `pairs` to find a circuit, `held_out` of other subjects.

        As `locate.examples.collect`: at most `limit` pairs a side. PromptError where none can
        be made. The pairs of the run's own model are made once.
        """
        source = Source(
            relation=relation,
            facts=self.facts,
            templates=templates,
            limit=limit,
            hold_out=hold_out,
            known_only=None if known_only else False,
            seed=self.seed,
        )
        if model is not None and model is not self.model:
            return collect(model, source)
        key = (relation, limit, templates, hold_out, known_only)
        if key not in self._held.examples:
            known = self._known(relation, templates) if known_only else None
            self._held.examples[key] = collect(self.model, source, known=known)
        return self._held.examples[key]

    def _known(self, relation: str, templates: Templates) -> KnowledgeCheck:
        """What the model knows of a relation; asked once, however many pairs are made of it."""
        key = (relation, templates)
        if key not in self._held.known:
            self._held.known[key] = known_facts(self.model, self.relations[relation], templates)
        return self._held.known[key]

    # --- circuits ----------------------------------------------------------------------------

    def circuit(
        self,
        relation: str,
        limit: int | None = 24,
        search: Search | None = None,
        *,
        examples: Examples | None = None,
        model: Model | str | None = None,
    ) -> Circuit:
        """The relation's circuit, found on the first side of its pairs; found and stored once.

        It holds its scores (no scores of single pairs), and the column `inclusion` where the
        search resamples. `examples` are other pairs to find it on. `model` is another model, or the
        name of one, which is then loaded only where its circuit is not stored yet.
        """
        search = replace(search or Search(), seed=self.seed, batch_size=self.batch_size)
        asked = None if isinstance(model, str) else model
        pairs = examples or self.examples(relation, limit, model=asked)
        path = self._path(self._weights(model), relation, pairs, search)
        try:
            return load_circuit(path)
        except CircuitFileError:  # absent, or of an earlier format
            loaded = self.load(model) if isinstance(model, str) else model or self.model
            found = find(loaded, pairs, search)
            save_circuit(found, path)
            return found

    def _weights(self, model: Model | str | None) -> str:
        """Hash of a model's weights; that of a name is known once it was loaded in this run."""
        if isinstance(model, str):
            if model != self.model_name and model in self._held.hashes:
                return self._held.hashes[model]
            model = self.load(model)
        return str((model or self.model).provenance["weights_sha256"])

    def _path(self, weights: str, relation: str, pairs: Examples, search: Search) -> Path:
        """A name that says the relation, with a hash of all that decides the circuit."""
        decisive = {
            "weights": weights,
            "dtype": self.dtype,
            "pairs": pairs.fingerprint,
            "search": {k: str(v) for k, v in asdict(search).items() if k not in _INDECISIVE},
        }
        digest = sha256(to_json(decisive).encode()).hexdigest()[:12]
        return (self.shared or self.folder) / CIRCUITS / f"{safe(relation)}-{digest}.kc.safetensors"


_INDECISIVE = ("n_random", "curve", "roles", "batch_size")
"""Parts of a search that do not decide which edges a circuit has."""


def safe(name: str) -> str:
    """A name that any file system takes: letters, digits, `-`, `.` and `_`."""
    clean = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)
    if name and clean == name and len(name) <= 100 and not name.startswith("."):
        return name
    return f"{clean.lstrip('.')[:80]}-{sha256(name.encode()).hexdigest()[:8]}"
