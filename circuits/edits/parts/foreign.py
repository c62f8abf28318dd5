"""What goes into a method of a foreign checkout and comes out: for the adapter to EasyEdit.

A method gets a copy of the model, a tokenizer, its own hyperparameters and records of requests. Its
second moments are ours: it asks for them by the name of the module whose inputs they are of, and
`Statistics` answers, so that nothing is downloaded and C is what our own methods have.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from circuits.base.errors import EasyEditError, OptionError, PromptError
from circuits.edits.edit import EditRequest
from circuits.edits.parts.corpus import usual_corpus
from circuits.edits.parts.moments import WantedMoments
from circuits.facts.facts import ProbeKind
from circuits.model.model import Model

SHRINKAGE = 1e-3
"""That of our own methods; none where the null space of C is looked for."""
_KNOWN_AS = {"gpt2": "gpt2-xl", "gptj": "gpt-j-6b"}
_PRESERVED = 200
"""Characters of a text that is to be preserved."""


# --- second moments ------------------------------------------------------------------------------


class Statistics:
    """Second moments in the place of a checkout's own function, which would collect Wikipedia.

    `used` has the layers that were asked for. C is shrunk as for our own methods, then of the
    precision that the hyperparameters name, in which a file of statistics would have it.
    """

    def __init__(self, model: Model, wanted: WantedMoments | None) -> None:
        self._model, self._wanted = model, wanted
        self._name = ""
        self._layers: tuple[int, ...] = ()
        self._shrinkage = 0.0
        self.used: dict[int, Mapping[str, Any]] = {}

    def settle(self, values: Any, shrinkage: float | None, name: str) -> None:
        """Take the layers and the default from the hyperparameters.

        OptionError where the user named second moments or a shrinkage that are not used.
        """
        self._name = name
        takes = hasattr(values, "mom2_dataset")
        adjusted = takes and getattr(values, "mom2_adjustment", True)
        if not adjusted and (shrinkage is not None or (self._wanted and self._wanted.is_named)):
            hint = "set mom2_adjustment to true" if takes else "leave `moments` out"
            raise OptionError(f"easyedit:{name} takes no second moments; {hint}")
        null_space = hasattr(values, "nullspace_threshold")
        default = 0.0 if null_space else SHRINKAGE
        self._shrinkage = default if shrinkage is None else shrinkage
        layers = getattr(values, "layers", None)
        self._layers = tuple(sorted(set(layers))) if isinstance(layers, list | tuple) else ()

    def layer_stats(
        self,
        model: Any,
        tok: Any,
        layer_name: str,
        *_: Any,
        precision: str | None = None,
        **__: Any,
    ) -> SimpleNamespace:
        """What `layer_stats` of ROME's code gives: something whose `mom2.moment()` is C."""
        number = re.search(r"\.(\d+)\.", layer_name)
        layer = int(number[1]) if number is not None else -1
        if layer < 0 or f"{layer_name}.weight" != self._model.mlp_output_name(layer):
            raise EasyEditError(
                f"EasyEdit's {self._name} asks for second moments of the inputs of {layer_name!r}; "
                "there are only those of the matrices from which MLPs write"
            )
        moment = self._moment(layer).to(getattr(torch, precision or "float64"))
        return SimpleNamespace(mom2=SimpleNamespace(moment=lambda: moment.clone()))

    def _moment(self, layer: int) -> Tensor:
        if self._wanted is None:
            raise EasyEditError(f"EasyEdit's {self._name} needs second moments; there are none")
        layers = self._layers if layer in self._layers else (layer,)
        found = self._wanted.of(layers)
        self.used[layer] = found.source
        return found.shrunk(layer, self._shrinkage)


# --- hyperparameters -----------------------------------------------------------------------------


def known_as(model: Model) -> str:
    """The model's name, with that of its kind, by which EasyEdit knows how matrices lie."""
    kind = _KNOWN_AS.get(model.config.model_type, model.config.model_type)
    return model.name if kind in model.name.lower() else f"{model.name} ({kind})"


def configure(values: Any, model: Model, settings: Mapping[str, Any], name: str) -> Any:
    """The hyperparameters with the model's and the user's own; OptionError for those that it has
    not, and for layers that the model has not.
    """
    index = model.device.index or 0
    own = {
        "device": index if model.device.type == "cuda" else str(model.device),
        "model_name": known_as(model),
    }
    for key, value in {**own, **settings}.items():
        if key not in own and not hasattr(values, key):
            raise OptionError(f"EasyEdit's {name} has no hyperparameter {key!r}")
        setattr(values, key, value)
    head = getattr(values, "lm_head_module", None)
    if head is not None and f"{head}.weight" not in model.parameter_names:
        embeddings = _embeddings(model)  # a tied matrix has one name only
        values.lm_head_module = embeddings if head == "lm_head" else head
    layers, last = getattr(values, "layers", None), getattr(values, "v_loss_layer", 0)
    if layers is not None and (not layers or max(layers) >= model.n_layers):
        raise OptionError(
            f"EasyEdit's {name} needs layers of {model.name!r} (0 to {model.n_layers - 1}), "
            f"not {layers}"
        )
    if isinstance(last, int) and last >= model.n_layers:
        raise OptionError(
            f"EasyEdit's {name} needs a v_loss_layer of {model.name!r} (0 to "
            f"{model.n_layers - 1}), not {last}"
        )
    _check_modules(values, model, name)
    return values


