"""What an analysis works with: the model, pairs of a relation and its circuit, each made once."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from circuits.base.choices import Known, Templates
from circuits.base.errors import CircuitFileError, OptionError, PromptError
from circuits.base.progress import Progress
from circuits.base.writing import to_json
from circuits.facts.facts import Relation, atlas
from circuits.facts.questions import KnowledgeCheck, chosen_templates
from circuits.facts.wordings import wordings
from circuits.graph.circuit import Circuit
from circuits.model.model import Model, load
from circuits.model.sources import resolve
from locate.asking import asked_best, known_of, resolved
from locate.discover import check_not_empty, find
from locate.examples import Examples, collect, relations_of
from locate.heads.roles import head_roles
from locate.options import Source
from locate.search import Search

CIRCUITS = "circuits"
LARGE, USUAL = 20_000_000, 24
"""In models of so many weights an analysis looks at so many relations unless more are asked for."""
Made = TypeVar("Made")


def _unwatched(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(eq=False)
class _Held:
    """What a run has made so far."""

    model: Model | None = None
    live: Model | None = None  # of which `model` is to have the weights, in another precision
    other: tuple[str, Model] | None = None
    hashes: dict[str, str] = field(default_factory=dict)
    made: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Context:
    """One run's surroundings.

    `folder` is the analysis's own, `shared` the folder whose circuits all analyses of a run share.
    `facts` names a fact file or data set to ask about instead of the atlas. `known`, `shots` and
    `templates` decide the pairs that `examples` makes, as in `locate.options.Source`. `label` is
    the model's name in titles. `memory`, in bytes, bounds what scoring edges takes beside a model.
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
    known: Known = Known.TOP1
    shots: int = 0
    templates: Templates = Templates.USUAL
    label: str | None = None
    device_map: str | None = None
    memory: int | None = None
    _held: _Held = field(default_factory=_Held, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError(f"`batch_size` is at least 1, not {self.batch_size}")

    @classmethod
    def on(cls, model: Model, folder: Path, **options: Any) -> Context:
        """The surroundings of a run on a model that is in memory."""
        dtype = str(model.provenance["dtype"])
        context = cls(model.name, folder, dtype=dtype, _held=_Held(model), **options)
        if context.memory is not None:
            model.memory = context.memory
        return context

    @property
    def asked_in(self) -> Templates:
        """The templates of its pairs, where an embedded model's usual ones are the first."""
        return resolved(self.model, self.templates)

    @property
    def model(self) -> Model:
        """The model that is looked at; loaded when first asked for."""
        if self._held.model is None:
            live = self._held.live
            made = self._loaded(self.model_name) if live is None else live.in_dtype(self.dtype)
            self._held.model = made
        return self._held.model

    def load(self, name: str) -> Model:
        """Another model, as a checkpoint `NAME@REVISION`; the one asked for last is kept."""
        if name == self.model_name:
            return self.model
        if self._held.other is None or self._held.other[0] != name:
            self._held.other = None  # make room before, not after
            self._held.other = (name, self._loaded(name))
        other = self._held.other[1]
        self._held.hashes[name] = identity(other)
        return other

    def _loaded(self, name: str) -> Model:
        model = load(name, self.device, self.dtype, device_map=self.device_map)
        model.memory = self.memory
        return model

    def in_dtype(self, dtype: str) -> Context:
        """The same run with the model in another precision, made when it is first asked for.

        A model that is as it is stored is loaded again. Of any other, one in memory or an edited
        one, the weights are cast.
        """
        if dtype == self.dtype:
            return self
        live = None if self.model.is_as_stored else self.model
        fresh = replace(self, dtype=dtype, _held=_Held(live=live))
        return self.once(("in", dtype), lambda: fresh)

    def check_precision(self) -> None:
        """An error, in seconds, where the model cannot be had in another precision."""
        if self.model.is_as_stored:
            resolve(self.model_name)
        else:
            self.model.check_castable()

    def inside(self, folder: Path) -> Context:
        """The same run with another folder for parts; model, pairs and circuits stay shared."""
        return replace(self, folder=folder, shared=self.shared or self.folder)

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What several units need, made when first asked for; the key holds what decides it."""
        if key not in self._held.made:
            self._held.made[key] = make()
        return self._held.made[key]  # type: ignore[no-any-return]

    # --- facts -------------------------------------------------------------------------------

    @property
    def relations(self) -> dict[str, Relation]:
        """The relations that can be asked about, by name: the atlas's, or those of `facts`."""

        def read() -> dict[str, Relation]:
            found = relations_of(Source(facts=self.facts)) if self.facts else atlas().values()
            return {relation.name: relation for relation in found}

        return self.once(("relations", self.facts), read)

    @property
    def facts_sha256(self) -> str:
        """Hash of the facts that can be asked about, as they were read, and of all wordings."""

        def read() -> str:
            return sha256(repr((self.relations, wordings())).encode()).hexdigest()

        return self.once(("facts", self.facts), read)

    def names(self, chosen: Sequence[str] = (), most: int | None = 0) -> list[str]:
        """Names of the chosen relations; for none at most `most` of all, drawn by the seed.

        0 is all of them, None all of them in a small model and `USUAL` in a large one. OptionError
        for an unknown name.
        """
        for name in chosen:
            relations_of(Source(relation=name, facts=self.facts))
        names = list(dict.fromkeys(chosen)) or list(self.relations)
        if most is None:
            n_weights = sum(each.numel() for each in self.model.bridge.parameters())
            most = 0 if n_weights < LARGE else USUAL
        if chosen or not most or len(names) <= most:
            return names
        drawn = set(random.Random(self.seed).sample(names, most))
        return [name for name in names if name in drawn]

    def examples(
        self,
        relation: str,
        limit: int | None = None,
        *,
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
            templates=self.templates,
            n_pairs=limit,
            hold_out=hold_out,
            known_only=None if known_only else False,
            known=self.known,
            shots=self.shots,
            seed=self.seed,
        )
        if model is not None and model is not self.model:
            return collect(model, source)
        known = self._known(relation, source) if known_only else None
        return self.once(source, lambda: collect(self.model, source, known=known))

    def worded(self, name: str) -> Relation:
        """The relation, whose templates begin with those that the run asks in.

        For analyses with questions of their own kind, which stand in the first one that fits.
        """
        relation = self.relations[name]
        if self.templates == Templates.BEST:
            relation = self.best(name)
        chosen = chosen_templates(relation, self.asked_in)
        return replace(relation, templates=tuple(dict.fromkeys([*chosen, *relation.templates])))

    def best(self, name: str) -> Relation:
        """The relation with the templates that the model answers best, chosen once a run."""
        source = Source(
            relation=name, facts=self.facts, known=self.known, shots=self.shots, seed=self.seed
        )

        def asked() -> Relation:
            return asked_best(self.model, [self.relations[name]], source, self.batch_size)[0]

        return self.once(("best", self.facts, name, self.known, self.shots, self.seed), asked)

    def _known(self, name: str, source: Source) -> KnowledgeCheck:
        """What the model knows of a relation; asked once, however many pairs are made of it."""
        asked = (self.facts, name, self.known, self.shots, self.templates, self.seed)
        return self.once(
            ("known", *asked), lambda: known_of(self.model, [self.relations[name]], source)
        )

    def roles(self, relation: str, limit: int, hold_out: float | None = None) -> Mapping[str, str]:
        """The roles of heads in a relation's pairs, by head; none where it has no such pairs."""

        def read() -> Mapping[str, str]:
            try:
                pairs = self.examples(relation, limit, hold_out=hold_out).pairs
                found = head_roles(self.model, pairs, check=False, by_example=False, seed=self.seed)
                return found.roles
            except (OptionError, PromptError):
                return {}

        asked = (self.known, self.shots, self.templates, self.seed)
        return self.once(("roles", self.facts, relation, limit, hold_out, *asked), read)

    # --- circuits ----------------------------------------------------------------------------

    def circuit(
        self,
        relation: str,
        limit: int | None = 24,
        search: Search | None = None,
        *,
        examples: Examples | None = None,
        model: Model | str | None = None,
        empty: bool = False,
    ) -> Circuit:
        """The relation's circuit, found on the first side of its pairs; found and stored once.

        It holds its scores (no scores of single pairs), and the column `inclusion` where the
        search resamples. `examples` are other pairs to find it on. `model` is another model, or the
        name of one, which is then loaded only where its circuit is not stored yet. OptionError
        where it has no edge, unless one that is `empty` is an answer too.
        """
        search = replace(search or Search(), seed=self.seed, batch_size=self.batch_size)
        asked = None if isinstance(model, str) else model
        pairs = examples or self.examples(relation, limit, model=asked)
        path = self._path(self.identity_of(model), relation, pairs, search)
        try:
            found = Circuit.load(path)
        except CircuitFileError:  # absent, or of an earlier format
            loaded = self.load(model) if isinstance(model, str) else model or self.model
            found = find(loaded, pairs, search, empty=empty)
            found.save(path)
        if not empty:  # an analysis that takes such ones may have stored it
            check_not_empty(found)
        return found

    def identity_of(self, model: Model | str | None = None) -> str:
        """The `identity` of a model; of a name it is known once it was loaded in this run."""
        if isinstance(model, str):
            if model != self.model_name and model in self._held.hashes:
                return self._held.hashes[model]
            model = self.load(model)
        return identity(model or self.model)

    def _path(self, model: str, relation: str, pairs: Examples, search: Search) -> Path:
        """A name that says the relation, with a hash of all that decides the circuit."""
        decisive = {
            "model": model,
            "dtype": self.dtype,
            "pairs": pairs.fingerprint,
            "search": {k: str(v) for k, v in asdict(search).items() if k not in _INDECISIVE}
            | search.record(),  # with the hash of a metric or method of the user's own
        }
        digest = sha256(to_json(decisive).encode()).hexdigest()[:12]
        return (self.shared or self.folder) / CIRCUITS / f"{safe(relation)}-{digest}.kc.safetensors"


_INDECISIVE = ("n_random", "curve", "roles", "batch_size")
"""Parts of a search that do not decide which edges a circuit has."""


def identity(model: Model) -> str:
    """What decides a model's answers: hashes of weights and tokenizer, of edits and patches."""
    origin = model.provenance
    hashes = [origin["weights_sha256"], origin["tokenizer_sha256"]]
    hashes += origin.get("edits", [])  # beside the hash of the weights before them
    if "patched_sha256" in origin:
        hashes.append(f"patched {origin['patched_sha256']}")
    return " ".join(map(str, hashes))


def safe(name: str) -> str:
    """A name that any file system takes: letters, digits, `-`, `.` and `_`."""
    clean = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)
    if name and clean == name and len(name) <= 100 and not name.startswith("."):
        return name
    return f"{clean.lstrip('.')[:80]}-{sha256(name.encode()).hexdigest()[:8]}"
