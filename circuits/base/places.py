"""Places outside the package: the user's cache folder, and packages that an extra brings."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from circuits.base.errors import MissingExtraError


def user_cache(name: str) -> Path:
    """The folder `name` in `$XDG_CACHE_HOME/knowledge-circuits`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "knowledge-circuits" / name


def check_extra(extra: str, purpose: str, *packages: str) -> None:
    """MissingExtraError, which names the extra to install, where one of its packages is absent."""
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        raise MissingExtraError(
            f"{purpose} needs {absent[0]}, which is not installed; "
            f"pip install 'knowledge-circuits[{extra}]'"
        )
