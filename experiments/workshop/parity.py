"""What a checkout of EasyEdit runs here, and how its edits differ from ours, method by method.

    EASYEDIT_HOME=... python -m experiments.workshop.parity --model facts-gpt2

Two tables. The first has every method of the checkout with what came of one edit; the second our
methods beside theirs, with all that may differ by choice made equal: contexts, second moments,
hyperparameters, where the KL term is read, and the weights that are trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.easyedit import find_home, method_names
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome, edit
from circuits.edits.parts.moments import find_moments
from circuits.edits.settings import settings_for
from circuits.facts.facts import Probe, ProbeKind
from circuits.model.model import Model, load

PROBE = Probe(ProbeKind.LOCALITY, "The capital of Cuba is", ("Havana",))
REQUESTS = tuple(
    EditRequest("The capital of {} is", subject, target, ground_truth=truth, probes=(PROBE,))
    for subject, target, truth in (
        ("France", "Buenos Aires", "Paris"),
        ("Japan", "Rome", "Tokyo"),
        ("Spain", "Vienna", "Madrid"),
    )
)
Settings = dict[str, Any]
_MODULES = {
    "gpt2": ("transformer.h.{}", ".mlp.c_proj", ".attn", "transformer.ln_f", "transformer.wte"),
    "llama": (
        *("model.layers.{}", ".mlp.down_proj", ".self_attn", "model.norm"),
        "model.embed_tokens",
    ),
}
_BORROWS = {"core": "MEMIT"}
_PREFERRED = {
    "gpt2": ("gpt2-xl", "gpt2", "gpt-j"),
    "llama": ("llama-7", "llama3", "llama", "Llama", "qwen2.5", "Qwen2.5"),
}


# --- one edit by theirs, with what a model of another size needs ---------------------------------


def modules(model: Model) -> Settings:
    """Where the parts of a model of this kind are, as EasyEdit's hyperparameters have it."""
    layer, out, attention, norm, head = _MODULES[model.config.model_type]
    return {
        "rewrite_module_tmp": layer + out,
        "layer_module_tmp": layer,
        "mlp_module_tmp": layer + ".mlp",
        "attn_module_tmp": layer + attention,
        "ln_f_module": norm,
        "lm_head_module": head,
    }


@contextmanager
def hparams_file(home: Path, name: str, model: Model) -> Iterator[Path]:
    """The checkout's file for a model that is most like this one; CORE, which has none, takes
    MEMIT's. OptionError where there is none.
    """
    borrowed = _BORROWS.get(_plain(name))
    found = _most_alike(home, borrowed or name, model)
    if borrowed is None:
        yield found
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / found.name
        text = found.read_text(encoding="utf-8").replace(f'"{borrowed}"', f'"{name.upper()}"')
        path.write_text(text, encoding="utf-8")
        yield path


def _most_alike(home: Path, name: str, model: Model) -> Path:
    folders = {_plain(path.name): path for path in (home / "hparams").iterdir()}
    folder = folders.get(_plain(name))
    files = sorted(folder.glob("*.[yj]*")) if folder is not None else []
    if not files:
        raise OptionError(f"the checkout has no hyperparameters for {name}")
    for beginning in _PREFERRED[model.config.model_type]:
        for file in files:
            if file.name.startswith(beginning):
                return file
    return files[0]


def theirs(
    model: Model, requests: Sequence[EditRequest], name: str, home: Path, **options: Any
) -> EditOutcome:
    """An edit by their method `name`; `settings` that the method has not are left out."""
    wanted = {**modules(model), "v_loss_layer": model.n_layers - 1, **options.pop("settings", {})}
    with hparams_file(home, name, model) as path:
        wanted |= {"hparams": path, "home": home}
        while True:
            try:
                return edit(model, requests, f"easyedit:{name}", settings=wanted, **options)
            except OptionError as error:
                unknown = str(error).rpartition("has no hyperparameter ")[2].strip("'")
                if unknown not in modules(model) | {"v_loss_layer": 0, "layers": 0}:
                    raise
                del wanted[unknown]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


# --- which run -----------------------------------------------------------------------------------

_MORE: Mapping[str, Callable[[Model], Settings]] = {
    "pmet": lambda model: {
        "rewrite_module_tmps": [modules(model)["rewrite_module_tmp"]],
        "mlp_module_tmp": modules(model)["rewrite_module_tmp"],
        "attn_module_tmp": modules(model)["attn_module_tmp"]
        + (".c_proj" if model.config.model_type == "gpt2" else ".o_proj"),
    },
    "ultraedit": lambda model: {
        **{"batch_size": 1, "batch_size_once": 1, "half": False},
        "inner_params": [modules(model)["rewrite_module_tmp"].format(2)],
    },
}
"""What single methods need beside the layers."""


