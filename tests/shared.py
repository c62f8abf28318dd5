"""Public data beside the checkout, for optional tests; the project does not need it."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def shared_data(*parts: str) -> Path:
    """A path under `../shared/data`; the test is skipped where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"optional public data is absent: {Path('..', 'shared', 'data', *parts)}")
    return path
