"""A stand-in with EasyEdit's signature: Adam on the target's tokens, flags of gradients left on."""

import torch

from .ft_hparams import FTHyperParams


def apply_ft_to_model(
    model,
    tok,
    requests,
    hparams: FTHyperParams,
    copy=False,
    return_orig_weights=False,
    keep_original_weight=False,
    **kwargs,
):
    names = [f"{hparams.rewrite_module_tmp.format(layer)}.weight" for layer in hparams.layers]
    for name, weight in model.named_parameters():
        weight.requires_grad = name in names
    trained = [weight for name, weight in model.named_parameters() if name in names]
    optimiser = torch.optim.Adam(trained, lr=hparams.lr)
    for _ in range(hparams.num_steps):
        for request in requests:
            ids = tok(request["prompt"] + " " + request["target_new"], return_tensors="pt")
            optimiser.zero_grad()
            model(input_ids=ids["input_ids"], labels=ids["input_ids"]).loss.backward()
            optimiser.step()
    return model, {}
