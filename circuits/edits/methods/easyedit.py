"""Methods of an EasyEdit checkout (zjunlp/EasyEdit), run on a copy of the model.

EasyEdit is not on the package index: `EASYEDIT_HOME` names a checkout. Only its method's own
module is imported. Its packages' `__init__` files, which pull in hundreds of modules, are passed
over by empty stand-ins; they and everything imported from the checkout are gone afterwards, and
with them its process-wide caches. The edit is whatever differs between the copy's weights and the
model's, so that it does not matter what the method returns as "original weights".
"""

from __future__ import annotations

import copy
import io
import os
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing

from circuits.base.errors import EasyEditError, KnowledgeCircuitsError, OptionError, PromptError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.parts.value import Progress
from circuits.facts.facts import ProbeKind
from circuits.model.model import Model

HOME = "EASYEDIT_HOME"
_PACKAGES = ("easyeditor", "easyeditor.models", "easyeditor.util", "easyeditor.trainer")
_ADAPTERS = "it adds adapters beside them"
_MEMORY = "it adds a memory of edits beside them"
_PROMPT = "it puts demonstrations in front of the prompt"
_EDITOR = "it needs an editor network trained beforehand"
_DECODING = "it changes how the model is decoded"
CANNOT_RUN: Mapping[str, str] = {
    **dict.fromkeys(("lora", "qlora", "dpo"), _ADAPTERS),
    **dict.fromkeys(("grace", "melo", "wise", "defer", "tpatcher", "serac"), _MEMORY),
    **dict.fromkeys(("ike", "baseprompt"), _PROMPT),
    **dict.fromkeys(("mend", "malmen", "ke", "instructedit"), _EDITOR),
    **dict.fromkeys(("deepeditapi", "dola", "caa", "steering"), _DECODING),
}
"""EasyEdit's methods whose edits are no values of ours, and why."""


def run_method(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Sequence[int] | None,
    settings: Mapping[str, Any],
    generator: torch.Generator,
    progress: Progress | None = None,
) -> tuple[WeightDelta, dict[str, Any]]:
    """Run EasyEdit's method `settings["method"]` (as `ROME`) on a copy of the model.

    `hparams` of the settings is a YAML file of its hyperparameters; without one it is the
    checkout's own for a model of this name. `home` is the checkout, EASYEDIT_HOME without it. All
    others are single hyperparameters; `device` and `model_name` are the model's. EasyEditError
    where the checkout is absent, lacks the method, fails, or its edit is no change of the weights.
    """
    given = dict(settings)
    name, hparams, home = (given.pop(key, None) for key in ("method", "hparams", "home"))
    if layers is not None:
        given["layers"] = list(layers)
    root = find_home(home)
    folder = _find(root / "easyeditor" / "models", name, "method")
    if (reason := CANNOT_RUN.get(_plain(folder.name))) is not None:
        raise EasyEditError(f"EasyEdit's {name} is no change of the model's weights: {reason}")
    path = Path(hparams) if hparams is not None else _own_hparams(root, folder.name, model)
    path = path.expanduser().resolve()
    records = [_record(request, number) for number, request in enumerate(requests)]
    with _imported(root), _seeded(generator.initial_seed(), model), torch.enable_grad(), _aside():
        edited, values, printed = _run(model, folder, path, records, given, name)
    used = values.get("layers")
    provenance = {
        "hparams_file": path.name,
        "settings": values,
        "layers": used if isinstance(used, list) else [],
    }
    return WeightDelta(_difference(model, edited, name), provenance), {"printed": printed}


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


