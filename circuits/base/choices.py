"""Every choice that a user can make, as a type; imports nothing, so that help texts are quick.

The modules that act on a choice import it from here, and may be asked for it themselves
(`circuits.model.metrics.Metric`, `locate.edges.eap.Rule`, ...).
"""

from __future__ import annotations

from enum import StrEnum


class Locator(StrEnum):
    """How edges get scores. ACDC makes a circuit by itself, from exact patching."""

    EAP = "eap"
    EAP_IG = "eap-ig"
    EXACT = "exact"
    ACDC = "acdc"


class Metric(StrEnum):
    """The quantity m whose change an edge's score estimates."""

    LOGIT_DIFFERENCE = "logit-diff"
    LOG_PROBABILITY = "log-prob"
    KL = "kl"


class Ablation(StrEnum):
    """PATCH: the corrupted run's value. ZERO: nothing. MEAN: the mean over clean prompts."""

    PATCH = "patch"
    ZERO = "zero"
    MEAN = "mean"


class Method(StrEnum):
    """EAP: gradient at the clean run. EAP-IG: gradient averaged along the embedding path."""

    EAP = "eap"
    EAP_IG = "eap-ig"


class Rule(StrEnum):
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


class KeyValue(StrEnum):
    """Whether keys and values are one destination a key-value head or one a query head."""

    GROUPED = "grouped"
    PER_QUERY_HEAD = "per-query-head"


class Selection(StrEnum):
    """TOP: the n best edges. GREEDY: the n best from the logits backwards. THRESHOLD: by score."""

    TOP = "top"
    GREEDY = "greedy"
    THRESHOLD = "threshold"


class Ranking(StrEnum):
    """ABSOLUTE ranks by |score| (edges that matter), SIGNED by score (edges that support)."""

    ABSOLUTE = "absolute"
    SIGNED = "signed"


class Corruption(StrEnum):
    """What a corrupted prompt asks: SUBJECT the same of another subject, RELATION something else
    of the same subject.
    """

    SUBJECT = "subject"
    RELATION = "relation"


class Templates(StrEnum):
    """Which of a relation's templates to ask in; ALL are the TRAIN and the HELD_OUT ones."""

    FIRST = "first"
    TRAIN = "train"
    HELD_OUT = "held-out"
    ALL = "all"


class TraceKind(StrEnum):
    """Which state is restored: the residual stream after a block, or what MLP or attention adds."""

    RESID = "resid"
    MLP = "mlp"
    ATTN = "attn"

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return {"resid": "residual stream", "mlp": "MLP output", "attn": "attention output"}[self]


class FigureKind(StrEnum):
    """What `kc figures` draws from stored results."""

    CIRCUIT = "circuit"
    LAYERS = "layers"
    DIFFERENCE = "difference"
    OBJECTS = "objects"
    TRACE = "trace"
    LENS = "lens"
    FAITHFULNESS = "faithfulness"
    ATTENTION = "attention"
    TOKENS = "tokens"

    @property
    def label(self) -> str:
        """What the figure shows, in a line."""
        return {
            "circuit": "the circuit, nodes by layer and head, edges by score",
            "layers": "nodes, edges and score mass by layer and role",
            "difference": "a circuit before and after: kept, gained, lost, flipped, cannot tell",
            "objects": "rank and probability of an edit's old and new object by layer",
            "trace": "causal trace: indirect effect by layer and token or role of a token",
            "lens": "logit lens: rank and probability by layer",
            "faithfulness": "faithfulness against the number of edges, with CPR and CMD",
            "attention": "where heads look from the last token of a prompt",
            "tokens": "the tokens that heads write at the last token of a prompt",
        }[self]


class FigureFormat(StrEnum):
    """Vector formats for papers, PNG for slides and pages."""

    PDF = "pdf"
    SVG = "svg"
    PNG = "png"


class ExportFormat(StrEnum):
    """What `export_circuit` writes; EAP_IG alone can be read back."""

    EAP_IG = "eap-ig"
    GRAPHML = "graphml"
    GEXF = "gexf"
    DOT = "dot"
    CSV = "csv"
    NODE_LINK = "node-link"


class EditMethod(StrEnum):
    """How an edit is made. FT is FT-M (every target token from those before it)."""

    ROME = "rome"
    ROME_ORIGINAL = "rome-original"
    MEMIT = "memit"
    ALPHAEDIT = "alphaedit"
    FT_L = "ft-l"
    FT_M = "ft"
    DINM = "dinm"
    DINM_EASYEDIT = "dinm-easyedit"

    @classmethod
    def _missing_(cls, value: object) -> EditMethod | None:
        return cls.FT_M if value == "ft-m" else None


class EditStatus(StrEnum):
    """DIVERGED: the change would do harm, so there is none. NO_CHANGE: it is said already."""

    DONE = "done"
    DIVERGED = "diverged"
    NO_CHANGE = "no-change"


class UnlearnMethod(StrEnum):
    """GA: ascent on the forget set; +GD: descent, +KL: no drift on the retain set. MEMFLEX: as
    GA+GD, on weights that hold what is to be forgotten and not what is to stay.
    """

    GA = "ga"
    GA_GD = "ga-gd"
    GA_KL = "ga-kl"
    MEMFLEX = "memflex"


class FalseDiscovery(StrEnum):
    """BH assumes independent or positively dependent edges, BY nothing (and finds less)."""

    BH = "bh"
    BY = "by"


class Contrast(StrEnum):
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


class Control(StrEnum):
    """RANDOM: any direction. SAME_KEYS: triggered by the same inputs, writing something random.

    A random direction hardly meets the inputs that occur; SAME_KEYS acts where the edit acts and
    as strongly, and differs from it in nothing but what it writes.
    """

    RANDOM = "random"
    SAME_KEYS = "same-keys"


class Draw(StrEnum):
    """UNIFORM: any other edges. CARRYING: others that leave a node which the edit makes write anew.

    Most edges carry what they carried before, and putting that back does nothing; CARRYING is the
    harder comparison, with edges that do have something to put back.
    """

    UNIFORM = "uniform"
    CARRYING = "carrying"
