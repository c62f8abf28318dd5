"""Every choice that a user can make, as a type; imports no torch, so that help texts are quick.

A public function takes a choice as its name or as the type's value, and turns it into the value
with `of`, which refuses anything else by name. `Choice` is a closed list; to an `Open` one users
add their own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from hashlib import sha256
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from circuits.base.errors import OptionError

C = TypeVar("C", bound="Choice")
Own = TypeVar("Own", bound="Open")


class Choice(StrEnum):
    """One of a closed list of names."""

    @classmethod
    def of(cls: type[C], value: Any, name: str = "") -> C:
        """The value of this name; OptionError with the names there are for anything else."""
        try:
            return cls(value)
        except (ValueError, TypeError):
            raise _no_such(name or _words(cls), value, cls) from None


class _Listed(type):
    """Iterating a class of choices gives its values, as iterating an enum does."""

    _known: dict[str, Any]

    def __iter__(cls) -> Iterator[Any]:
        return iter(tuple(cls._known.values()))

    def __len__(cls) -> int:
        return len(cls._known)

    def __contains__(cls, name: object) -> bool:
        return name in cls._known

    def __bool__(cls) -> bool:
        return True


class Open(str, metaclass=_Listed):
    """A named choice to which users add their own; equal to its name, as a closed choice is.

    `target` is what the name stands for, or "module:attribute", imported when it is asked for. A
    kind's traits are the annotated attributes of its class, which give their usual values.
    """

    _known: ClassVar[dict[str, Any]] = {}
    target: Any
    text: str

    def __init_subclass__(cls) -> None:
        """Each kind of choice has a list of its own."""
        super().__init_subclass__()
        cls._known = {}

    def __new__(cls: type[Own], name: str, target: Any, text: str = "", **traits: Any) -> Own:
        """A value that is not yet known by its name; `add` makes it so."""
        made = super().__new__(cls, name)
        made.target, made.text = target, text
        for trait, value in traits.items():
            if trait not in cls.__annotations__:
                raise OptionError(f"a {_words(cls)} has no trait {trait!r}")
            setattr(made, trait, value)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (str(self), self.target, self.text)

    @property
    def value(self) -> str:
        """The plain name, as an enum's."""
        return str(self)

    @classmethod
    def add(cls: type[Own], name: str, target: Any, text: str = "", **traits: Any) -> Own:
        """Make a name known everywhere; OptionError where something else has it already."""
        known = cls._known.get(name)
        if known is not None and known.target != target:
            raise OptionError(f"there is a {_words(cls)} {name!r} already; take another name")
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise OptionError(f"{name!r} is no name for a {_words(cls)}: use a-z, 0-9, - and _")
        return cls._known.setdefault(name, cls(name, target, text, **traits))

    @classmethod
    def of(cls: type[Own], value: Any, name: str = "") -> Own:
        """The value of this name, or a function of the user's own, named as it is."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value in cls._known:
            return cls._known[value]
        if callable(value) and not isinstance(value, type):
            return cls._own(value)
        raise _no_such(name or _words(cls), value, cls)

    def load(self) -> Any:
        """What the name stands for."""
        if isinstance(self.target, str):
            module, _, attribute = self.target.partition(":")
            return getattr(import_module(module), attribute)
        return self.target

    @property
    def is_own(self) -> bool:
        """Whether it is a user's, and not one of those that come with this project."""
        built_in = ("circuits.", "locate.", "viz.", "experiments.")
        return not (isinstance(self.target, str) and self.target.startswith(built_in))

    @property
    def source_sha256(self) -> str | None:
        """Hash of the source of a user's own function; None where there is no source to be had."""
        if not self.is_own:
            return None
        try:
            return sha256(inspect.getsource(self.load()).encode()).hexdigest()
        except (OSError, TypeError):
            return None

    @classmethod
    def _own(cls: type[Own], function: Callable[..., Any]) -> Own:
        given = getattr(function, "__name__", "<lambda>")
        if given == "<lambda>":
            raise OptionError(f"a {_words(cls)} of your own needs a name: define it with `def`")
        for known in cls:
            if known.target is function:
                return known  # type: ignore[no-any-return]
        if given in cls._known:
            raise OptionError(f"there is a {_words(cls)} {given!r} already; rename yours")
        return cls(given, function)


