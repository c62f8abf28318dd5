"""Python files of a user's own, which register metrics, locators and whatever else is open.

A file is run once, under a module name of its own; what it defines becomes known by the functions
that it calls itself, such as `Metric.add`. Installed packages offer plugins as entry points of the
group `knowledge_circuits.plugins`: a module, imported, or a function, called. Results record which
plugins were loaded when they were made.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from circuits.base.choices import Open
from circuits.base.errors import FileFormatError, OptionError

GROUP = "knowledge_circuits.plugins"


@dataclass(frozen=True)
class Plugin:
    """A plugin that was loaded: a file's name and hash, or a package's name and version."""

    name: str
    sha256: str | None = None
    version: str | None = None


_loaded: dict[str, Plugin] = {}
_tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
"""Tables that plugins add to, each with what it held when it was made."""


def open_table(table: dict[Any, Any]) -> dict[Any, Any]:
    """The table itself, whose rows of a plugin that fails are taken back from now on."""
    _tables.append((table, dict(table)))
    return table


def load_plugin(path: str | Path) -> Plugin:
    """Run the file, unless that was done before; nothing that it registers stays if it fails.

    FileFormatError names the file and the line of a mistake in it, OptionError a file that was
    changed since it was run.
    """
    path = Path(path).expanduser().resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FileFormatError(path, error.strerror or "cannot be read") from None
    plugin = Plugin(path.name, sha256(source).hexdigest())
    known = _loaded.get(str(path))
    if known is not None and known != plugin:
        raise OptionError(f"{path} was changed since it was loaded; start Python anew")
    if known is None:
        name = f"kc_plugin_{path.stem}_{plugin.sha256}"
        _registering(lambda: _run(name, path), name)
        _loaded[str(path)] = plugin
    return plugin


def load_installed() -> tuple[Plugin, ...]:
    """Load the plugins that installed packages offer; OptionError names one that fails."""
    for point in entry_points(group=GROUP):
        if point.value in _loaded:
            continue
        try:
            _registering(lambda point=point: _enter(point))
        except Exception as error:
            reason = _in_a_line(error)
            raise OptionError(f"the installed plugin {point.name!r} fails: {reason}") from None
        version = point.dist.version if point.dist is not None else None
        _loaded[point.value] = Plugin(point.name, version=version)
    return loaded()


def loaded() -> tuple[Plugin, ...]:
    """The plugins loaded so far, in order."""
    return tuple(_loaded.values())


def loaded_files() -> tuple[str, ...]:
    """The paths of the files among them, for another process to load."""
    return tuple(path for path, plugin in _loaded.items() if plugin.sha256 is not None)


def record() -> dict[str, Any]:
    """For provenance: the plugins loaded; nothing where there are none."""
    found = [
        {key: value for key, value in asdict(each).items() if value is not None}
        for each in loaded()
    ]
    return {"plugins": found} if found else {}


def _enter(point: EntryPoint) -> None:
    found = point.load()
    if callable(found):
        found()


def _run(name: str, path: Path) -> None:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileFormatError(path, "is no Python file: its name must end with .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and `inspect` look for what it defines
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise FileFormatError(error.filename or path, error.msg, error.lineno) from None
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        raise FileFormatError(path, _in_a_line(error), lines[-1] if lines else None) from None


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _registering(load: Callable[[], None], module: str | None = None) -> None:
    """Load; where that fails, every open choice and table is as it was before.

    A choice that is first imported meanwhile keeps those that come with this project.
    """
    choices = {kind: dict(kind._known) for kind in Open.__subclasses__()}
    tables = {id(table): dict(table) for table, _ in _tables}
    try:
        load()
    except BaseException:
        for kind in Open.__subclasses__():
            ours = {name: each for name, each in kind._known.items() if not each.is_own}
            kind._known = choices.get(kind, ours)
        for table, at_first in _tables:
            rows = tables.get(id(table), at_first)
            table.clear()
            table.update(rows)
        if module is not None:
            sys.modules.pop(module, None)
        raise