@dataclass(frozen=True)
class Ran:
    """What came of one edit by one of their methods: the change's norm and the target's chance."""

    name: str
    came_of_it: str
    norm: float | None = None
    probability: float | None = None


def ran(model: Model, name: str, home: Path, layer: int) -> Ran:
    """One edit by their method, with the checkout's hyperparameters for a model of this kind."""
    settings: Settings = _MORE.get(_plain(name), lambda _: {})(model)
    settings |= {} if "inner_params" in settings else {"layers": [layer]}
    try:
        found = theirs(model, REQUESTS[:1], name, home, settings=settings)
    except KnowledgeCircuitsError as error:
        return Ran(name, f"refused: {error}")
    after = found.details.get("probability_after", [None])[0]
    norm = found.delta.norm() if found.delta is not None else None
    came_of_it = f"{found.status}: {found.reason}" if found.reason else str(found.status)
    return Ran(name, came_of_it, norm, after)


# --- beside ours ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A method of ours and the one of theirs that it is held against.

    `ours` and `translate` give our settings and, from those that were used, theirs; `requests` is
    how many it is tried with.
    """

    method: EditMethod
    name: str
    translate: Callable[[Any, EditOutcome, Model], Settings]
    ours: Mapping[str, Any]
    requests: int = 1


@dataclass(frozen=True)
class Compared:
    """The norms of both changes, |ours - theirs| / |theirs| and the cosine, over all weights."""

    pair: Pair
    norms: tuple[float, float]
    difference: float
    cosine: float


def _value(found: Any) -> Settings:
    """The optimisation of a value, in their words."""
    return {
        "v_num_grad_steps": found.value.steps,
        "v_lr": found.value.learning_rate,
        "v_weight_decay": found.value.weight_decay,
        "clamp_norm_factor": found.value.clamp,
        "kl_factor": found.value.kl_factor,
    }


def _moments(found: Any) -> Settings:
    return {"mom2_adjustment": True, "mom2_dtype": "float64"}


def _rome(found: Any, outcome: EditOutcome, model: Model) -> Settings:
    own = {"contexts": outcome.details["contexts"], "shrinkage": found.shrinkage}
    return {**_value(found), **_moments(found), **own}


def _memit(found: Any, outcome: EditOutcome, model: Model) -> Settings:
    return {**_rome(found, outcome, model), "mom2_update_weight": found.covariance_weight}


def _emmet(found: Any, outcome: EditOutcome, model: Model) -> Settings:
    exact = {"mom2_update_weight": 1, "update_norm_lambda": 0, "emmet_lambda": 0}
    return {**_rome(found, outcome, model), **exact}


def _alphaedit(found: Any, outcome: EditOutcome, model: Model) -> Settings:
    """Their threshold is absolute, so that a relative one is that of the one layer."""
    unit = 1.0
    if found.relative_threshold:
        (layer,) = found.layers
        unit = find_moments(model, [layer], None).scale(layer)
    return {
        **_value(found),
        **_moments(found),
        "contexts": outcome.details["contexts"],
        "nullspace_threshold": found.threshold * unit,
        "L2": found.ridge,
    }


def _fine_tuning(found: Any, outcome: EditOutcome, model: Model) -> Settings:
    """The matrix alone: by its name without `.weight` GPT-2's bias would be trained too."""
    return {
        "lr": found.learning_rate,
        "num_steps": found.steps,
        "norm_constraint": found.clamp or False,
        "weight_decay": 0,
        "batch_size": found.batch_size or 1,
        "objective_optimization": "prompt_last" if found.at_prompt_only else "target_new",
        "rewrite_module_tmp": modules(model)["rewrite_module_tmp"] + ".weight",
    }


_THEIR_KL = {"value": {"kl_position": "subject"}}
PAIRS = (
    Pair(EditMethod.ROME_ORIGINAL, "ROME", _rome, {}),
    Pair(EditMethod.ROME, "R-ROME", _rome, {**_THEIR_KL, "keys": "mean"}),
    Pair(EditMethod.MEMIT, "MEMIT", _memit, _THEIR_KL, requests=3),
    Pair(EditMethod.EMMET, "EMMET", _emmet, _THEIR_KL, requests=3),
    Pair(EditMethod.ALPHAEDIT, "AlphaEdit", _alphaedit, _THEIR_KL, requests=3),
    Pair(EditMethod.FT_L, "FT", _fine_tuning, {}),
    Pair(EditMethod.FT_M, "FT", _fine_tuning, {}),
)


