"""Results as one static HTML file: what can be read, hovered, clicked and filtered without a model.

`write` makes the file. It holds everything it needs (plotly.js too, unless `cdn` has the reader's
browser fetch that from plotly's host), so that it works from a disk, offline, in an iframe of a
notebook and on a blog. Text from models and files reaches it as text alone: templates escape it,
data stands in a block of JSON, and the script writes text nodes.

`viz.page.results` makes a section of a result, `viz.page.document` a page of sections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuits.base.places import check_extra
from circuits.base.writing import atomic_write

__all__ = ["write"]


def write(result: Any, path: str | Path, *, title: str = "", cdn: bool = False) -> None:
    """Write a result, several, or the results of a folder (a path) as one page.

    The file takes about 5 MB, nearly all of it plotly.js; with `cdn` some 100 kB, and then it needs
    the network to draw. OptionError for what has no page, or a folder without results.
    """
    check_extra("notebook", "a page", "plotly")
    from viz.page.document import document
    from viz.page.results import sections

    found = sections(result)
    atomic_write(path, document(found, title or found[0].title, cdn=cdn))
