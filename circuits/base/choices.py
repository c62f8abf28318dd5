"""Every choice that a user can make, as a type; imports no torch, so that help texts are quick."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from circuits.base.choosing import Choice, Open
from circuits.base.errors import OptionError

__all__ = [
    "Choice",
    "Open",
]


class Metric(Open):
    """The quantity m whose change an edge's score estimates: one value an example.

    The function takes (logits [batch d_vocab], answer [batch], foil [batch]), and where the metric
    is `relative` also the clean run's logits, with which it compares. A metric that is `whole` is
    asked of every token of the answer, each after those before it, and is the sum
    (`circuits.facts.whole_answers`). Where no foil plays a part it does not `contrast`.
    """

    relative: bool = False
    whole: bool = False
    contrast: bool = True

    LOGIT_DIFFERENCE: ClassVar[Metric]
    LOG_PROBABILITY: ClassVar[Metric]
    ANSWER_LOG_PROBABILITY: ClassVar[Metric]
    PROBABILITY_DIFFERENCE: ClassVar[Metric]
    KL: ClassVar[Metric]

    def check_one_token(self, what: str) -> None:
        """OptionError where a metric of whole answers is asked of what reads one token of each."""
        if self.whole:
            raise OptionError(
                f"{what} reads one token an answer, so that {self} cannot be asked; take "
                f"{Metric.LOG_PROBABILITY}"
            )


Metric.LOGIT_DIFFERENCE = Metric.add(
    "logit-diff", "circuits.model.metrics:logit_difference", "answer's logit minus the foil's"
)
Metric.LOG_PROBABILITY = Metric.add(
    "log-prob",
    "circuits.model.metrics:log_probability",
    "log-probability of the answer's first token that is not the foil's",
    contrast=False,
)
Metric.ANSWER_LOG_PROBABILITY = Metric.add(
    "answer-log-prob",
    "circuits.model.metrics:log_probability",
    "log-probability of the whole answer, all its tokens",
    whole=True,
    contrast=False,
)
Metric.PROBABILITY_DIFFERENCE = Metric.add(
    "prob-diff",
    "circuits.model.metrics:probability_difference",
    "probability of the answers minus that of the foils",
)
Metric.KL = Metric.add(
    "kl",
    "circuits.model.metrics:negative_kl",
    "minus KL from the clean run",
    relative=True,
    contrast=False,
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


class Known(Open):
    """What counts as knowing a fact: the answer's place, which must be below `best`.

    The function takes the places of the answer's token among all tokens and among the first tokens
    of the relation's objects (0 is the best), and returns the one that counts. `topK`, with any
    number for K, is the first `K` places among all tokens.
    """

    best: int = 1

    TOP1: ClassVar[Known]
    AMONG_OBJECTS: ClassVar[Known]

    @classmethod
    def of(cls, value: Any, name: str = "") -> Known:
        """As of any open choice; `top3` and the like are made as they are asked for."""
        counted = re.fullmatch(r"top-?([1-9]\d{0,5})", value) if isinstance(value, str) else None
        if counted and not isinstance(value, cls):
            return cls(f"top{counted[1]}", cls.TOP1.target, best=int(counted[1]))
        return super().of(value, name)

    def counts(self, place: int, among: int) -> bool:
        """Whether an answer at these places counts as known."""
        return bool(self.load()(place, among) < self.best)


Known.TOP1 = Known.add("top1", "circuits.facts.knowledge:among_tokens", "no token scores higher")
Known.add("top10", "circuits.facts.knowledge:among_tokens", "at most nine tokens do", best=10)
Known.AMONG_OBJECTS = Known.add(
    "among-objects",
    "circuits.facts.knowledge:among_objects",
    "no other object of the relation begins with a token that scores higher",
)


class Task(Choice):
    """What is asked that is no fact: who receives, a later year, a verb that agrees."""

    IOI = "ioi"
    GREATER_THAN = "greater-than"
    AGREEMENT = "agreement"


class Templates(Choice):
    """Which of a relation's templates to ask in; ALL are the TRAIN and the HELD_OUT ones.

    FIRST are the first three training ones. USUAL are those three of the atlas' training ones that
    SmolLM2-135M, a language model, answers best (`Relation.usual`); of relations without, the
    first. BEST are the three that the model itself answers best, by a sample of facts.
    """

    USUAL = "usual"
    FIRST = "first"
    BEST = "best"
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
    SPANS: ClassVar[FigureKind]
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
FigureKind.SPANS = _figure(
    "spans", "spans:draw_spans", "signed score by token span and layer (circuits of spans)"
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
    "faithfulness against the number of edges, with CPR or CMD",
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
    """What `kc export` writes; EAP_IG and NEURONPEDIA can be read back.

    HTML is a page of any result for a browser, the others take a circuit to other tools.
    """

    EAP_IG = "eap-ig"
    GRAPHML = "graphml"
    GEXF = "gexf"
    DOT = "dot"
    CSV = "csv"
    NODE_LINK = "node-link"
    NEURONPEDIA = "neuronpedia"
    HTML = "html"


class Sign(Choice):
    """What a positive score in a file of another tool says; UNKNOWN is never taken for either."""

    SUPPORTS = "supports"
    OPPOSES = "opposes"
    UNKNOWN = "unknown"


class Meaning(Choice):
    """What a score says of its edge.

    EFFECT what the metric loses without the edge, in units of the metric; SIGN whether it supports
    or opposes the answer, and how strong it is beside others; SIZE how much it counts, whichever
    way; UNKNOWN has a sign of which nobody says what it means.
    """

    EFFECT = "effect"
    SIGN = "sign"
    SIZE = "size"
    UNKNOWN = "unknown"

    @property
    def has_sign(self) -> bool:
        """Whether a positive score supports the answer and a negative one opposes it."""
        return self in (Meaning.EFFECT, Meaning.SIGN)


class BoardTask(Choice):
    """The tasks of MIB's circuit track, as its submissions name them."""

    IOI = "ioi"
    MCQA = "mcqa"
    ADDITION = "arithmetic-addition"
    SUBTRACTION = "arithmetic-subtraction"
    ARC_EASY = "arc-easy"
    ARC_CHALLENGE = "arc-challenge"


class BoardModel(Choice):
    """The models of MIB's circuit track, as its submissions name them."""

    GPT2 = "gpt2"
    QWEN = "qwen2.5"
    GEMMA = "gemma2"
    LLAMA = "llama3"


class Submission(Choice):
    """IMPORTANCES: one file of scores, from which the board selects. CIRCUITS: nine circuits."""

    IMPORTANCES = "importances"
    CIRCUITS = "circuits"


class EditStatus(Choice):
    """DIVERGED: the change would do harm, so there is none. NO_CHANGE: it is said already."""

    DONE = "done"
    DIVERGED = "diverged"
    NO_CHANGE = "no-change"


class UnlearnMethod(Choice):
    """GA: ascent on the forget set; +GD: descent, +KL: no drift on the retain set. MEMFLEX: as
    GA+GD, on weights that hold what is to be forgotten and not what is to stay. NPO, SIMNPO: as
    GA+GD, with a bounded loss. RMU: activations on the forget set are led to a random direction.
    """

    GA = "ga"
    GA_GD = "ga-gd"
    GA_KL = "ga-kl"
    MEMFLEX = "memflex"
    NPO = "npo"
    SIMNPO = "simnpo"
    RMU = "rmu"


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
