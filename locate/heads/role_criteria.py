"""When a head has a role: the evidence for it, and the criterion that the evidence must meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuits.base.errors import OptionError
from circuits.base.intervals import Interval
from locate.heads.head_check import Role


@dataclass(frozen=True)
class Evidence:
    """One half of the criterion for a head: what it does with one region of the prompt.

    `attention` is the region's share of the head's value-weighted attention, averaged over pairs;
    `gain` what the head writes from there, in logits; `share` the mean gain divided by all that
    heads write in this direction, which is the sum of the positive mean gains of all heads from all
    regions (negative for a head that writes against it).
    """

    attention: float
    gain: Interval
    share: float


@dataclass(frozen=True)
class RoleCriteria:
    """The criterion: a head has a part where it looks, writes, and does so for every subject.

    Mover part: at least `attention` of its value-weighted attention is on the subject, what it
    writes from the subject raises the answer over the relation's other objects by at least `share`
    of what all heads together do, and the interval of that gain over facts is above 0 (of a
    single prompt the gain itself, which is all there is). Relation part: the
    same with the relation's words, and with the other objects against all tokens that are no
    objects. One part makes a mover or a relation head, both a mixture head. Both thresholds are
    inclusive and relative, so that they mean the same in models of any size and logit scale.

    Attention is weighted by the norm of what each position contributes (Kobayashi et al. 2020):
    heads park attention that they have no use for on the first token, whose values are tiny, and
    in plain attention such a sink would hide what the head does with the rest. And the gain counts
    only what is written *from the region*, so that attention and output belong together: a head
    that looks at the subject and copies the answer from elsewhere is no mover.
    """

    attention: float = 0.3
    share: float = 0.02
    level: float = 0.95
    resamples: int = 1000

    def __post_init__(self) -> None:
        for name in ("attention", "share", "level"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise OptionError(f"the {name} of a role must lie between 0 and 1, not {value}")
        if self.resamples < 1:
            raise OptionError(f"intervals need at least 1 resample, not {self.resamples}")

    def holds(self, part: Evidence) -> bool:
        """Whether the evidence is enough for this part of a role."""
        looks = part.attention >= self.attention
        gain = part.gain
        without_interval = np.isnan(gain.low) and np.isnan(gain.high)
        surely = gain.value if without_interval else gain.low
        return bool(looks and part.share >= self.share and surely > 0)

    def classify(self, mover: Evidence, relation: Evidence) -> Role:
        """The role that the two parts make."""
        match self.holds(mover), self.holds(relation):
            case True, True:
                return Role.MIXTURE
            case True, False:
                return Role.MOVER
            case False, True:
                return Role.RELATION
        return Role.NONE
