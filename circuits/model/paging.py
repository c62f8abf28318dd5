"""A model whose weights stay in a file: in memory is what a pass is looking at.

The weights are the mapped file itself (`circuits.model.mapped.WeightFile`), so whoever reads or
writes one, a method or an edit, does so as always, to the last bit. What is added here is only that
pages are let go of: of the weights used, the last ones stay, and those that the user has room for.
"""

from __future__ import annotations

import mmap
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.base.sizes import bytes_of
from circuits.model.mapped import WeightFile

RECENT_BYTES = 64 * 2**20
"""Of the weights used last, which stay beside those there is room for."""


@dataclass(frozen=True)
class DeviceMap:
    """Where weights stay: `memory` bytes of them in memory, all others in a file."""

    memory: int = 0

    @classmethod
    def of(cls, value: str | DeviceMap | None, device: torch.device) -> DeviceMap | None:
        """From `disk` or `cpu=SIZE,disk`; OptionError, by name, for what cannot be done."""
        if value is None or isinstance(value, DeviceMap):
            return value
        places = [part.strip() for part in str(value).split(",")]
        if places[0] == "auto" or re.match(r"(cuda|mps|balanced|sequential)", places[0]):
            raise OptionError(
                f"`device_map` {value!r:.40} is not covered: a model is run on one device, which "
                "`device` names; what is covered is disk, or cpu=SIZE,disk"
            )
        found = re.fullmatch(r"(?:cpu=([^,]*),)?disk", ",".join(places))
        if found is None:
            raise OptionError(
                f"`device_map` is disk, or cpu=SIZE,disk such as cpu=2GiB,disk, not {value!r:.40}"
            )
        if device.type != "cpu":
            raise OptionError(
                f"`device_map` {value!r:.40} goes with `device` cpu: on {device} all weights are "
                "on the device"
            )
        if not hasattr(mmap, "MADV_DONTNEED"):
            raise OptionError("`device_map` needs Linux or macOS")
        return cls(bytes_of("device_map", found[1]) if found[1] is not None else 0)


class Paging:
    """Which pages of a model's weights are in memory. Without files it does nothing."""

    def __init__(self, files: Iterable[WeightFile] = (), memory: int = 0) -> None:
        self._files = list(files)
        self._memory = memory
        self._kept: set[tuple[int, int]] = set()
        self._recent: OrderedDict[tuple[int, int], int] = OrderedDict()

    @property
    def active(self) -> bool:
        """Whether there are weights in a file."""
        return bool(self._files)

    def take(self, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        """Have these parameters in files as well; as many as there is room for stay in memory.

        The first ones go first, which are those of every pass and of the first layers: whatever
        order weights are given room in, each pass reads all others again.
        """
        if not self.active:
            return
        parameters = list(parameters)
        own = {id(each): (name, each) for name, each in parameters if self._find(each) is None}
        if own:
            file = WeightFile.of((name, each.data) for name, each in own.values())
            for name, parameter in own.values():
                parameter.data = file.weights[name]
            self._files.append(file)
        left = self._memory
        for _, parameter in parameters:
            found = self._find(parameter)
            size = parameter.nbytes
            if found is not None and found not in self._kept and size <= left:
                self._kept.add(found)
                left -= size

    def holds(self, value: Tensor) -> bool:
        """Whether this is a weight, or part of one, that is in a file."""
        return self._find(value) is not None

    def use(self, value: Tensor) -> Tensor:
        """The weight, or part of one, that is about to be read; older ones make room."""
        found = self._find(value)
        if found is not None and found not in self._kept:
            self._recent.pop(found, None)
            file, place = found
            self._recent[found] = self._files[file].nbytes(place)
            while len(self._recent) > 1 and sum(self._recent.values()) > RECENT_BYTES:
                (file, place), _ = self._recent.popitem(last=False)
                self._files[file].release(place)
        return value

    def reading(self, module: Any) -> Any:
        """The module whose weights, with those of its parts, are about to be read."""
        if self.active:
            for parameter in module.parameters():
                self.use(parameter)
        return module

    def watch(self, root: torch.nn.Module) -> None:
        """Have every module of a model say that it is about to read its weights.

        It does so as well when its gradients are asked for.
        """
        if not self.active:
            return
        for module in root.modules():
            if any(each is not None for each in module._parameters.values()):
                module.register_forward_pre_hook(self._before)
                module.register_forward_hook(self._after)

    def _before(self, module: torch.nn.Module, given: Any) -> None:
        for parameter in module._parameters.values():
            if parameter is not None:
                self.use(parameter)

    def _after(self, module: torch.nn.Module, given: Any, output: Any) -> None:
        # Hooks on saved tensors would do, but keep what no backward pass went through for ever.
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(partial(self._before, module))

    def _find(self, value: Tensor) -> tuple[int, int] | None:
        for index, file in enumerate(self._files):
            place = file.place(value)
            if place is not None:
                return index, place
        return None
