"""The language model inside a model that also reads images: its configuration and its weights.

The files hold both. The language model's weights have a name before their own; only they are read,
and what runs is the language model alone, as the whole does on text without an image.
"""

from __future__ import annotations

import re
from copy import copy
from typing import Any

WRAPPERS = ("gemma3", "llava", "mistral3")
"""Model types that hold a language model of a type of their own under `text_config`."""
KEY_MAPPING = {
    r"^(?:model\.)?language_model\.lm_head": "lm_head",
    r"^(?:model\.)?language_model\.(?:model\.)?": "model.",
}
"""What the language model's weights are called in the files, and what by themselves."""
OTHERS = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")
"""How names begin that are not the language model's."""


def is_wrapper(config: Any) -> bool:
    """Whether a configuration is of a model around a language model."""
    return getattr(config, "model_type", None) in WRAPPERS


def text_part(config: Any) -> Any:
    """The language model's configuration: its own, or the one within.

    What the whole decides goes with it: how it is quantised, whether input and output matrices are
    one, and which commit it is of.
    """
    if not is_wrapper(config):
        return config
    text = copy(config.text_config)
    for name in ("quantization_config", "tie_word_embeddings", "_commit_hash"):
        if (value := getattr(config, name, None)) is not None:
            setattr(text, name, value)
    return text


def text_name(name: str) -> str | None:
    """What a weight of a file is called in the language model; None where it is not of it."""
    if OTHERS.match(name):
        return None
    for pattern, own in KEY_MAPPING.items():
        if re.match(pattern, name):
            return re.sub(pattern, own, name)
    return name