def _run(
    model: Model,
    folder: Path,
    path: Path,
    records: list[dict[str, Any]],
    settings: Mapping[str, Any],
    name: str,
) -> tuple[Any, dict[str, Any], str]:
    """The edited copy, the hyperparameters used, and the end of what was printed."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            apply = _one(_module(folder, "main"), r"apply_\w+_to_model", name)
            kind = _one(_module(folder, "hparams"), r"\w+H(yper)?[Pp]arams", name)
            values = _configure(kind.from_hparams(str(path)), model, settings, name)
            found = apply(
                model.to_hf(),
                _tokenizer(model, folder.name),
                [dict(record) for record in records],
                values,
                copy=False,
                return_orig_weights=True,
            )
    except KnowledgeCircuitsError:
        raise
    except ModuleNotFoundError as error:
        raise EasyEditError(
            f"EasyEdit's {name} needs the package {error.name!r}, which is not installed"
        ) from None
    except Exception as error:  # foreign code may raise anything
        line = next(iter(str(error).strip().splitlines()), "")
        raise EasyEditError(f"EasyEdit's {name} failed: {type(error).__name__}: {line}") from error
    edited = found[0] if isinstance(found, tuple) else found
    used = {key: value for key, value in vars(values).items() if _is_plain(value)}
    return edited, used, printed.getvalue()[-2000:]


# --- the checkout --------------------------------------------------------------------------------


def _find(parent: Path, name: str, what: str) -> Path:
    """The entry of a folder whose name reads the same, whatever its case and hyphens."""
    entries = sorted(
        path
        for path in parent.iterdir()
        if not path.name.startswith(("_", ".")) and (path.is_dir() or path.suffix == ".yaml")
    )
    for entry in entries:
        if _plain(entry.name.removesuffix(".yaml")) == _plain(name):
            return entry
    known = ", ".join(entry.name.removesuffix(".yaml") for entry in entries)
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
    files = sorted(folder.glob(f"*_{ending}.py"))
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


@contextmanager
def _imported(root: Path) -> Iterator[None]:
    """Within the block `easyeditor` can be imported from, module by module, without side effects.

    The trainer's losses are found on the trainer package itself, where the methods look for them.
    """
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_easyedit(name)}
    style = sys.modules.get("matplotlib.style")
    try:
        for name in _PACKAGES:
            stand_in = ModuleType(name)
            stand_in.__path__ = [str(root.joinpath(*name.split(".")))]
            sys.modules[name] = stand_in
        vars(sys.modules["easyeditor.trainer"])["__getattr__"] = _trainer_loss
        stub = ModuleType("matplotlib.style")
        vars(stub)["context"] = None  # imported by a method that never uses it
        sys.modules["matplotlib.style"] = stub
        yield
    finally:
        for name in [name for name in sys.modules if _is_easyedit(name)]:
            del sys.modules[name]
        sys.modules.update(before)
        if style is None:
            del sys.modules["matplotlib.style"]
        else:
            sys.modules["matplotlib.style"] = style


def _is_easyedit(name: str) -> bool:
    return name.partition(".")[0] == "easyeditor"


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


# --- what goes in and comes out ------------------------------------------------------------------


def _configure(values: Any, model: Model, settings: Mapping[str, Any], name: str) -> Any:
    index = model.device.index or 0
    own = {
        "device": index if model.device.type == "cuda" else str(model.device),
        "model_name": model.name,
    }
    for key, value in {**own, **settings}.items():
        if key not in own and not hasattr(values, key):
            raise OptionError(f"EasyEdit's {name} has no hyperparameter {key!r}")
        setattr(values, key, value)
    layers = getattr(values, "layers", None)
    if layers is not None and (not layers or max(layers) >= model.n_layers):
        raise OptionError(
            f"EasyEdit's {name} needs layers of {model.name!r} (0 to {model.n_layers - 1}), "
            f"not {layers}"
        )
    return values


def _tokenizer(model: Model, method: str) -> Any:
    """A copy that pads as EasyEdit's editor has it for the method, and adds a BOS where ours is."""
    tokenizer = copy.deepcopy(model.tokenizer.hf)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left" if method.startswith("ft") else "right"
    front = f"{tokenizer.bos_token}:0 " if model.tokenizer.use_bos(None) else ""
    # What it would add by itself is replaced, so that there is one BOS or none.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{front}$A:0",
        pair=f"{front}$A:0 {front}$B:1",
        special_tokens=[(tokenizer.bos_token, tokenizer.bos_token_id)] if front else [],
    )
    return tokenizer


def _record(request: EditRequest, number: int) -> dict[str, Any]:
    """A request as EasyEdit has it; it finds the subject again by replacing every occurrence."""
    count = request.text.count(request.subject)
    if count != 1:
        raise PromptError(
            f"EasyEdit needs the subject {request.subject!r} exactly once in the prompt "
            f"{request.text!r}, where it stands {count} times"
        )
    record: dict[str, Any] = {
        "case_id": number,
        "prompt": request.text,
        "subject": request.subject,
        "target_new": request.target,
        "ground_truth": request.ground_truth or "<|endoftext|>",
        "portability": {},
        "locality": {},
    }
    kept = [probe for probe in request.probes if probe.kind == ProbeKind.LOCALITY]
    if kept:
        texts = {"prompt": kept[0].prompt, "ground_truth": next(iter(kept[0].answers), "")}
        record["locality"] = {"general knowledge constraint": texts}
    return record


@torch.no_grad()
def _difference(model: Model, edited: Any, name: str) -> dict[str, torch.Tensor]:
    """What was added to each weight that changed."""
    if not isinstance(edited, torch.nn.Module):
        raise EasyEditError(f"EasyEdit's {name} returned no model but a {type(edited).__name__}")
    changes, after = {}, dict(edited.named_parameters())
    foreign = sorted(set(after) ^ set(model.parameter_names))
    if foreign:
        raise EasyEditError(
            f"the edit of EasyEdit's {name} is no change of the model's weights: it adds or drops "
            f"{foreign[0]!r}"
        )
    for key, value in after.items():
        change = value.detach().float() - model.parameter(key).to(value.device).float()
        if bool((change != 0).any()):
            changes[key] = change
    return changes


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
