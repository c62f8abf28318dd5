"""A headless Chromium for tests; without one, they are skipped with the reason."""

from __future__ import annotations

from circuits.base.errors import OptionError
from experiments.workshop.screens import find_browser, open_browser, served

__all__ = ["open_browser", "served", "why_no_browser"]


def why_no_browser() -> str:
    """Empty where there is a browser with its driver, else the reason why not."""
    try:
        find_browser()
    except OptionError as error:
        return str(error)
    return ""