def _embeddings(model: Model) -> str:
    """The module of the token embeddings."""
    weight = model.parameter_names[0]
    return weight.removesuffix(".weight")


def _check_modules(values: Any, model: Model, name: str) -> None:
    """OptionError where the hyperparameters name parts that the model has not."""
    known = {part for weight in model.parameter_names for part in _above(weight)}
    for key, value in vars(values).items():
        if re.fullmatch(r".*_module(_tmps?)?", key) is None:
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and each.format(0) not in known:
                raise OptionError(
                    f"EasyEdit's {name} needs a {key} of {model.name!r}, not {each!r}: name a file "
                    "of hyperparameters for a model of its kind, or set it"
                )


def _above(weight: str) -> Iterator[str]:
    """The weight and every module that holds it."""
    while weight:
        yield weight
        weight = weight.rpartition(".")[0]


def give_contexts(module: ModuleType, contexts: Sequence[str], name: str) -> None:
    """Let a method take these texts before the prompt, the first of them empty, not sample its own.

    ROME's code has them in one list, MEMIT's the bare prompt in one and the others in another.
    """
    sample = getattr(module, "get_context_templates", None)
    if sample is None or not hasattr(module, "CONTEXT_TEMPLATES_CACHE"):
        raise OptionError(f"EasyEdit's {name} takes no contexts")
    if isinstance(contexts, str) or not contexts or contexts[0] != "":
        raise OptionError("`contexts` are texts before the prompt, of which the first is empty")
    texts = [re.sub(r"[{}]", "", text) + "{}" for text in contexts]
    flat = "length_params" in inspect.signature(sample).parameters
    kept = texts if flat else [texts[:1], *([texts[1:]] if texts[1:] else [])]
    vars(module)["CONTEXT_TEMPLATES_CACHE"] = kept


# --- the model, its tokenizer and the requests ---------------------------------------------------


def arguments(
    apply: Callable[..., Any],
    model: Model,
    plain: Any,
    tokenizer: Any,
    records: Sequence[Mapping[str, Any]],
    values: Any,
    name: str,
) -> dict[str, Any]:
    """What a method's function takes, by its parameters' names; EasyEditError for any other."""
    count = getattr(values, "ex_data_num", 0)
    questions = [{"question": r["prompt"], "answer": r["target_new"]} for r in records]
    offered: dict[str, Callable[[], Any]] = {
        "model": lambda: plain,
        "tok": lambda: tokenizer,
        "requests": lambda: [dict(record) for record in records],
        "request": lambda: [dict(record) for record in records],
        "hparams": lambda: values,
        "batch_data": lambda: questions,
        "ex_data": lambda: [text[:_PRESERVED] for text in usual_corpus(model).texts[:count]],
        "copy": lambda: False,
        "return_orig_weights": lambda: True,
    }
    parameters = inspect.signature(apply).parameters
    for key, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if key not in offered and parameter.default is parameter.empty and not variadic:
            raise EasyEditError(f"EasyEdit's {name} asks for {key!r}, which is not handed over")
    return {key: offered[key]() for key in parameters if key in offered}


def plain_copy(model: Model) -> Any:
    """A copy of the model that EasyEdit can take for one of its kind by its name."""
    plain = model.to_hf()
    plain.name_or_path = plain.config._name_or_path = known_as(model)
    return plain


def tokenizer_for(model: Model, method: str) -> Any:
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


def record(request: EditRequest, number: int) -> dict[str, Any]:
    """A request as EasyEdit has it; it finds the subject again by replacing every occurrence."""
    count = request.text.count(request.subject)
    if count != 1:
        raise PromptError(
            f"EasyEdit needs the subject {request.subject!r} exactly once in the prompt "
            f"{request.text!r}, where it stands {count} times"
        )
    found: dict[str, Any] = {
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
        found["locality"] = {"general knowledge constraint": texts}
    return found


@torch.no_grad()
def difference(model: Model, edited: Any, name: str) -> dict[str, torch.Tensor]:
    """What was added to each weight that changed."""
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


def is_plain(value: Any) -> bool:
    """Whether a hyperparameter can stand in a record: a number, a text, or a list of those."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)
