"""The figures of reports that `kc run` wrote, drawn again from the units stored beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.origin import SUMMARY
from circuits.base.records import read_json
from experiments.cli.drawing import PASSED_OVER, Look, Stored, common_folder, prefix_of

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Run

KIND = "run"


@dataclass(frozen=True)
class RunFigure:
    """One figure of a report: the run's folder and analysis, and the figure's name there."""

    stored: Stored
    analysis: str
    figure: str
    kind: str = KIND

    @property
    def name(self) -> str:
        """The figure's file name without suffix: folders, analysis, figure."""
        folder = self.stored.prefix
        own = folder.endswith(f"{self.analysis}-")
        return f"{folder}{'' if own else f'{self.analysis}-'}{self.figure}"

    @property
    def shows(self) -> str:
        """What it shows, in words."""
        return f"{self.figure} of the report on {self.analysis}"

    def drawings(self, look: Look) -> Iterator[Callable[[Path], Any]]:
        """The function that draws it."""
        run = _reread(self.analysis, self.stored.path, look.label)
        for each in run.report.figures:
            if each.name == self.figure:
                drawn = each.at(look.width)
                yield lambda target, drawn=drawn: drawn.draw(target, run.provenance)


@lru_cache(maxsize=1)
def _reread(name: str, folder: Path, label: str | None) -> Run:
    """The run, once for all of its figures, which follow each other."""
    from experiments.analyses.engine.registry import analysis
    from experiments.analyses.engine.running import reread

    return reread(analysis(name), folder, label)


def find_runs(paths: Sequence[Path]) -> list[RunFigure]:
    """The figures of the runs that lie in folders and within them, in order."""
    base = common_folder(paths)
    found = []
    for folder in (path for path in paths if path.is_dir()):
        for path in sorted(folder.rglob(SUMMARY)):
            within = path.relative_to(folder).parts[:-1]
            if any(part.startswith(".") or part in PASSED_OVER for part in within):
                continue
            name, figures = _of_run(path)
            place = Stored(path.parent, KIND, prefix_of(path.parent, base))
            found += [RunFigure(place, name, figure) for figure in figures]
    return found


def _of_run(path: Path) -> tuple[str, list[str]]:
    """The analysis whose summary this is, and its figures; none where it is no run's."""
    try:
        content = read_json(path)
        written = [Path(str(each)) for each in content["written"]]
        name = str(content["provenance"]["analysis"])
    except (FileFormatError, OptionError, ValueError, KeyError, TypeError):
        return "", []
    drawn = [each.stem for each in written if each.parent.name == "figures"]
    return name, list(dict.fromkeys(drawn))
