"""Pictures of results: on paper, on the screen, as a page in one file, in the app.

`offer` has results draw themselves (`plot`, `explore`, `save` to .html, the pictures beside a saved
discovery) without the rooms below knowing who draws; nothing is imported before a picture is asked
for.
"""

from __future__ import annotations

from circuits.base.display import install


def offer() -> None:
    """Let results draw themselves from now on."""
    install("figure", "viz.screen:figure")
    install("draw", "viz.paper:draw")
    install("page", "viz.page:write")
    install("explore", "viz.app:explore")
