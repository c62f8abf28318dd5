"""A stand-in with EasyEdit's signature, for what it takes from `trainer` and from the record."""

import torch

from ...trainer import kl_loc_loss


def apply_dinm_to_model(
    model,
    tok,
    requests,
    hparams,
    copy=False,
    return_orig_weights=False,
    keep_original_weight=False,
    **kwargs,
):
    assert requests[0]["locality"]["general knowledge constraint"]["prompt"]
    assert float(kl_loc_loss(torch.zeros(1, 3), torch.zeros(1, 3))) == 0
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    return model, {}