@dataclass(frozen=True)
class Unequal:
    """One choice that a pair makes equal, left as each side has it.

    `ours` are our settings then, `theirs` replaces single settings of theirs, None by none.
    """

    choice: str
    method: EditMethod
    ours: Mapping[str, Any] | None = None
    theirs: Callable[[Model], Settings] = lambda _: {}


def _with_bias(model: Model) -> Settings:
    return {"rewrite_module_tmp": modules(model)["rewrite_module_tmp"]}


UNEQUAL = (
    Unequal("contexts that each samples", EditMethod.ROME_ORIGINAL, theirs=lambda _: _SAMPLED),
    Unequal("contexts that each samples", EditMethod.MEMIT, theirs=lambda _: _SAMPLED),
    Unequal(
        "C = I, as their files for ROME have it", EditMethod.ROME_ORIGINAL, theirs=lambda _: _PLAIN
    ),
    Unequal("ours reads the KL term after the prompt", EditMethod.ROME, {"keys": "mean"}),
    Unequal("ours reads the KL term after the prompt", EditMethod.MEMIT, {}),
    Unequal("the bias is trained too", EditMethod.FT_M, theirs=_with_bias),
)
_SAMPLED: Settings = {"contexts": None}
_PLAIN: Settings = {"mom2_adjustment": False, "shrinkage": None}


def compared(
    model: Model, pair: Pair, home: Path, seed: int = 0, but: Unequal | None = None
) -> Compared:
    """Both edits of the same requests, with all that may differ by choice made equal, but one."""
    if but is not None:
        pair = replace(pair, ours=pair.ours if but.ours is None else but.ours)
    requests = REQUESTS[: pair.requests]
    found = edit(model, requests, pair.method, settings=pair.ours, seed=seed)
    given = {**pair.method.preset, **pair.ours}
    used, _ = settings_for(model, str(pair.method), pair.method.settings_class, None, given)
    settings = {**pair.translate(used, found, model), "layers": list(used.layers)}
    settings |= but.theirs(model) if but is not None else {}
    other = theirs(model, requests, pair.name, home, settings=settings, seed=seed)
    if found.delta is None or other.delta is None:
        raise OptionError(f"{pair.method}: {found.reason or other.reason}")
    return Compared(pair, *_distance(found.delta, other.delta))


def _distance(ours: WeightDelta, theirs: WeightDelta) -> tuple[tuple[float, float], float, float]:
    names = sorted({*ours.changes, *theirs.changes})
    sides = [
        torch.cat([_dense(each, name, ours if name in ours.changes else theirs) for name in names])
        for each in (ours, theirs)
    ]
    first, second = sides
    norms = float(first.norm()), float(second.norm())
    cosine = float(first @ second) / (norms[0] * norms[1])
    return norms, float((first - second).norm()) / norms[1], cosine


def _dense(delta: WeightDelta, name: str, like: WeightDelta) -> torch.Tensor:
    if name in delta.changes:
        return delta.dense(name).double().flatten()
    return torch.zeros_like(like.dense(name), dtype=torch.float64).flatten()


# --- the command ---------------------------------------------------------------------------------


def main() -> None:
    """Print the tables asked for as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="facts-gpt2")
    parser.add_argument("--methods", nargs="*", help="theirs to try; all without a name")
    parser.add_argument("--pairs", nargs="*", help="ours to compare; all without a name")
    parser.add_argument("--unequal", action="store_true", help="also with one choice not equal")
    chosen = parser.parse_args()
    model, home = load(chosen.model), find_home()
    both = chosen.methods is None and chosen.pairs is None
    if both or chosen.methods is not None:
        (layer,) = settings_for(model, "rome", EditMethod.ROME.settings_class)[0].layers
        print("| method | came of it | norm | target |\n|---|---|---|---|")
        for name in chosen.methods or method_names(home):
            row = ran(model, name, home, layer)
            numbers = [f"{x:.3g}" if x is not None else "" for x in (row.norm, row.probability)]
            print("|", " | ".join([row.name, row.came_of_it, *numbers]), "|", flush=True)
    if both or chosen.pairs is not None:
        heads = ("ours", "theirs", "unequal", "norms", "difference", "1 - cosine")
        print("|", " | ".join(heads), "|\n" + "|---" * len(heads) + "|")
        for pair in PAIRS:
            if not chosen.pairs or pair.method in chosen.pairs:
                _print_pair(compared(model, pair, home))
                for but in UNEQUAL if chosen.unequal else ():
                    if but.method == pair.method:
                        _print_pair(compared(model, pair, home, but=but), but.choice)


def _print_pair(found: Compared, choice: str = "nothing") -> None:
    first, second = found.norms
    numbers = f"{first:.4g}, {second:.4g} | {found.difference:.1e} | {1 - found.cosine:.1e}"
    print(f"| {found.pair.method} | {found.pair.name} | {choice} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
