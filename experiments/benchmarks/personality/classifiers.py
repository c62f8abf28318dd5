"""Who tells the trait of a text, and who judges how well it shows one: two open choices.

Neither has a usual one: without them, what they would measure is not computed. A file of a user's
own adds one with one call of `.add`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from circuits.base.choices import Open
from circuits.base.errors import OptionError
from experiments.benchmarks.personality.cases import TRAITS
from experiments.benchmarks.replies.hub import HUB, HubClassifier

PUBLISHED = ("neuroticism", "agreeableness", "extraversion")
"""The labels of the published classifier, shai-msy/per-classifier, in their order (EasyEdit)."""
LEAST, MOST = 1.0, 5.0
"""A judge's scores."""


class TraitClassifier(Open):
    """Which trait a text shows: `(texts) -> probabilities`, one for each of TRAITS in their order.

    `hub:NAME-or-directory` is a sequence classifier of Hugging Face with these three labels, by the
    names in its configuration; where they are others, in the order of PUBLISHED.
    """

    @classmethod
    def of(cls, value: Any, name: str = "") -> TraitClassifier:
        """As for every open choice; also `hub:NAME-or-directory`."""
        if isinstance(value, str) and value.startswith(HUB) and not isinstance(value, cls):
            return cls(value, _Traits(value.removeprefix(HUB)))
        if isinstance(value, str) and not len(cls):
            raise OptionError(
                f"there is no trait classifier {value!r:.60}; name hub:NAME-or-directory"
            )
        return super().of(value, name)


class TraitJudge(Open):
    """How well a text shows a trait: `(texts, trait) -> scores` from 1 to 5.

    `hub:NAME-or-directory` is a sequence classifier of Hugging Face over the pair of trait and
    text, with five labels (label 0 is score 1) or one value, the score.
    """

    @classmethod
    def of(cls, value: Any, name: str = "") -> TraitJudge:
        """As for every open choice; also `hub:NAME-or-directory`."""
        if isinstance(value, str) and value.startswith(HUB) and not isinstance(value, cls):
            return cls(value, _Scores(value.removeprefix(HUB)))
        if isinstance(value, str) and not len(cls):
            raise OptionError(f"there is no trait judge {value!r:.60}; name hub:NAME-or-directory")
        return super().of(value, name)


class _Traits:
    def __init__(self, name: str) -> None:
        self.classifier = HubClassifier(name)

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        if self.classifier.n_labels != len(TRAITS):
            raise OptionError(
                f"{self.classifier.name!r} has {self.classifier.n_labels} labels; a trait "
                f"classifier has {len(TRAITS)}: {', '.join(TRAITS)}"
            )
        names = [name.lower() for name in self.classifier.labels]
        order = names if set(names) == set(TRAITS) else list(PUBLISHED)
        places = [order.index(trait) for trait in TRAITS]
        return self.classifier.logits(texts).double().softmax(-1)[:, places].tolist()  # type: ignore[no-any-return]


class _Scores:
    def __init__(self, name: str) -> None:
        self.classifier = HubClassifier(name)

    def __call__(self, texts: Sequence[str], trait: str) -> list[float]:
        if self.classifier.n_labels not in (1, int(MOST)):
            raise OptionError(
                f"{self.classifier.name!r} has {self.classifier.n_labels} labels; a judge of "
                "traits has five, the scores 1 to 5, or one value"
            )
        found = self.classifier.logits([trait] * len(texts), texts)
        if self.classifier.n_labels == 1:
            return [min(max(value, LEAST), MOST) for value in found[:, 0].tolist()]
        return [float(label) + LEAST for label in found.argmax(-1).tolist()]


def trait_probabilities(
    classifier: Callable[[Sequence[str]], Any], texts: Sequence[str]
) -> np.ndarray:
    """The classifier's probabilities, [text, trait]; OptionError where they are none."""
    found = np.asarray(classifier(texts), dtype=float)
    if found.shape != (len(texts), len(TRAITS)) or not np.allclose(found.sum(1), 1, atol=1e-3):
        raise OptionError(f"a trait classifier gives {len(TRAITS)} probabilities a text")
    return found


def trait_scores(
    judge: Callable[[Sequence[str], str], Any], texts: Sequence[str], trait: str
) -> np.ndarray:
    """The judge's scores; OptionError where one is not from 1 to 5."""
    found = np.asarray(judge(texts, trait), dtype=float)
    if found.shape != (len(texts),) or not ((found >= LEAST) & (found <= MOST)).all():
        raise OptionError("a judge of traits gives each text a score from 1 to 5")
    return found
