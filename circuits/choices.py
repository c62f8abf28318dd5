"""Every choice that a user can make, as a type; imports nothing, so that help texts are quick.

The modules that act on a choice import it from here, and may be asked for it themselves
(`circuits.metrics.Metric`, `locate.eap.Rule`, ...).
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


class ExportFormat(StrEnum):
    """What `export_circuit` writes; EAP_IG alone can be read back."""

    EAP_IG = "eap-ig"
    GRAPHML = "graphml"
    GEXF = "gexf"
    DOT = "dot"
    CSV = "csv"
    NODE_LINK = "node-link"
