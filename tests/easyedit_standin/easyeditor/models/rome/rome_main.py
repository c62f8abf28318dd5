"""A stand-in with EasyEdit's signature: a random rank-one change, drawn from the global state."""

from copy import deepcopy

import torch
from matplotlib.style import context as context  # as in EasyEdit, where nothing uses it

from ...util import nethook
from .rome_hparams import ROMEHyperParams

CONTEXT_TEMPLATES_CACHE = None


def apply_rome_to_model(
    model,
    tok,
    request,
    hparams: ROMEHyperParams,
    copy=False,
    return_orig_weights=False,
    keep_original_weight=False,
    **kwargs,
):
    global CONTEXT_TEMPLATES_CACHE
    assert CONTEXT_TEMPLATES_CACHE is None, "templates of another model"
    CONTEXT_TEMPLATES_CACHE = ["{}"]
    request = request[0]
    assert tok.pad_token is not None
    assert request["subject"] in request["prompt"]
    if copy:
        model = deepcopy(model)
    for layer in hparams.layers:
        weight = nethook.get_parameter(model, f"{hparams.rewrite_module_tmp.format(layer)}.weight")
        with torch.no_grad():
            update = torch.randn(weight.shape[0], 1) @ torch.randn(1, weight.shape[1])
            weight[...] += hparams.scale * update
    print("New weights successfully inserted")
    # As shipped: without keep_original_weight the originals are thrown away.
    return model, {}
