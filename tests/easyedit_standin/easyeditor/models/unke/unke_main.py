"""A stand-in whose function takes questions and answers, writes in place, and returns no model."""

import torch

from ...util import nethook


def apply_unke_to_model(model, tok, hparams, batch_data, ex_data):
    print(batch_data, len(ex_data), hparams.model_name)
    name = f"{hparams.rewrite_module_tmp.format(hparams.layers[0])}.weight"
    weight = nethook.get_parameter(model, name)
    with torch.no_grad():
        weight[...] += 0.1 * torch.randn_like(weight)
    return {name: weight}
