"""The published forms of all JSON that this project prints and writes, as JSON Schemas.

Every such object names its form (`schema`) and the version (`schema_version`); `NAME.json` beside
this file is that form, of JSON Schema's draft 2020-12. What a form does not name may be there too:
fields are added within a version, and none goes or changes its meaning before the next.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from circuits.base.errors import OptionError

FOLDER = Path(__file__).parent


def schemas() -> dict[str, str]:
    """All forms by name, and what each is of."""
    return {name: str(schema(name)["title"]) for name in _names()}


def schema(name: str) -> dict[str, Any]:
    """One form, as JSON Schema; OptionError with the nearest name where there is none."""
    if name not in _names():
        near = get_close_matches(name, _names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_names())}"
        raise OptionError(f"there is no schema {name!r:.60}; {hint}")
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))
