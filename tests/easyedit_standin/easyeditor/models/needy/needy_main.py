import a_package_that_is_not_there  # noqa: F401


def apply_needy_to_model(model, tok, requests, hparams, copy=False, return_orig_weights=False):
    return model, {}
