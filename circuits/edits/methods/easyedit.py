"""Methods of an EasyEdit checkout (zjunlp/EasyEdit), run on a copy of the model.

EasyEdit is not on the package index: `EASYEDIT_HOME` names a checkout. Only its method's own
module is imported. Its packages' `__init__` files, which pull in hundreds of modules, are passed
over by empty stand-ins; they and everything imported from the checkout are gone afterwards, and
with them its process-wide caches. So is the module that would collect second moments over
Wikipedia: ours stand in its place (`circuits.edits.parts.foreign`). The edit is whatever differs
between the copy's weights and the model's, so that it does not matter what the method returns as
"original weights".
"""

from __future__ import annotations

import io
import os
import random
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch

from circuits.base.errors import EasyEditError, KnowledgeCircuitsError, OptionError, PromptError
from circuits.base.progress import Progress
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.parts.foreign import (
    Statistics,
    arguments,
    configure,
    difference,
    give_contexts,
    is_plain,
    plain_copy,
    record,
    tokenizer_for,
)
from circuits.edits.parts.moments import WantedMoments
from circuits.model.architectures import Positions
from circuits.model.model import Model

HOME = "EASYEDIT_HOME"
_SUFFIXES = (".yaml", ".yml", ".json")
_PACKAGES = tuple(
    f"easyeditor{part}" for part in ("", ".models", ".util", ".trainer", ".trainer.algs")
)
_UNUSED = ("matplotlib.style", "hydra", "nltk", "sklearn.manifold")
"""Imported by methods that never use them, so that a stand-in will do."""
READ_BY_UNKE = "Qwen2.5-7B-Instruct"
"""The name of model under which UnKE's code asks a layer for what transformers 5 has it take."""
_ADAPTERS = "it adds adapters beside them"
_MEMORY = "it adds a memory of edits beside them"
_PROMPT = "it puts demonstrations in front of the prompt"
_EDITOR = "it needs an editor network trained beforehand"
_DECODING = "it changes how the model is decoded"
CANNOT_RUN: Mapping[str, str] = {
    **dict.fromkeys(("lora", "qlora", "lorauns", "dpo"), _ADAPTERS),
    **dict.fromkeys(("grace", "melo", "wise", "defer", "tpatcher", "serac"), _MEMORY),
    **dict.fromkeys(("ike", "baseprompt"), _PROMPT),
    **dict.fromkeys(("mend", "malmen", "ke", "instructedit"), _EDITOR),
    **dict.fromkeys(("deepeditapi", "deco", "dola", "caa", "steering"), _DECODING),
    "ftapi": "it trains a model that a service holds",
    "simie": "it runs other methods through EasyEdit's whole package",
}
"""EasyEdit's methods whose edits are no values of ours, and why."""


def run_method(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int] | None,
    settings: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress | None = None,
    moments: WantedMoments | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """Run EasyEdit's method `settings["method"]` (as `ROME`) on a copy of the model.

    `hparams` of the settings is a YAML or JSON file of its hyperparameters; without one it is the
    checkout's own for a model of this name. `home` is the checkout, EASYEDIT_HOME without it.
    `contexts` are texts before the prompt, the first empty, in the place of those that it samples;
    `shrinkage` is that of second moments. All others are single hyperparameters; `device` and
    `model_name` are the model's. EasyEditError where the checkout is absent, lacks the method,
    fails, or its edit is no change of the weights.
    """
    given = dict(settings)
    name, hparams, home = (given.pop(key, None) for key in ("method", "hparams", "home"))
    contexts, shrinkage = (given.pop(key, None) for key in ("contexts", "shrinkage"))
    if layers is not None:
        given["layers"] = list(layers)
    root = find_home(home)
    folder = _find(root / "easyeditor" / "models", name, "method")
    if (reason := CANNOT_RUN.get(_plain(folder.name))) is not None:
        raise EasyEditError(f"EasyEdit's {name} is no change of the model's weights: {reason}")
    _check_kind(folder, model, name)
    path = Path(hparams) if hparams is not None else _own_hparams(root, folder.name, model)
    path = path.expanduser().resolve()
    records = [record(request, number) for number, request in enumerate(requests)]
    if _plain(folder.name) == "dinm" and not all(each["locality"] for each in records):
        raise PromptError(f"EasyEdit's {name} needs a probe of locality with each request")
    if _plain(folder.name).startswith("unke"):
        if len(requests) > 1:  # it takes the first row of what a layer returns for its first part
            raise OptionError(f"EasyEdit's {name} answers one request at a time here")
        given = {"model_name": READ_BY_UNKE, "ex_data_num": 1, **given}
    statistics = Statistics(model, moments)
    call = _Call(name, folder, path, given, contexts, shrinkage)
    with _imported(root, statistics), _seeded(generator.initial_seed(), model), _aside():
        edited, values, printed = _run(model, call, records, statistics)
    used = values.get("layers")
    provenance: dict[str, Any] = {
        "hparams_file": path.name,
        "settings": values,
        "layers": used if isinstance(used, list) else [],
    }
    if statistics.used:
        provenance["moments"] = dict(next(iter(statistics.used.values())))
    return WeightDelta(difference(model, edited, name), provenance), {"printed": printed}


