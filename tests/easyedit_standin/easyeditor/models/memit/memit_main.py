"""A stand-in that writes its second moments into the weights, and says what it was given."""

import hydra
import nltk
import torch
from sklearn.manifold import TSNE

from ...util import nethook
from ..rome.layer_stats import layer_stats

UNUSED = (hydra, nltk, TSNE)
CONTEXT_TEMPLATES_CACHE = None


def apply_memit_to_model(model, tok, requests, hparams, copy=False, return_orig_weights=False):
    nethook.get_parameter(model, f"{hparams.lm_head_module}.weight")
    for layer in hparams.layers:
        name = hparams.rewrite_module_tmp.format(layer)
        stat = layer_stats(
            model,
            tok,
            name,
            "data/stats",
            hparams.mom2_dataset,
            to_collect=["mom2"],
            precision=hparams.mom2_dtype,
        )
        weight, moment = nethook.get_parameter(model, f"{name}.weight"), stat.mom2.moment()
        assert moment.dtype == getattr(torch, hparams.mom2_dtype)
        row = moment.diagonal().to(weight)
        with torch.no_grad():
            weight[...] += row[:, None] if weight.shape[0] == len(row) else row
    print(model.name_or_path, hparams.model_name, get_context_templates(model, tok))
    return model, {}


def get_context_templates(model, tok):
    return CONTEXT_TEMPLATES_CACHE
