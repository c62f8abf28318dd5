"""Sequence classifiers of Hugging Face as judges of text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.base.errors import ModelNotFoundError, OptionError

HUB = "hub:"
"""Before the name or the directory of a classifier."""
MOST_TOKENS = 512
BATCH = 32


class HubClassifier:
    """A classifier by name or directory, loaded when it is first asked; on the CPU."""

    def __init__(self, name: str) -> None:
        if not name:
            raise OptionError(f"`{HUB}` names no classifier, as hub:NAME-or-directory")
        self.name = name

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                self.name, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0][:120]
            raise ModelNotFoundError(f"no classifier {self.name!r}: {reason}") from None
        if missing := found["missing_keys"]:  # a head of random numbers judges nothing
            raise OptionError(f"{self.name!r} is no classifier: it lacks {min(missing)}")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
        return tokenizer, model.eval()

    @property
    def n_labels(self) -> int:
        """How many labels it tells apart."""
        return int(self._parts[1].config.num_labels)

    @property
    def labels(self) -> list[str]:
        """Their names by its configuration, in order; LABEL_0 and so on where it has none."""
        config = self._parts[1].config
        return [str(config.id2label[place]) for place in range(self.n_labels)]

    @torch.no_grad()
    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> Float[Tensor, "text label"]:
        """Logits of each label for each text (with the second of its pair, where given)."""
        tokenizer, model = self._parts
        rows = []
        for start in range(0, len(texts), BATCH):
            stop = start + BATCH
            second = None if pairs is None else list(pairs[start:stop])
            most = min(tokenizer.model_max_length, MOST_TOKENS)
            most = min(most, getattr(model.config, "n_positions", most))
            encoded = tokenizer(
                list(texts[start:stop]),
                second,
                padding=True,
                truncation=True,
                max_length=most,
                return_tensors="pt",
            )
            rows.append(model(**encoded).logits.float())
        return torch.cat(rows)
