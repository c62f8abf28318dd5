"""Pictures of results: on paper, on the screen, as a page in one file, in the app.

`offer` has results draw themselves (`plot`, `explore`, `save` to .html, the pictures beside a saved
discovery) and begin with the sentence of `locate.looks.says`, without the rooms below knowing who
does; nothing is imported before it is asked for.
"""

from __future__ import annotations

from circuits.base.display import install


def offer() -> None:
    """Let results draw themselves, and say in a sentence what was found, from now on."""
    install("says", "locate.looks.says:says")
    install("figure", "viz.screen:figure")
    install("draw", "viz.paper:draw")
    install("page", "viz.page:write")
    install("explore", "viz.app:explore")
