"""A stand-in that says how it tokenises, leaves a file where it runs, and changes nothing."""

from pathlib import Path


def apply_litter_to_model(model, tok, requests, hparams, copy=False, return_orig_weights=False):
    Path("null_space_project.pt").write_text("of some model")
    print(*tok(requests[0]["prompt"])["input_ids"])
    return model, {}
