"""A model whose weights are not all where it runs: there is what a pass is looking at.

On the processor the weights are a mapped file itself (`circuits.model.mapped.WeightFile`), so
whoever reads or writes one, a method or an edit, does so as always, to the last bit; pages are let
go of, of which the last ones stay, and those that the user has room for.

On a GPU they may be in the memory of other GPUs or of the processor, or in such a file, and are
copied to the GPU where they are read. One GPU computes everything, so no method knows of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

from circuits.model.mapped import WeightFile
from circuits.model.placing import DeviceMap, indexed
from circuits.model.recomputing import is_recomputing

RECENT_BYTES = 64 * 2**20
"""Of the weights used last, which stay beside those there is room for."""

RECENT_COPIES = 512 * 2**20
"""The same on a GPU, of weights whose place is elsewhere."""


class _Saved(NamedTuple):
    """What a backward pass needs of a weight: not its copy, but which one and what part of it."""

    weight: Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


class Paging:
    """Which of a model's weights are where it runs. Without a map it does nothing."""

    def __init__(
        self,
        placing: DeviceMap | None = None,
        device: torch.device | str = "cpu",
        files: Iterable[WeightFile] = (),
    ) -> None:
        self._placing, self._device = placing, indexed(torch.device(device))
        self._files = list(files)
        self._kept: set[tuple[int, int]] = set()
        self._recent: OrderedDict[tuple[int, int], int] = OrderedDict()
        # Weights that are elsewhere, by where they begin, and copies of those used last.
        self._homes: dict[tuple[torch.device, int], tuple[Tensor, torch.device | None]] = {}
        self._copies: OrderedDict[tuple[torch.device, int], tuple[int, Tensor]] = OrderedDict()
        self._lent: dict[int, list[tuple[dict[str, Any], saved_tensors_hooks | None]]] = {}
        self._brings = placing is not None and (
            placing.rest is not None or self._device.type != "cpu"
        )

    @property
    def active(self) -> bool:
        """Whether there are weights that a pass has to bring first."""
        return bool(self._files or self._homes)

    def take(self, root: torch.nn.Module) -> None:
        """Give every parameter of a model its place, and have its modules bring what they read.

        Places are filled in the order of the parameters, the first ones first, which are those of
        every pass and of the first layers: whatever order weights are given room in, each pass
        brings all others again. Vectors, which are small and read everywhere, are where the model
        runs, and so are buffers.
        """
        if self._placing is None:
            return
        parameters = list(root.named_parameters())
        self._to_file(parameters)
        places = [place for place, _ in self._placing.rooms]
        left = [size for _, size in self._placing.rooms]
        for _, parameter in parameters:
            size = parameter.nbytes
            room = next((each for each, free in enumerate(left) if size <= free), None)
            if self._brings and parameter.ndim < 2:
                self._put(parameter, self._device)
            elif room is None:
                self._put(parameter, self._placing.rest)
            else:
                left[room] -= size
                self._put(parameter, places[room])
        for module in root.modules():
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = value.to(self._device)
        self.watch(root)

    def _to_file(self, parameters: list[tuple[str, torch.nn.Parameter]]) -> None:
        """Those that are in no file yet, if there is one."""
        own = {id(each): (name, each) for name, each in parameters if self._find(each) is None}
        if self._files and own:
            file = WeightFile.of((name, each.data) for name, each in own.values())
            for name, parameter in own.values():
                parameter.data = file.weights[name]
            self._files.append(file)

    def _put(self, parameter: torch.nn.Parameter, place: torch.device | None) -> None:
        found = self._find(parameter)
        in_file = found is not None and place in (None, torch.device("cpu"))
        if found is not None and place == torch.device("cpu"):
            self._kept.add(found)
        if place is not None and not in_file:
            self._page(parameter)
            parameter.data = carried(parameter.data, place)
        if self._brings and place != self._device:
            self._homes[_begin(parameter)] = (parameter, place)

    def holds(self, value: Tensor) -> bool:
        """Whether this is a weight, or part of one, that is in a file."""
        return self._find(value) is not None

    def use(self, value: Tensor) -> Tensor:
        """The weight that is about to be read, or a copy of it here; older ones make room."""
        home = self._homes.get(_begin(value)) if self._homes else None
        copy = None if home is None else self._copy(home[0])
        self._page(value)
        return value if copy is None else copy

    def _page(self, value: Tensor) -> None:
        """Note that pages of a file are used, and let go of those used before."""
        found = self._find(value)
        if found is not None and found not in self._kept:
            self._recent.pop(found, None)
            file, place = found
            self._recent[found] = self._files[file].nbytes(place)
            while len(self._recent) > 1 and sum(self._recent.values()) > RECENT_BYTES:
                (file, place), _ = self._recent.popitem(last=False)
                self._files[file].release(place)

    @torch.no_grad()
    def write(self, weight: Tensor, value: Tensor) -> None:
        """Overwrite a weight where it is."""
        _, place = self._homes.get(_begin(weight), (None, None))
        if place is not None:
            value = carried(value, place)
        self._page(weight)
        weight.copy_(value)

    @contextmanager
    def reading(self, module: Any) -> Iterator[Any]:
        """The module, whose weights, with those of its parts, are here within the block."""
        parts = list(module.modules()) if self.active else []
        for part in parts:
            self._before(part)
        try:
            yield module
        finally:
            for part in parts:
                self._after(part)

    def watch(self, root: torch.nn.Module) -> None:
        """Have every module of a model say that it is about to read its weights.

        It does so as well when its gradients are asked for.
        """
        if not self.active:
            return
        for module in root.modules():
            if any(each is not None for each in module._parameters.values()):
                module.register_forward_pre_hook(self._before)
                module.register_forward_hook(self._after, always_call=True)

    def _before(self, module: torch.nn.Module, given: Any = None) -> None:
        own = {name: each for name, each in module._parameters.items() if each is not None}
        here = {name: self.use(each) for name, each in own.items()}
        elsewhere = {name: each for name, each in own.items() if here[name] is not each}
        if not self._homes:
            return
        saving = self._saving(elsewhere, here)
        self._lent.setdefault(id(module), []).append((elsewhere, saving))
        module._parameters.update({name: here[name] for name in elsewhere})  # type: ignore[misc]
        if saving is not None:
            saving.__enter__()

    def _after(self, module: torch.nn.Module, given: Any = None, output: Any = None) -> None:
        if self._homes:
            if not self._lent.get(id(module)):  # it failed before anything was lent
                return
            elsewhere, saving = self._lent[id(module)].pop()
            module._parameters.update(elsewhere)
            if saving is not None:
                saving.__exit__()
        # Pages of a file are let go of while a backward pass is still to read them. Hooks on saved
        # tensors would do here too, but are not needed: the weight is the file.
        elif isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(partial(self._again, module))

    def _again(self, module: torch.nn.Module, gradient: Tensor) -> None:
        for each in module._parameters.values():
            if each is not None:
                self.use(each)

    def _saving(
        self, elsewhere: dict[str, Any], here: dict[str, Tensor]
    ) -> saved_tensors_hooks | None:
        """Have a backward pass bring these weights again, instead of keeping all their copies.

        Where blocks run again for it, there are never more copies than those of a block.
        """
        if not elsewhere or not torch.is_grad_enabled() or is_recomputing():
            return None
        homes = {here[name].untyped_storage()._cdata: home for name, home in elsewhere.items()}

        def pack(value: Tensor) -> Tensor | _Saved:
            home = homes.get(value.untyped_storage()._cdata)
            if home is None:
                return value.detach()  # what tracks its gradient would keep the graph for ever
            return _Saved(home, value.size(), value.stride(), value.storage_offset())

        def unpack(kept: Tensor | _Saved) -> Tensor:
            if not isinstance(kept, _Saved):
                return kept
            return self.use(kept.weight).as_strided(kept.size, kept.stride, kept.offset)

        return saved_tensors_hooks(pack, unpack)

    def _copy(self, home: Tensor) -> Tensor:
        """A weight that is elsewhere, here."""
        begin = _begin(home)
        version, copy = self._copies.pop(begin, (-1, None))
        if copy is None or version != home._version:
            with _disable_current_modes(), torch.no_grad():  # no part of what a pass is measured by
                copy = carried(home.detach(), self._device)
        self._copies[begin] = (home._version, copy)
        sizes = [each.nbytes for _, each in self._copies.values()]
        while len(self._copies) > 1 and sum(sizes) > RECENT_COPIES:
            self._copies.popitem(last=False)
            sizes.pop(0)
        return copy

    def _find(self, value: Tensor) -> tuple[int, int] | None:
        for index, file in enumerate(self._files):
            place = file.place(value)
            if place is not None:
                return index, place
        return None


def carried(value: Tensor, place: torch.device) -> Tensor:
    """The value at another place."""
    return value.to(place)


def _begin(value: Tensor) -> tuple[torch.device, int]:
    return value.device, value.data_ptr()
