"""Methods as papers write them."""

from __future__ import annotations

_NAMES = {
    "rome": "ROME",
    "memit": "MEMIT",
    "emmet": "EMMET",
    "ft": "FT-M",
    "ft-l": "FT-L",
    "alphaedit": "AlphaEdit",
    "cake": "CaKE",
    "cake-circuit": "CaKE at the circuit",
    "cake-stated": "CaKE, stated fact alone",
    "ga": "GA",
    "ga-gd": "GA+GD",
    "ga-kl": "GA+KL",
    "memflex": "MemFlex",
    "npo": "NPO",
    "simnpo": "SimNPO",
    "rmu": "RMU",
}


def named(method: str) -> str:
    """A method of editing or unlearning in words; its own name where papers have none."""
    return _NAMES.get(method, method)