def _words(kind: type) -> str:
    """A class's name in words: KeyValue is a key value."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()


def _no_such(what: str, value: Any, kind: Any) -> OptionError:
    return OptionError(f"{what} {value!r:.60} is none; there are {', '.join(map(str, kind))}")


class Metric(Open):
    """The quantity m whose change an edge's score estimates: one value an example.

    The function takes (logits [batch d_vocab], answer [batch], foil [batch]), and where the metric
    is `relative` also the clean run's logits, with which it compares.
    """

    relative: bool = False

    LOGIT_DIFFERENCE: ClassVar[Metric]
    LOG_PROBABILITY: ClassVar[Metric]
    PROBABILITY_DIFFERENCE: ClassVar[Metric]
    KL: ClassVar[Metric]


Metric.LOGIT_DIFFERENCE = Metric.add(
    "logit-diff", "circuits.model.metrics:logit_difference", "answer's logit minus the foil's"
)
Metric.LOG_PROBABILITY = Metric.add(
    "log-prob", "circuits.model.metrics:log_probability", "log-probability of the answer"
)
Metric.PROBABILITY_DIFFERENCE = Metric.add(
    "prob-diff",
    "circuits.model.metrics:probability_difference",
    "probability of the answers minus that of the foils",
)
Metric.KL = Metric.add(
    "kl", "circuits.model.metrics:negative_kl", "minus KL from the clean run", relative=True
)
MetricLike = Metric | str | Callable[..., Any]
"""A metric, its name, or a function of the user's own."""


class Ablation(Choice):
    """PATCH: the corrupted run's value. ZERO: nothing. MEAN: the mean over clean prompts."""

    PATCH = "patch"
    ZERO = "zero"
    MEAN = "mean"

    @property
    def is_constant(self) -> bool:
        """Whether a constant stands in for every prompt's own value."""
        return {Ablation.PATCH: False, Ablation.ZERO: True, Ablation.MEAN: True}[self]


class Rule(Choice):
    """Where the integration points sit in each of the path's equal steps.

    EAP-IG's own code uses the left end, Knowledge Circuits' the right end; the midpoint has the
    smallest error by far.
    """

    LEFT = "left"
    MIDPOINT = "midpoint"
    RIGHT = "right"

    def points(self, steps: int) -> list[float]:
        """Fractions of the way from the corrupted to the clean embedding."""
        shift = {Rule.LEFT: 0.0, Rule.MIDPOINT: 0.5, Rule.RIGHT: 1.0}[self]
        return [(step + shift) / steps for step in range(steps)]


class KeyValue(Choice):
    """Whether keys and values are one destination a key-value head or one a query head."""

    GROUPED = "grouped"
    PER_QUERY_HEAD = "per-query-head"

    @property
    def is_shared(self) -> bool:
        """Whether the query heads of a key-value head share one destination."""
        return {KeyValue.GROUPED: True, KeyValue.PER_QUERY_HEAD: False}[self]


class Selection(Choice):
    """TOP: the n best edges. GREEDY: the n best from the logits backwards. THRESHOLD: by score."""

    TOP = "top"
    GREEDY = "greedy"
    THRESHOLD = "threshold"


class Ranking(Choice):
    """ABSOLUTE ranks by |score| (edges that matter), SIGNED by score (edges that support)."""

    ABSOLUTE = "absolute"
    SIGNED = "signed"


class Corruption(Choice):
    """What a corrupted prompt asks: SUBJECT the same of another subject, RELATION something else
    of the same subject.
    """

    SUBJECT = "subject"
    RELATION = "relation"


class Task(Choice):
    """What is asked that is no fact: who receives, a later year, a verb that agrees."""

    IOI = "ioi"
    GREATER_THAN = "greater-than"
    AGREEMENT = "agreement"


class Templates(Choice):
    """Which of a relation's templates to ask in; ALL are the TRAIN and the HELD_OUT ones."""

    FIRST = "first"
    TRAIN = "train"
    HELD_OUT = "held-out"
    ALL = "all"


class TraceKind(Choice):
    """Which state is restored: the residual stream after a block, or what MLP or attention adds."""

    RESID = "resid"
    MLP = "mlp"
    ATTN = "attn"

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return {"resid": "residual stream", "mlp": "MLP output", "attn": "attention output"}[self]


class NoiseUnit(Choice):
    """What causal tracing's noise is measured in: the standard deviation of the whole embedding
    MATRIX, or of the embeddings of the SUBJECTS that are traced, as Meng et al. have it.
    """

    MATRIX = "matrix"
    SUBJECTS = "subjects"


