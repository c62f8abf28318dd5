"""`kc glossary`: what the words of reports and pages mean."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from circuits.base.stamps import stamped
from experiments.cli import options as o
from experiments.cli.console import Console

WIDTH = 96

TermName = Annotated[
    str | None, typer.Argument(metavar="TERM", help="One term, as a page spells it; default all.")
]


def glossary(*, term: TermName = None, as_json: o.AsJson = False) -> None:
    """What a term of reports and pages means, in a sentence; without a TERM all there are."""
    console = Console(as_json)
    from circuits.base.glossary import find_term
    from circuits.base.glossary import glossary as known

    terms = list(known().values()) if term is None else [find_term(term)]
    for each in terms:
        lines = textwrap.wrap(each.says, WIDTH, initial_indent="  ", subsequent_indent="  ")
        console.say("\n".join([each.name, *lines]))
    records = [{"term": each.name, "forms": each.forms, "means": each.says} for each in terms]
    console.result(stamped("glossary", {"terms": records}))
