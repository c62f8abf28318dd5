def apply_broken_to_model(
    model, tok, requests, hparams, copy=False, return_orig_weights=False, **kwargs
):
    raise RuntimeError("Expected all tensors to be on the same device\nand more")
