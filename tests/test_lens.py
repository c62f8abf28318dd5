"""Laws of the logit lens and of direct logit attribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuits.base.errors import OptionError, PromptError
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from locate.states.attribution import direct_logit_attribution, head_logits, written_tokens
from locate.states.lens import lens_positions, logit_lens
from tests.tiny import (
    byte_level_tokenizer,
    equal_length_pairs,
    gpt2_hf,
    llama_hf,
    metaspace_tokenizer,
    tiny_model,
)

PROMPT, SUBJECT = "The capital of South Korea is", "South Korea"


def last_logits(model: Model, ids: tuple[int, ...], hooks=()) -> torch.Tensor:
    with torch.no_grad():
        return model.last_logits(torch.tensor([ids]), hooks)


def zero_head(layer: int, head: int):
    def zero(value, hook):
        value = value.clone()
        value[:, -1, head] = 0
        return value

    return (f"blocks.{layer}.attn.o.hook_in", zero)


def test_the_last_state_is_the_models_output(model: Model) -> None:
    prompt = model.tokenizer.encode(PROMPT)
    tokens = {f"token {index}": index for index in range(0, 300, 7)}
    lens = logit_lens(model, prompt, tokens)
    output = last_logits(model, prompt.ids)[0]
    expected = output.softmax(-1)[list(tokens.values())]
    np.testing.assert_allclose(lens.probability[-1, 0], expected.numpy(), rtol=1e-4)
    order = output.argsort(descending=True).tolist()
    assert lens.rank[-1, 0].tolist() == [order.index(token) for token in tokens.values()]
    assert lens.best[-1, 0].tolist() == order[:5]


def test_every_state_is_hugging_faces_hidden_state_read_through_its_own_head(kind: str) -> None:
    hf = gpt2_hf() if kind == "gpt2" else llama_hf()
    model = tiny_model(kind)
    prompt = model.tokenizer.encode(PROMPT)
    lens = logit_lens(model, prompt, {"five": 5}, lens_positions(prompt, SUBJECT))
    norm = hf.transformer.ln_f if kind == "gpt2" else hf.model.norm
    with torch.no_grad():
        hidden = hf(torch.tensor([prompt.ids]), output_hidden_states=True).hidden_states
        for state in range(model.n_layers):  # the last one HF returns has passed the norm
            logits = hf.lm_head(norm(hidden[state][0]))
            for place, position in enumerate((len(prompt) - 1, prompt.span_of(SUBJECT).last)):
                p = logits[position].softmax(-1)[5].item()
                assert lens.probability[state, place, 0] == pytest.approx(p, rel=1e-4)


def test_all_tokens_probabilities_sum_to_one_and_ranks_are_a_permutation(model: Model) -> None:
    prompt = model.tokenizer.encode(PROMPT)
    everything = {str(index): index for index in range(model.d_vocab)}
    lens = logit_lens(model, prompt, everything, {"first": 0, "last": len(prompt) - 1})
    np.testing.assert_allclose(lens.probability.sum(-1), 1, rtol=1e-4)
    assert (np.sort(lens.rank, -1) == np.arange(model.d_vocab)).all()
    best = np.take_along_axis(lens.probability, lens.best.astype(int), -1)
    assert (np.diff(best, axis=-1) <= 0).all()
    assert (best[..., 0] == lens.probability.max(-1)).all()


def test_lens_rows_name_layers_and_positions(model: Model) -> None:
    prompt = model.tokenizer.encode(PROMPT)
    lens = logit_lens(model, prompt, {"answer": 7, "foil": 8}, lens_positions(prompt, SUBJECT))
    rows = lens.rows()
    assert len(rows) == (model.n_layers + 1) * 2 * 2
    assert (rows[0]["layer"], rows[-1]["layer"]) == (-1, model.n_layers - 1)
    assert rows[-1]["probability"] == lens.probability[-1, 1, 1]
    assert {row["position"] for row in rows} == {"last", "subject last"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokens": {}}, "at least one token"),
        ({"tokens": {"answer": 10**6}}, "no token 1000000"),
        ({"tokens": {"answer": -1}}, "no token -1"),
        ({"positions": {}}, "at least one position"),
        ({"positions": {"there": 99}}, "'there' is 99"),
        ({"top": 0}, "at least 1 token"),
    ],
)
def test_a_lens_that_cannot_be_is_refused(change: dict, words: str) -> None:
    model = tiny_model("gpt2")
    prompt = model.tokenizer.encode(PROMPT)
    with pytest.raises(OptionError, match=words):
        logit_lens(model, **{"prompt": prompt, "tokens": {"answer": 3}, **change})
    with pytest.raises(PromptError, match="not in the prompt"):
        lens_positions(prompt, "Peru")


def test_contributions_and_constant_sum_to_the_logit_difference(
    model: Model, pairs: list[TokenPair]
) -> None:
    found = direct_logit_attribution(model, pairs)
    truth = [last_logits(model, p.clean.ids)[0] for p in pairs]
    truth = [float(row[p.answer] - row[p.foil]) for row, p in zip(truth, pairs, strict=True)]
    scale = np.abs(found.contributions).max()
    np.testing.assert_allclose(found.logit_difference, truth, atol=1e-4)
    total = found.contributions.sum(1) + found.constant
    np.testing.assert_allclose(total, truth, atol=1e-4)
    assert scale > 0.1  # the parts are large against the tolerance
    assert np.abs(found.contributions[:, model.wiring().head_src(1, 2)]).max() > 1e-3


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_a_last_layer_heads_part_is_what_the_logits_lose_with_the_norm_frozen(
    model: Model, pairs: list[TokenPair]
) -> None:
    found, pair = direct_logit_attribution(model, pairs[:1]), pairs[0]
    layer, wiring = model.n_layers - 1, model.wiring()
    scale = {}

    def keep(value, hook):
        scale["clean"] = value.clone()

    def freeze(value, hook):
        return scale["clean"]

    point = "ln_final.hook_scale"
    clean = last_logits(model, pair.clean.ids, [(point, keep)])[0]
    # The last layer's MLP reads the heads too; hold it to its clean output.
    mlp = {}
    name = f"blocks.{layer}.mlp.hook_out"
    last_logits(model, pair.clean.ids, [(name, lambda v, hook: mlp.update(clean=v.clone()))])
    for head in range(model.n_heads):
        hooks = [zero_head(layer, head), (point, freeze), (name, lambda v, hook: mlp["clean"])]
        without = last_logits(model, pair.clean.ids, hooks)[0]
        lost = (clean - without)[pair.answer] - (clean - without)[pair.foil]
        part = found.contributions[0, wiring.head_src(layer, head)]
        assert part == pytest.approx(lost.item(), abs=1e-4)


def test_attribution_does_not_depend_on_batch_mates(model: Model, pairs: list[TokenPair]) -> None:
    together = direct_logit_attribution(model, pairs)
    alone = [direct_logit_attribution(model, [pair]).contributions[0] for pair in pairs]
    np.testing.assert_allclose(together.contributions, alone, atol=1e-5)
    np.testing.assert_allclose(together.mean(), np.mean(alone, 0), atol=1e-5)


def test_attribution_rows_are_sorted_by_size(model: Model, pairs: list[TokenPair]) -> None:
    found = direct_logit_attribution(model, pairs)
    rows = found.rows()
    sizes = [abs(row["contribution"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert {row["source"] for row in rows} == set(found.wiring.src_names)


def test_bf16_contributions_sum_to_the_logit_difference(kind: str) -> None:
    hf = gpt2_hf() if kind == "gpt2" else llama_hf()
    tokenizer = byte_level_tokenizer() if kind == "gpt2" else metaspace_tokenizer()
    model = Model.from_hf(hf.bfloat16(), tokenizer)
    found = direct_logit_attribution(model, equal_length_pairs(model))
    total = found.contributions.sum(1) + found.constant
    assert np.abs(total - found.logit_difference).max() < 0.05 * np.abs(found.contributions).max()


def test_attribution_without_pairs_is_an_error() -> None:
    with pytest.raises(OptionError, match="no prompt pairs"):
        direct_logit_attribution(tiny_model("gpt2"), [])


def test_a_heads_logits_are_its_contribution_for_every_pair_of_tokens(
    model: Model, pairs: list[TokenPair]
) -> None:
    found, wiring = direct_logit_attribution(model, pairs), model.wiring()
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    for row, pair in enumerate(pairs):
        logits = head_logits(model, torch.tensor([pair.clean.ids]), heads)[0]
        parts = (logits[:, pair.answer] - logits[:, pair.foil]).numpy()
        sources = [wiring.head_src(*head) for head in heads]
        np.testing.assert_allclose(parts, found.contributions[row, sources], atol=1e-5)


def test_written_tokens_are_the_ends_of_the_heads_logits(model: Model) -> None:
    prompt = model.tokenizer.encode(PROMPT)
    logits = head_logits(model, torch.tensor([prompt.ids]), [(1, 2)])[0, 0]
    (written,) = written_tokens(model, prompt, [(1, 2)], top=3)
    order = logits.argsort(descending=True).tolist()
    names = model.tokenizer.strings
    assert tuple(word for word, _ in written.raised) == names(order[:3])
    assert tuple(word for word, _ in written.lowered) == names(order[::-1][:3])
    assert written.raised[0][1] > 0 > written.lowered[0][1]
    assert written_tokens(model, prompt, []) == []


def test_heads_that_do_not_exist_are_refused(model: Model) -> None:
    prompt = model.tokenizer.encode(PROMPT)
    with pytest.raises(OptionError, match=r"no head a9\.h0"):
        written_tokens(model, prompt, [(9, 0)])
    with pytest.raises(OptionError, match="at least 1 token"):
        written_tokens(model, prompt, [(0, 0)], top=0)


def test_lens_and_attribution_leave_no_hook(model: Model, pairs: list[TokenPair]) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.bridge.modules())

    before = hooks()
    prompt = model.tokenizer.encode(PROMPT)
    logit_lens(model, prompt, {"answer": 3})
    direct_logit_attribution(model, pairs)
    written_tokens(model, prompt, [(0, 0)])
    assert hooks() == before