def _check_kind(folder: Path, model: Model, name: str) -> None:
    """EasyEditError where a method's code takes models of other kinds only."""
    rotary = model.architecture.positions == Positions.HALVES
    if _plain(folder.name).startswith("unke") and not rotary:
        raise EasyEditError(f"EasyEdit's {name} runs layers as Llama and Qwen have them only")
    if _plain(folder.name) == "eamet" and model.architecture.transposed:
        raise EasyEditError(f"EasyEdit's {name} takes matrices held output by input only")


@dataclass(frozen=True)
class _Call:
    """A method as it was asked for: its folder, its file of hyperparameters, and what was set."""

    name: str
    folder: Path
    path: Path
    settings: Mapping[str, Any]
    contexts: Sequence[str] | None
    shrinkage: float | None


@contextmanager
def _hushed(printed: io.StringIO) -> Iterator[None]:
    """Within the block nothing is shown: neither what is printed, which is kept, nor warnings."""
    with redirect_stdout(printed), redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _aside() -> Iterator[None]:
    """Within the block the working directory is an empty one: methods leave files there.

    AlphaEdit would take a projection that it finds there for this model's, whosever it is.
    """
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def find_home(home: str | Path | None = None) -> Path:
    """The checkout; EasyEditError where there is none."""
    named = str(home) if home is not None else os.environ.get(HOME, "")
    if not named:
        raise EasyEditError(
            f"EasyEdit is not installed here: set {HOME} to a checkout of "
            "https://github.com/zjunlp/EasyEdit (it is not on the package index)"
        )
    root = Path(named).expanduser().resolve()
    if not (root / "easyeditor" / "models").is_dir():
        raise EasyEditError(
            f"{HOME}={named} is no checkout of EasyEdit: no easyeditor/models there"
        )
    return root


def method_names(home: Path) -> list[str]:
    """The methods of a checkout, as its folders are named."""
    folders = (home / "easyeditor" / "models").iterdir()
    return sorted(
        (each.name for each in folders if each.is_dir() and each.name[0] not in "_."), key=str.lower
    )


def _run(
    model: Model, call: _Call, records: list[dict[str, Any]], statistics: Statistics
) -> tuple[Any, dict[str, Any], str]:
    """The edited copy, the hyperparameters used, and the end of what was printed."""
    printed, name = io.StringIO(), call.name
    try:
        with _hushed(printed), torch.enable_grad():
            module = _module(call.folder, "main")
            apply = _apply(module, name)
            kind = _one(_module(call.folder, "hparams"), r"\w+H(yper)?[Pp]arams", name)
            values = configure(_read(kind, call.path, name), model, call.settings, name)
            statistics.settle(values, call.shrinkage, name)
            if call.contexts is not None:
                give_contexts(module, call.contexts, name)
            plain, tokenizer = plain_copy(model), tokenizer_for(model, call.folder.name)
            found = apply(**arguments(apply, model, plain, tokenizer, records, values, name))
    except KnowledgeCircuitsError:
        raise
    except ModuleNotFoundError as error:
        raise EasyEditError(
            f"EasyEdit's {name} needs the package {error.name!r}, which is not installed"
        ) from None
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        line = next(iter(str(error).strip().splitlines()), "")
        said = f"{type(error).__name__}: {line}" if line else type(error).__name__
        raise EasyEditError(f"EasyEdit's {name} failed: {said}") from error
    edited = found[0] if isinstance(found, tuple) else found
    if not isinstance(edited, torch.nn.Module):  # the weights were written in place
        edited = plain
    used = {key: value for key, value in vars(values).items() if is_plain(value)}
    return edited, used, printed.getvalue()[-2000:]


# --- the checkout --------------------------------------------------------------------------------


