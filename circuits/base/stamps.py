"""What every JSON object of this project begins with: which form it has, and of which version.

The forms are published as JSON Schemas (`circuits.files.schemas`, `kc schema`). A field may be
added within a version; the number grows where one goes, or comes to mean something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 1
SCHEMA, SCHEMA_VERSION, SAYS = "schema", "schema_version", "says"


def stamped(schema: str, record: Mapping[str, Any], says: str | None = None) -> dict[str, Any]:
    """The record with the name of its schema and the version before it, and what was found."""
    told = {} if says is None else {SAYS: says}
    return {SCHEMA: schema, SCHEMA_VERSION: VERSION, **told, **record}