class FigureKind(Open):
    """What `kc figures` draws from stored results; `text` says what it shows, in a line.

    The function is that of the kind of result (`circuits.files.kinds`): two may share a figure.
    """

    CIRCUIT: ClassVar[FigureKind]
    LAYERS: ClassVar[FigureKind]
    DIFFERENCE: ClassVar[FigureKind]
    OBJECTS: ClassVar[FigureKind]
    TRACE: ClassVar[FigureKind]
    LENS: ClassVar[FigureKind]
    FAITHFULNESS: ClassVar[FigureKind]
    ATTENTION: ClassVar[FigureKind]
    TOKENS: ClassVar[FigureKind]


def _figure(name: str, drawn_by: str, text: str) -> FigureKind:
    return FigureKind.add(name, f"viz.paper.{drawn_by}", text)


FigureKind.CIRCUIT = _figure(
    "circuit", "circuit:draw_circuit", "the circuit, nodes by layer and head, edges by score"
)
FigureKind.LAYERS = _figure(
    "layers", "layers:draw_layers", "nodes, edges and score mass by layer and role"
)
FigureKind.DIFFERENCE = _figure(
    "difference",
    "difference:draw_difference",
    "a circuit before and after: kept, gained, lost, flipped, cannot tell",
)
FigureKind.OBJECTS = _figure(
    "objects",
    "lenses:draw_objects",
    "rank and probability of an edit's old and new object by layer",
)
FigureKind.TRACE = _figure(
    "trace",
    "curves:draw_trace",
    "causal trace: indirect effect by layer and token or role of a token",
)
FigureKind.LENS = _figure(
    "lens", "lenses:draw_prompt_lens", "logit lens: rank and probability by layer"
)
FigureKind.FAITHFULNESS = _figure(
    "faithfulness",
    "curves:draw_faithfulness",
    "faithfulness against the number of edges, with CPR and CMD",
)
FigureKind.ATTENTION = _figure(
    "attention", "heads:draw_attention", "where heads look from the last token of a prompt"
)
FigureKind.TOKENS = _figure(
    "tokens", "heads:draw_written", "the tokens that heads write at the last token of a prompt"
)


class FigureFormat(Choice):
    """Vector formats for papers, PNG for slides and pages."""

    PDF = "pdf"
    SVG = "svg"
    PNG = "png"


class ExportFormat(Choice):
    """What `export_circuit` writes; EAP_IG alone can be read back."""

    EAP_IG = "eap-ig"
    GRAPHML = "graphml"
    GEXF = "gexf"
    DOT = "dot"
    CSV = "csv"
    NODE_LINK = "node-link"


class EditStatus(Choice):
    """DIVERGED: the change would do harm, so there is none. NO_CHANGE: it is said already."""

    DONE = "done"
    DIVERGED = "diverged"
    NO_CHANGE = "no-change"


class UnlearnMethod(Choice):
    """GA: ascent on the forget set; +GD: descent, +KL: no drift on the retain set. MEMFLEX: as
    GA+GD, on weights that hold what is to be forgotten and not what is to stay.
    """

    GA = "ga"
    GA_GD = "ga-gd"
    GA_KL = "ga-kl"
    MEMFLEX = "memflex"


class FalseDiscovery(Choice):
    """BH assumes independent or positively dependent edges, BY nothing (and finds less)."""

    BH = "bh"
    BY = "by"


class Contrast(Choice):
    """What the metric sets against each other.

    OLD_NEW: the old object against the new one, in both models. One and the same functional of the
    logits is taken apart before and after, so that a change of score is a change of the model; an
    edge that carries the edit supports the old object before and opposes it after: its sign flips.

    ANSWER: each model's own object, old before and new after, against the corrupted subject's. It
    asks which circuit recalls whatever is recalled: a head that says the new object in the old
    one's place counts as unchanged. Where the edited model still prefers the old object, that is
    its own (`locate.changes.rewiring` looks).
    """

    OLD_NEW = "old-new"
    ANSWER = "answer"


class Control(Choice):
    """RANDOM: any direction. SAME_KEYS: triggered by the same inputs, writing something random.

    A random direction hardly meets the inputs that occur; SAME_KEYS acts where the edit acts and
    as strongly, and differs from it in nothing but what it writes.
    """

    RANDOM = "random"
    SAME_KEYS = "same-keys"


class Draw(Choice):
    """UNIFORM: any other edges. CARRYING: others that leave a node which the edit makes write anew.

    Most edges carry what they carried before, and putting that back does nothing; CARRYING is the
    harder comparison, with edges that do have something to put back.
    """

    UNIFORM = "uniform"
    CARRYING = "carrying"