def _find(parent: Path, name: str, what: str) -> Path:
    """The entry of a folder whose name reads the same, whatever its case and hyphens."""
    entries = sorted(
        path
        for path in parent.iterdir()
        if not path.name.startswith(("_", ".")) and (path.is_dir() or path.suffix in _SUFFIXES)
    )
    names = [each.name if each.is_dir() else each.stem for each in entries]
    for entry, known_as in zip(entries, names, strict=True):
        if _plain(known_as) == _plain(name):
            return entry
    known = ", ".join(names)
    raise EasyEditError(f"EasyEdit has no {what} {name!r}; there are {known}")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _own_hparams(root: Path, method: str, model: Model) -> Path:
    hint = "name a file of hyperparameters"
    try:
        folder = _find(root / "hparams", method, "hyperparameters for")
        base = model.name.partition("@")[0].rstrip("/").rsplit("/", 1)[-1]
        return _find(folder, base, f"{method} hyperparameters for the model")
    except OSError:
        raise EasyEditError(f"the EasyEdit checkout has no hparams folder; {hint}") from None
    except EasyEditError as error:
        raise EasyEditError(f"{error}; {hint}") from None


def _module(folder: Path, ending: str) -> ModuleType:
    files = sorted(folder.glob(f"*_{ending}.py")) or sorted(folder.glob(f"{ending}.py"))
    if len(files) > 1:  # newer checkouts have a second one for models that see
        files = [file for file in files if "multimodal" not in file.stem]
    if len(files) != 1:
        raise EasyEditError(f"EasyEdit's {folder.name} has {len(files)} files *_{ending}.py, not 1")
    return import_module(f"easyeditor.models.{folder.name}.{files[0].stem}")


def _one(module: ModuleType, pattern: str, name: str) -> Any:
    """The one thing of this name that the module itself defines."""
    found = [
        value
        for key, value in vars(module).items()
        if re.fullmatch(pattern, key) and getattr(value, "__module__", None) == module.__name__
    ]
    if len(found) != 1:
        raise EasyEditError(f"EasyEdit's {name} defines {len(found)} names {pattern}, not 1")
    return found[0]


def _apply(module: ModuleType, name: str) -> Any:
    """The function that edits, or the method of this name of the class that does."""
    classes = [key for key in vars(module) if key.endswith("RewriteExecutor")]
    if len(classes) == 1:
        return vars(module)[classes[0]]().apply_to_model
    return _one(module, r"apply_\w+_to_model", name)


def _read(kind: Any, path: Path, name: str) -> Any:
    """The hyperparameters of a file, by whichever of the two ways their class can read it."""
    ways = ("from_json", "from_hparams") if path.suffix == ".json" else ("from_hparams",)
    way = next((way for way in ways if hasattr(kind, way)), None)
    if way is None:
        raise EasyEditError(f"EasyEdit's {name} reads its hyperparameters from a .json file only")
    if not path.is_file():
        raise EasyEditError(f"there is no file {path} of hyperparameters")
    try:
        return getattr(kind, way)(str(path))
    except Exception as error:  # whatever its class does with a file that is not its own
        line = next(iter(str(error).strip().splitlines()), "")
        raise EasyEditError(
            f"EasyEdit's {name} cannot take {path.name} for its hyperparameters: "
            f"{type(error).__name__}{': ' if line else ''}{line}"
        ) from error


@contextmanager
def _imported(root: Path, statistics: Statistics) -> Iterator[None]:
    """Within the block `easyeditor` can be imported from, module by module, without side effects.

    The trainer's losses are found on the trainer package itself, where the methods look for them,
    and second moments are those of `statistics`.
    """
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_easyedit(name)}
    before |= {name: sys.modules.pop(name) for name in _UNUSED if name in sys.modules}
    try:
        for name in _PACKAGES:
            stand_in = ModuleType(name)
            stand_in.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = stand_in
        vars(sys.modules["easyeditor.trainer"])["__getattr__"] = _trainer_loss
        for file in (root / "easyeditor" / "models").glob("*/layer_stats.py"):
            stand_in = ModuleType(f"easyeditor.models.{file.parent.name}.layer_stats")
            vars(stand_in)["layer_stats"] = statistics.layer_stats
            sys.modules[stand_in.__name__] = stand_in
        for name in _UNUSED:
            stub = ModuleType(name)
            vars(stub)["__getattr__"] = _unused
            sys.modules[name] = stub
        yield
    finally:
        for name in [name for name in sys.modules if _is_easyedit(name)]:
            del sys.modules[name]
        for name in _UNUSED:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _is_easyedit(name: str) -> bool:
    return name.partition(".")[0] == "easyeditor"


def _unused(name: str) -> Any:
    """Whatever a method imports of a package that it then never uses."""
    if name.startswith("__"):
        raise AttributeError(name)
    return None


def _trainer_loss(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("easyeditor.trainer.losses"), name)


@contextmanager
def _seeded(seed: int, model: Model) -> Iterator[None]:
    """The process-wide generators seeded, as the methods draw from them; as before afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
