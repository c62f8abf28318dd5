"""What `kc run --list` says of each analysis, without importing what runs it.

Of our own it stands in `listing.json`, which a test holds to the analyses; `python -m
experiments.analyses.engine.listing` writes it again. Those of plugins are there already.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.options import as_dict, meanings
from experiments.analyses.engine.config import option_text
from experiments.analyses.engine.registry import analysis, is_ours, names

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Analysis

STORED = Path(__file__).parent / "listing.json"


def listing() -> list[dict[str, Any]]:
    """A record an analysis: name, title, question, and each option with default and meaning."""
    stored = _stored()
    return [stored.get(name) or listed(analysis(name)) for name in names()]


def listed(found: Analysis) -> dict[str, Any]:
    """The record, from the analysis itself."""
    known = meanings(found.config)
    options = [
        {"name": name, "default": option_text(value), "meaning": known[name].text}
        for name, value in as_dict(found.config()).items()
    ]
    told = {"name": found.name, "title": found.title, "question": found.question}
    return {**told, "options": options}


@cache
def _stored() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(STORED.read_text(encoding="utf-8"))}


def _write() -> None:
    found = [listed(analysis(name)) for name in names() if is_ours(name)]
    STORED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
