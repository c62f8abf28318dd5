"""The edit methods that there are, in one table; imports no torch. `run.py` holds the verb `edit`.

A file of a user's own adds a method with one call of `EditMethod.add`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from circuits.base.choices import Open
from circuits.base.errors import OptionError

EASYEDIT = "easyedit:"
"""Before the name of a method of an EasyEdit checkout."""
_HERE = "circuits.edits.methods"


class EditMethod(Open):
    """How an edit is made: a function

        (model, requests, layers, settings, *, generator, progress) -> (WeightDelta, details)

    that never changes the model; a change that is not to be is a NumericalError. Traits: its
    `settings` are a class of options with a field `layers` (or "module:class"), for which
    `hyperparameters.toml` may have tables, and of which it gets a value with `preset` in it;
    without a class it gets what the user set, a mapping, and the layers that were named, or None.
    It `needs_moments` (given as `moments`), takes `one_request` at a time, or `protects_earlier`
    requests (given as `earlier`). One that is `at_circuit` changes the layers of the fact's
    circuit, which `locate.edit` finds where none are named. One that `may_want_moments` finds out
    by itself which, and gets them as a `WantedMoments`.
    """

    settings: Any = None
    preset: Mapping[str, Any] = {}
    needs_moments: bool = False
    may_want_moments: bool = False
    one_request: bool = False
    protects_earlier: bool = False
    at_circuit: bool = False

    ROME: ClassVar[EditMethod]
    ROME_ORIGINAL: ClassVar[EditMethod]
    MEMIT: ClassVar[EditMethod]
    EMMET: ClassVar[EditMethod]
    ALPHAEDIT: ClassVar[EditMethod]
    FT_M: ClassVar[EditMethod]
    FT_L: ClassVar[EditMethod]
    CAKE: ClassVar[EditMethod]
    CAKE_CIRCUIT: ClassVar[EditMethod]
    CAKE_STATED: ClassVar[EditMethod]
    DINM: ClassVar[EditMethod]
    DINM_EASYEDIT: ClassVar[EditMethod]

    @classmethod
    def of(cls, value: Any, name: str = "") -> EditMethod:
        """As for every open choice; also `ft-m`, and `easyedit:NAME` for a method of EasyEdit."""
        if isinstance(value, str) and value.startswith(EASYEDIT) and not isinstance(value, cls):
            return cls._of_easyedit(value)
        return super().of("ft" if value == "ft-m" else value, name)

    @classmethod
    def _of_easyedit(cls, value: str) -> EditMethod:
        theirs = value.removeprefix(EASYEDIT)
        if not theirs:
            raise OptionError(f"`method` {value} names no method of EasyEdit, as easyedit:ROME")
        target = f"{_HERE}.easyedit:run_method"
        return cls(value, target, preset={"method": theirs}, may_want_moments=True)

    @property
    def is_foreign(self) -> bool:
        """Whether it is EasyEdit's."""
        return self.startswith(EASYEDIT)

    @property
    def settings_class(self) -> Any:
        """The class of its settings, or None."""
        if not isinstance(self.settings, str):
            return self.settings
        module, _, name = self.settings.partition(":")
        return getattr(import_module(module), name)


def _add(name: str, target: str, settings: str, text: str, **traits: Any) -> EditMethod:
    module = f"{_HERE}.{target.partition(':')[0]}"
    settings = f"{module}:{settings}"
    return EditMethod.add(name, f"{_HERE}.{target}", text, settings=settings, **traits)


EditMethod.ROME = _add(
    *("rome", "rome:rome", "RomeSettings", "one fact in one MLP, with R-ROME's keys"),
    needs_moments=True,
    one_request=True,
)
EditMethod.ROME_ORIGINAL = _add(
    *("rome-original", "rome:rome", "RomeSettings", "ROME as its own code has it"),
    preset={"keys": "original", "value": {"kl_position": "subject"}},
    needs_moments=True,
    one_request=True,
)
EditMethod.MEMIT = _add(
    *("memit", "memit:memit", "MemitSettings", "many facts over several MLPs"),
    needs_moments=True,
)
EditMethod.EMMET = _add(
    *("emmet", "memit:memit", "MemitSettings", "many facts in one MLP, each reached exactly"),
    preset={"covariance_weight": 0.0},
    needs_moments=True,
)
EditMethod.ALPHAEDIT = _add(
    *("alphaedit", "alphaedit:alphaedit", "AlphaEditSettings", "MEMIT where keys are unused"),
    needs_moments=True,
    protects_earlier=True,
)
EditMethod.FT_L = _add(
    *("ft-l", "finetune:fine_tune", "FineTuneSettings", "fine-tuning, read at the prompt's end"),
    preset={"at_prompt_only": True},
)
EditMethod.FT_M = _add(
    *("ft", "finetune:fine_tune", "FineTuneSettings", "fine-tuning, each token from those before"),
)
EditMethod.CAKE = _add(
    *("cake", "cake:cake", "CakeSettings", "LoRA on sentences that use the fact early and late"),
)
EditMethod.CAKE_CIRCUIT = _add(
    *("cake-circuit", "cake:cake", "CakeSettings", "CaKE in the layers of the fact's circuit"),
    at_circuit=True,
)
EditMethod.CAKE_STATED = _add(
    *("cake-stated", "cake:cake", "CakeSettings", "CaKE's LoRA on the stated fact alone"),
    preset={"uses": ("stated",)},
)
EditMethod.DINM = _add(
    *("dinm", "dinm:dinm", "DinmSettings", "the layer where safe and unsafe answers part, tuned"),
)
EditMethod.DINM_EASYEDIT = _add(
    *("dinm-easyedit", "dinm:dinm", "DinmSettings", "DINM as EasyEdit's code has it"),
    preset={"shipped": True},
)
