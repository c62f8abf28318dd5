"""Patched models: as if the weights were others, for every method, and as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import NumericalError, OptionError
from circuits.edits.edit import EditRequest
from circuits.edits.methods.run import edit
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.graph.evaluate import run_circuits
from circuits.graph.restoring import run_restored, source_outputs
from circuits.graph.running import CircuitRunner
from circuits.model import taps
from circuits.model.model import Model
from locate.edges.eap import attribute
from locate.edges.exact import patch_edges
from locate.states.steering import activations, patched
from locate.states.tracing import trace
from tests.oracles import plain_circuit_run
from tests.tiny import (
    byte_level_tokenizer,
    equal_length_pairs,
    gpt2_hf,
    llama_hf,
    metaspace_tokenizer,
    tiny_model,
)

KINDS = ("gpt2", "llama")
PROMPT, OTHER = "The capital of France is", "The capital of Japan is"


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def pairs(model: Model) -> list[TokenPair]:
    return equal_length_pairs(model)


def direction(n: int = 32, seed: int = 3) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def logits(model: Model, prompt: str = PROMPT) -> Tensor:
    with torch.no_grad():
        return model.last_logits(torch.tensor([model.tokenizer.encode(prompt).ids]))[0]


def hf_with(kind: str, change: Callable[[Any], None]) -> Model:
    """A fresh tiny model whose weights were changed before it was wrapped."""
    made = gpt2_hf() if kind == "gpt2" else llama_hf()
    with torch.no_grad():
        change(made)
    tokenizer = byte_level_tokenizer() if kind == "gpt2" else metaspace_tokenizer()
    return Model.from_hf(made, tokenizer, f"tiny-{kind}")


def _no_head(hf: Any) -> None:
    """Head 2 of layer 1 writes nothing."""
    if hasattr(hf, "transformer"):
        hf.transformer.h[1].attn.c_proj.weight[16:24] = 0
    else:
        hf.model.layers[1].self_attn.o_proj.weight[:, 16:24] = 0


def _no_mlp(hf: Any) -> None:
    """The MLP of layer 1 writes nothing."""
    if hasattr(hf, "transformer"):
        hf.transformer.h[1].mlp.c_proj.weight[:] = 0
        hf.transformer.h[1].mlp.c_proj.bias[:] = 0
    else:
        hf.model.layers[1].mlp.down_proj.weight[:] = 0


def _more_bias(hf: Any) -> None:
    hf.transformer.h[1].mlp.c_proj.bias += 2 * direction()


def _head_is(hf: Any) -> None:
    projection = hf.transformer.h[1].attn.c_proj
    projection.bias += direction(8) @ projection.weight[16:24]
    projection.weight[16:24] = 0


AS_WEIGHTS = {
    "gpt2 without a head": ("gpt2", _no_head, {"parts": "a1.h2", "to": 0}),
    "llama without a head": ("llama", _no_head, {"parts": "a1.h2", "to": 0}),
    "gpt2 without an MLP": ("gpt2", _no_mlp, {"parts": ["m1"], "to": 0}),
    "llama without an MLP": ("llama", _no_mlp, {"parts": ["m1"], "to": 0}),
    "gpt2 steered": ("gpt2", _more_bias, {"parts": "resid1", "add": direction(), "factor": 2}),
    "gpt2 with a head's value": ("gpt2", _head_is, {"parts": "a1.h2", "to": direction(8)}),
}
"""By name: an architecture, a change of its weights, and the patch that is the same."""


@pytest.mark.slow
@pytest.mark.parametrize("name", AS_WEIGHTS)
def test_a_patched_model_is_for_every_method_the_model_with_other_weights(name: str):
    kind, change, options = AS_WEIGHTS[name]
    model, other = tiny_model(kind), hf_with(kind, change)
    pairs = equal_length_pairs(model)
    rng = np.random.default_rng(0)
    wiring = model.wiring()
    circuits = [Circuit(wiring, rng.random(wiring.n_edges) < share) for share in (0.3, 0.8)]

    def everything(of: Model) -> dict[str, np.ndarray]:
        found = {"logits": logits(of).numpy()}
        for kv in ("grouped", "per-query-head"):
            found[f"EAP-IG {kv}"] = attribute(of, pairs, steps=3, kv=kv).values
        found["exact"] = patch_edges(of, pairs).values
        # What a bias writes stays where a head that writes the same is cut.
        constant = name == "gpt2 with a head's value"
        for ablation in [each for each in Ablation if not (constant and each is Ablation.ZERO)]:
            runs = run_circuits(of, pairs, circuits, ablation=ablation)
            found[f"circuits {ablation}"] = np.stack([run.metric for run in runs.circuits])
        pair = pairs[0].text
        traced = trace(of, pair.clean, pair.subject, pair.answer, samples=2)
        found |= {f"trace {at}": value for at, value in traced.probabilities.items()}
        return found

    with patched(model, **options):
        patched_numbers = everything(model)
    for what, values in everything(other).items():
        np.testing.assert_allclose(patched_numbers[what], values, atol=3e-4, err_msg=what)
    with pytest.raises(AssertionError):  # the patch is no small thing
        np.testing.assert_allclose(logits(model), logits(other), atol=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"parts": ["a0.h1", "a2.h3"], "to": 0.5, "at": [2, 4]},
        {"parts": "a1.h2", "add": direction(8), "at": -1},
        {"parts": ["m0", "m2"], "to": direction(), "at": -1},
        {"parts": "resid1", "add": direction(), "at": range(1, 4)},
        {"parts": ["a1.h0", "m1"], "source": OTHER},
    ],
    ids=str,
)
@pytest.mark.parametrize("ablation", Ablation)
def test_circuits_of_a_model_patched_at_positions_agree_with_a_plain_run(
    model: Model, pairs: list[TokenPair], options: dict, ablation: Ablation
):
    rng, wiring = np.random.default_rng(1), model.wiring()
    circuit = Circuit(wiring, rng.random(wiring.n_edges) < 0.6)
    (batch, *_) = batches(pairs, 8, model)
    with patched(model, **options):
        constants = source_constants(model, pairs, ablation) if ablation.is_constant else None
        runner = CircuitRunner(model, batch, wiring, ablation, constants)
        with model.patching.positions(0):  # the plain run asks the bridge itself
            plain = plain_circuit_run(model, batch, circuit, constants)
        torch.testing.assert_close(runner.run(circuit), plain, atol=3e-4, rtol=1e-4)
        whole = runner.run(Circuit.full(wiring))
        torch.testing.assert_close(whole, runner.clean_logits, atol=3e-4, rtol=1e-4)


def test_a_patch_at_positions_is_a_hook_there_with_and_without_a_shared_prefix(model: Model):
    value, places = direction(), [2, 3]

    def by_hand(at: list[int]) -> Tensor:
        def replace(given: Tensor, hook: object) -> Tensor:
            changed = given.clone()
            changed[:, at] = value
            return changed

        ids = model.tokenizer.encode(PROMPT).ids
        with torch.no_grad():
            return model.last_logits(torch.tensor([ids]), [(taps.resid_post(1), replace)])[0]

    ids = torch.tensor([model.tokenizer.encode(PROMPT).ids])
    for at in (places, [len(ids[0]) - 1]):
        with patched(model, "resid1", to=value, at=at):
            torch.testing.assert_close(logits(model), by_hand(at))
            for cut in (2, 3, 4):
                prefix = model.share_prefix(ids[:, :cut])
                with torch.no_grad():
                    found = model.last_logits(ids[:, cut:], prefix=prefix)[0]
                torch.testing.assert_close(found, by_hand(at), atol=1e-4, rtol=1e-4)
    with patched(model, "resid1", to=value, at=-1):  # the prefix's last token is not the prompt's
        prefix = model.share_prefix(ids[:, :3])
        with torch.no_grad():
            found = model.last_logits(ids[:, 3:], prefix=prefix)[0]
        torch.testing.assert_close(found, by_hand([len(ids[0]) - 1]), atol=1e-4, rtol=1e-4)


def test_the_whole_stream_of_another_prompt_makes_it_that_prompt(model: Model):
    expected = logits(model, OTHER)
    with patched(model, "resid1", source=OTHER):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
    with patched(model, "resid1", source=OTHER, at="capital", prompt=PROMPT):
        words = logits(model)
    torch.testing.assert_close(words, logits(model), atol=1e-4, rtol=1e-4)  # read the same before


def test_words_are_patched_with_the_words_of_another_prompt(model: Model):
    """Before the last layer, all that differs between the prompts is at the differing words."""
    pair = next(p for p in equal_length_pairs(model) if p.clean.text.startswith("In "))
    clean, corrupted = pair.clean.text, pair.corrupted.text
    other = corrupted.removeprefix("In ").partition(" the ")[0]
    subject = pair.text.subject
    options = {"at": subject, "prompt": clean, "source": corrupted, "source_at": other}
    with patched(model, "resid0", **options):
        words = logits(model, clean)
    span = pair.clean.span_of(subject)
    with patched(model, "resid0", source=corrupted, at=range(span.start, span.stop)):
        torch.testing.assert_close(logits(model, clean), words)
    assert not torch.allclose(words, logits(model, clean), atol=1e-3)


def test_what_is_added_and_taken_away_again_is_nothing_and_blocks_compose(model: Model):
    before = logits(model)
    with patched(model, "resid1", add=direction(), factor=3):
        once = logits(model)
        with patched(model, "resid1", add=direction(), factor=-3):
            torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)
        assert torch.equal(logits(model), once)
    with patched(model, "m1", to=1.0), patched(model, "m1", to=direction()):  # the inner acts last
        both = logits(model)
    with patched(model, "m1", to=direction()):
        assert torch.equal(logits(model), both)
    assert torch.equal(logits(model), before)


def test_a_model_is_as_before_after_the_block_and_after_an_exception(model: Model):
    before, origin = logits(model), dict(model.provenance)

    def hooks() -> int:
        return sum(len(m._forward_hooks) for m in model.bridge.modules())

    n_hooks = hooks()
    with patched(model, ["a0.h0", "m2"], to=0):
        assert model.provenance["patched"] == ["a0.h0 is zero", "m2 is zero"]
    with pytest.raises(OptionError, match="`k`"), patched(model, "m2", to=0):
        model.ask(PROMPT, k=0)
    assert torch.equal(logits(model), before)
    assert model.provenance == origin
    assert model.patching.patches == ()
    assert hooks() == n_hooks


def test_blocks_that_end_in_any_order_leave_nothing_behind(model: Model):
    before = logits(model)

    def block(part: str) -> Iterator[None]:
        with patched(model, part, to=0):
            yield

    first, second = block("a0.h0"), block("m2")
    next(first)
    next(second)
    first.close()
    assert model.provenance["patched"] == ["m2 is zero"]
    with patched(model, "m2", to=0):
        one = logits(model)
    torch.testing.assert_close(logits(model), one)
    second.close()
    assert model.patching.patches == ()
    assert torch.equal(logits(model), before)


def test_generation_is_patched_at_the_last_token_of_every_step(model: Model):
    with patched(model, "resid2", to=direction(), at=-1):
        best = int(model.unembed(direction()[None])[0].argmax())
        said = model.generate(PROMPT, 3)
    assert said == model.tokenizer.hf.decode([best] * 3)


def test_activations_are_what_a_patch_sets(model: Model):
    width = {"a1.h2": model.d_head, "m1": model.d_model, "resid1": model.d_model}
    for part, n in width.items():
        with patched(model, part, to=direction(n), at=-1):
            found = activations(model, [PROMPT, OTHER, "In Peru the capital is"], part)
        np.testing.assert_allclose(found, np.tile(direction(n), (3, 1)), rtol=1e-6)
    own = activations(model, [PROMPT], "resid1", at="France")
    with patched(
        model, "resid1", to=own, at=[model.tokenizer.encode(PROMPT).span_of("France").last]
    ):
        torch.testing.assert_close(logits(model), before := logits(model))
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)


def test_edges_restored_in_a_patched_model_are_those_of_the_patched_model(model: Model):
    ids = torch.tensor([model.tokenizer.encode(PROMPT).ids])
    none = np.zeros(model.wiring().n_edges, dtype=bool)
    with patched(model, ["a1.h2", "m0"], to=0.3, at=[2]):
        outputs = source_outputs(model, ids)
        found = run_restored(model, ids, outputs + 1, [none])[0, 0]
        torch.testing.assert_close(found, logits(model), atol=3e-4, rtol=1e-4)


REFUSED = [
    ({"parts": "a9.h0", "to": 0}, "no part of"),
    ({"parts": "logits", "to": 0}, "no part of"),
    ({"parts": [], "to": 0}, "at least one part"),
    ({"parts": "m1"}, "one of `to`, `source` and `add`"),
    ({"parts": "m1", "to": 0, "source": OTHER}, "one of `to`, `source` and `add`"),
    ({"parts": "m1", "to": 0, "factor": 2}, "`factor`"),
    ({"parts": "m1", "to": [1.0, 2.0]}, "shape"),
    ({"parts": "m1", "to": "much"}, "takes numbers"),
    ({"parts": "m1", "to": 0, "at": -2}, "`at` is a position"),
    ({"parts": "m1", "to": 0, "at": []}, "`at` is a position"),
    ({"parts": "m1", "to": 0, "at": 64}, "below 64"),
    ({"parts": "m1", "to": 0, "at": "France"}, "give the `prompt`"),
    ({"parts": "m1", "to": 0, "source_at": 1}, "`source_at`"),
    ({"parts": "m1", "source": OTHER, "at": [0, 1], "source_at": 1}, "`source_at` chooses"),
    ({"parts": "m1", "source": OTHER, "at": 40}, "no position 40"),
]


@pytest.mark.parametrize(("options", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_a_patch_that_means_nothing_is_refused_and_nothing_is_touched(
    model: Model, options: dict, why: str
):
    before = logits(model)
    with pytest.raises(OptionError, match=why), patched(model, **options):
        pass
    assert torch.equal(logits(model), before)


def test_what_cannot_run_on_a_patched_model_says_so(model: Model, pairs: list[TokenPair]):
    with pytest.raises(NumericalError), patched(model, "m1", to=float("nan")):
        pass
    with patched(model, "resid1", to=0), pytest.raises(OptionError, match="overwritten"):
        attribute(model, pairs)
    request = EditRequest("The capital of {} is", "Peru", "Oslo")
    with patched(model, "m1", to=0), pytest.raises(OptionError, match="outside the block"):
        edit(model, request, "ft-m", layers=[1])
    pair = pairs[0].text
    with patched(model, "m1", to=0, at=2), pytest.raises(OptionError, match="single positions"):
        trace(model, pair.clean, pair.subject, pair.answer, samples=2)
