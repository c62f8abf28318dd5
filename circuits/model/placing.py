"""Where the weights of a model stay that are not all on the device that runs it."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass

import torch

from circuits.base.errors import OptionError
from circuits.base.sizes import bytes_of
from circuits.model.tensors import parse_device

ON_DEVICE, ON_OTHERS = 0.5, 0.9
"""Of a GPU's free memory, what `auto` gives to weights: there passes need the rest."""


@dataclass(frozen=True)
class DeviceMap:
    """Places that are filled with weights one after the other, and where all others stay.

    A room is a device and its bytes; `rest` is a device, or None for a file.
    """

    rooms: tuple[tuple[torch.device, int], ...] = ()
    rest: torch.device | None = None

    @classmethod
    def of(cls, value: str | DeviceMap | None, device: torch.device) -> DeviceMap | None:
        """From text such as `cpu=2GiB,disk`, or `auto`, for a model that this device runs.

        OptionError, by name, for what cannot be done.
        """
        if value is None or isinstance(value, DeviceMap):
            return value
        places = [part.strip() for part in str(value).split(",")]
        shown = f"`device_map` {value!r:.40}"
        if device.type == "cpu":
            return cls._of_file(places, shown)
        if device.type != "cuda":
            raise OptionError(f"{shown} goes with `device` cpu or cuda, not with {device}")
        if places == ["auto"]:
            return cls._of_free_memory(device)
        return cls._of_places(places, shown)

    @property
    def has_file(self) -> bool:
        """Whether weights may stay in a file."""
        return self.rest is None

    @classmethod
    def _of_file(cls, places: list[str], shown: str) -> DeviceMap:
        """Of a model that the processor runs."""
        if places == ["auto"] or any(each.startswith(("cuda", "mps")) for each in places):
            raise OptionError(
                f"{shown} goes with `device` cuda; on the processor it is disk, or cpu=SIZE,disk"
            )
        found = re.fullmatch(r"(?:cpu=([^,]*),)?disk", ",".join(places))
        if found is None:
            raise OptionError(
                f"`device_map` is disk, or cpu=SIZE,disk such as cpu=2GiB,disk, not "
                f"{','.join(places)!r:.40}"
            )
        _check_maps()
        size = bytes_of("device_map", found[1]) if found[1] is not None else 0
        return cls(((torch.device("cpu"), size),))

    @classmethod
    def _of_places(cls, places: list[str], shown: str) -> DeviceMap:
        """Of a model that a GPU runs: each place but the last with its size."""
        rooms: list[tuple[torch.device, int]] = []
        *firsts, last = places
        for each in firsts:
            name, _, size = each.partition("=")
            rooms.append((_place(name, shown), bytes_of("device_map", size)))
        rest = None if last == "disk" else _place(last, shown)
        named = [place for place, _ in rooms] + [rest]
        if len(set(named)) < len(named):
            raise OptionError(f"{shown} names a place twice")
        if rest is None:
            _check_maps()
        return cls(tuple(rooms), rest)

    @classmethod
    def _of_free_memory(cls, device: torch.device) -> DeviceMap:
        """The device that runs the model first, then other GPUs, then the processor's memory."""
        own = indexed(device)
        every = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        ordered = [own, *(each for each in every if each != own)]
        rooms = [
            (each, int(torch.cuda.mem_get_info(each)[0] * (ON_OTHERS if place else ON_DEVICE)))
            for place, each in enumerate(ordered)
        ]
        return cls(tuple(rooms), torch.device("cpu"))


def indexed(device: torch.device) -> torch.device:
    """The device by its number: cuda alone is the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _place(name: str, shown: str) -> torch.device:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise OptionError(
            f"{shown} is auto, or places such as cuda:0=20GiB,cuda:1=20GiB,cpu: each of cuda:N and "
            "cpu with its size, and the last one, which is one of them or disk, without"
        )
    return indexed(parse_device(name))


def _check_maps() -> None:
    if not hasattr(mmap, "MADV_DONTNEED"):
        raise OptionError("`device_map` with disk needs Linux or macOS")
