"""A report as one self-contained HTML page and as Markdown; the index of a run of all analyses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from circuits.base.glossary import Marker
from circuits.base.intervals import Interval
from circuits.base.options import as_dict, meanings
from circuits.model.packaged import embedded_models
from experiments.analyses.engine import config as options
from experiments.analyses.engine.base import Figure, Run
from experiments.analyses.engine.claims import FEWEST
from experiments.analyses.engine.tables import Table, shown

PAGES = Path(__file__).parent / "pages"
PIXELS_PER_POINT = 1.7
"""How large pictures stand on the page: a journal page's width fills the column."""
FEW = f"A mean of fewer than {FEWEST} values has no interval, in tables and pictures too."


def html_page(run: Run, folder: Path) -> str:
    """The page, with its figures inside: it needs no other file and no network."""

    def picture(figure: Figure) -> Markup:
        svg = (folder / "figures" / f"{figure.name}.svg").read_text(encoding="utf-8")
        return Markup(inline_svg(svg, figure.name, figure.caption))

    page, marker = _environment().get_template("report.html.j2"), Marker()
    return page.render(
        mark=marker.html,
        terms=marker.html_section,
        run=run,
        analysis=run.analysis,
        report=run.report,
        method=(*run.report.method, FEW),
        caveats=caveats(run),
        origin=origin_rows(run),
        options=option_rows(run.config),
        picture=picture,
        cell=_cell,
    )


def index_page(runs: Sequence[Run], left_out: Mapping[str, str]) -> str:
    """One page that leads to all reports of a run."""
    page, marker = _environment().get_template("index.html.j2"), Marker()
    model = runs[0].model
    caution = small_model(model)
    return page.render(
        runs=runs,
        left_out=left_out,
        model=model,
        caution=caution,
        mark=marker.html,
        terms=marker.html_section,
    )


def markdown_page(run: Run) -> str:
    """The same in Markdown; figures are links."""
    analysis, report, skipped = run.analysis, run.report, run.parts.skipped
    mark = (marker := Marker()).markdown
    lines = [f"# {analysis.title}: {run.model}", "", f"*{analysis.question}*", ""]
    lines += [mark(report.lead), ""]
    lines += [f"- {mark(claim.sentence)}" for claim in report.answer]
    lines += ["", *caveats(run)]
    for section in report.sections:
        lines += ["", f"## {section.title}", ""]
        lines += [mark(section.text), ""] if section.text else []
        lines += [f"- {mark(claim.sentence)}" for claim in section.claims]
        for table in [each for each in section.tables if not each.stored_only]:
            lines += ["", table.markdown(mark).rstrip()]
        for figure in section.figures:
            lines += ["", f"![{figure.name}](figures/{figure.name}.svg)", "", figure.caption]
    lines += ["", *marker.markdown_section(), "", "## How it was done", ""]
    lines += [f"{paragraph}\n" for paragraph in (*report.method, FEW)]
    if skipped:
        lines += ["Left out:", ""]
        lines += [f"- {key}: {reason}" for key, reason in skipped.items()] + [""]
    lines += [f"- {name}: {value}" for name, value in origin_rows(run)]
    lines += ["", "```yaml", options.as_yaml(run.config).rstrip(), "```", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def caveats(run: Run) -> list[str]:
    """What a reader should know before believing the numbers."""
    found, skipped = [text] if (text := small_model(run.model)) else [], run.parts.skipped
    if skipped:
        total = len(skipped) + len(run.parts.values)
        found.append(f"{len(skipped)} of {total} units could not be looked at; see the foot.")
    return found


def small_model(name: str) -> str:
    """A caution for the models that ship with the package; nothing for others."""
    base = name.partition("@")[0]
    if base not in embedded_models():
        return ""
    return (
        f"{base} is a small model trained on the atlas's facts and on nothing else; what holds in "
        "it need not hold in large pretrained models."
    )


def origin_rows(run: Run) -> list[tuple[str, str]]:
    """Where the numbers come from, as names and values."""
    provenance, model = run.provenance, str(run.provenance["model"])
    if provenance.get("revision"):
        model += f" at {provenance['revision']}"
    seconds = shown(provenance["seconds_computing"], 0)
    return [
        ("model", model),
        ("weights", f"sha256 {provenance['weights_sha256']}, {provenance['dtype']}"),
        *([("patched", "; ".join(patches))] if (patches := provenance.get("patched")) else []),
        ("facts", str(provenance["facts"])),
        ("seed", str(provenance["seed"])),
        ("units", f"{len(run.parts.values)}, {seconds} s to compute"),
        ("versions", ", ".join(f"{k} {v}" for k, v in provenance["versions"].items())),
        ("code", str(provenance["commit"] or "installed package")),
        ("made", str(provenance["created"])),
    ]


def option_rows(config: Any) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every option."""
    known = meanings(config)
    return [
        (name, options.option_text(value), known[name].text)
        for name, value in as_dict(config).items()
    ]


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """An SVG file as an element of a page: no prolog, ids of its own, its caption as its name."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r"<title>.*?</title>", "", element, flags=re.DOTALL)
    mark = re.sub(r"\W", "-", prefix)
    element = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', element)
    element = re.sub(r'((?:xlink:)?href)="#([^"]+)"', rf'\1="#{mark}-\2"', element)
    element = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", element)
    size = re.search(r'<svg[^>]*?\bwidth="([\d.]+)pt"', element)
    limit = f' style="max-width: {float(size[1]) * PIXELS_PER_POINT:.0f}px"' if size else ""
    named = f'<svg role="img" aria-label="{Markup.escape(label)}"{limit}'
    return element.replace("<svg", named, 1)


def tied(text: str) -> str:
    """Text whose lines do not break between a number and its % sign, nor around `n = 5`."""
    return re.sub(r"\bn = (?=\d)", "n\u00a0=\u00a0", text.replace(" %", "\u00a0%"))


def _cell(table: Table, column: str, cell: Any) -> Markup:
    """A table's cell; an interval's limits stand below its value."""
    if isinstance(cell, Interval):
        value, bracket, limits = table.shown(column, cell).partition(" [")
        small = f'<span class="limits">[{limits}</span>' if bracket else ""
        return Markup(Markup.escape(value) + Markup(small))
    return Markup.escape(table.shown(column, cell))


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["tied"] = tied
    return found
