"""What holds JSON to its published form: every object that a test prints or writes goes through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from circuits.files.schemas import schema


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


def check_form(value: Mapping[str, Any]) -> None:
    """AssertionError, with the place, where an object is not of the form that it names."""
    for error in _validator(value["schema"]).iter_errors(value):
        place = "/".join(map(str, error.absolute_path))
        raise AssertionError(f"{value['schema']} at {place or 'the top'}: {error.message:.300}")


def checked(to_json: Any) -> Any:
    """`to_json`, which refuses an object that names a form and is not of it."""

    def held(value: Any, indent: int | None = None) -> str:
        text: str = to_json(value, indent)
        if isinstance(value, Mapping) and "schema" in value and "schema_version" in value:
            check_form(json.loads(text))
        return text

    return held
