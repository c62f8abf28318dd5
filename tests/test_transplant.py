"""Transplants between runs: what is taken changes the target, and all of it makes it the donor."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.model import taps
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.states.steering import patched
from locate.states.transplant import last_outputs, transplant_outputs, transplant_states
from tests.families import FAMILIES, family_model

TEXTS = ("The capital of France is", "The language of Japan is", "People in Peru is")
"""All end in the same token, so that only earlier tokens tell the runs apart."""


def encoded(model: Model) -> list[Prompt]:
    return [model.tokenizer.encode(text) for text in TEXTS]


def alone(model: Model, prompts: list[Prompt]) -> np.ndarray:
    """Probabilities after each prompt, one plain run each."""
    rows = [model.last_logits(torch.tensor([p.ids])).float().softmax(-1) for p in prompts]
    return torch.cat(rows).detach().numpy()


def masks(model: Model, n: int, chosen: list[int]) -> np.ndarray:
    found = np.zeros((1, n, model.wiring().n_src), dtype=bool)
    found[:, :, chosen] = True
    return found


def test_taking_nothing_leaves_the_target_as_it_is(model: Model) -> None:
    prompts = encoded(model)
    donors = last_outputs(model, list(reversed(prompts)))
    replies = transplant_outputs(model, prompts, donors, masks(model, 3, []), [5, 6, 7])
    plain = alone(model, prompts)
    np.testing.assert_allclose(replies.probability[0], plain[range(3), [5, 6, 7]], rtol=1e-4)


def test_taking_every_component_gives_the_donors_answer(model: Model) -> None:
    # Target and donor have the same last token at the same position, so nothing else is left.
    targets, donors = encoded(model)[:2], encoded(model)[1::-1]
    assert len(targets[0]) == len(targets[1])
    everything = list(range(1, model.wiring().n_src))
    given = last_outputs(model, donors)
    replies = transplant_outputs(model, targets, given, masks(model, 2, everything), [5, 6])
    np.testing.assert_allclose(
        replies.probability[0], alone(model, donors)[range(2), [5, 6]], rtol=1e-3
    )


def test_ones_own_outputs_change_nothing(model: Model) -> None:
    prompts = encoded(model)
    chosen = np.random.default_rng(0).random((4, 3, model.wiring().n_src)) < 0.5
    chosen[:, :, 0] = False
    replies = transplant_outputs(model, prompts, last_outputs(model, prompts), chosen, [5, 6, 7])
    plain = alone(model, prompts)[range(3), [5, 6, 7]]
    np.testing.assert_allclose(replies.probability, np.tile(plain, (4, 1)), rtol=1e-3)


def test_replies_do_not_depend_on_the_batch_size(model: Model) -> None:
    prompts = encoded(model) * 2
    donors = last_outputs(model, prompts[::-1])
    chosen = np.random.default_rng(1).random((5, 6, model.wiring().n_src)) < 0.3
    chosen[:, :, 0] = False
    answers = [5, 6, 7, 8, 9, 10]
    one, many = (
        transplant_outputs(model, prompts, donors, chosen, answers, batch_size=size)
        for size in (1, 16)
    )
    np.testing.assert_allclose(one.probability, many.probability, rtol=1e-3)
    np.testing.assert_array_equal(one.rank, many.rank)


def test_the_donors_last_state_gives_the_donors_answer_whatever_the_lengths(model: Model) -> None:
    prompts = encoded(model)
    donors = [prompts[2], prompts[0], prompts[1]]
    assert len({len(prompt) for prompt in prompts}) > 1
    ends, origins = ([len(p) - 1 for p in side] for side in (prompts, donors))
    replies = transplant_states(model, prompts, donors, ends, origins, [5, 6, 7])
    plain = alone(model, donors)[range(3), [5, 6, 7]]
    np.testing.assert_allclose(replies.probability[-1], plain, rtol=1e-3)


def test_a_state_taken_from_the_same_place_of_the_same_run_changes_nothing(model: Model) -> None:
    prompts = encoded(model)
    middle = [len(prompt) // 2 for prompt in prompts]
    replies = transplant_states(model, prompts, prompts, middle, middle, [5, 6, 7])
    plain = alone(model, prompts)[range(3), [5, 6, 7]]
    np.testing.assert_allclose(replies.probability, np.tile(plain, (model.n_layers, 1)), rtol=1e-3)


def test_a_state_after_the_last_layer_at_an_earlier_token_changes_nothing(model: Model) -> None:
    prompts = encoded(model)
    first = [1, 1, 1]
    replies = transplant_states(model, prompts, prompts[::-1], first, first, [5, 6, 7])
    plain = alone(model, prompts)[range(3), [5, 6, 7]]
    np.testing.assert_allclose(replies.probability[-1], plain, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_component_is_put_in_as_by_a_hook_on_a_whole_run(family: str) -> None:
    """Each alone, whatever layers are below it, and none."""
    model = family_model(family)
    ids = ((0, 2, 3, 4, 5, 10), (0, 16, 17, 4, 6, 10))
    prompts = [Prompt("", each, (), True, ()) for each in ids]
    donors = last_outputs(model, prompts[::-1])
    wiring = model.wiring()
    components = np.eye(wiring.n_src, dtype=bool)[:, None].repeat(2, 1)
    components[0] = False  # the embedding: none
    replies = transplant_outputs(model, prompts, donors, components, [5, 6], batch_size=1)
    for src, name in enumerate(wiring.src_names):
        layer = int(wiring.src_layers[src])
        is_head, head = ".h" in name, int(name.partition(".h")[2] or 0)

        def put(value: Tensor, hook: object, layer=layer, is_head=is_head, head=head) -> Tensor:
            value = value.clone()
            if is_head:
                value[:, -1].view(2, model.n_heads, -1)[:, head] = donors.heads[:, layer, head]
            else:
                value[:, -1] = donors.mlps[:, layer]
            return value

        at = taps.head_outputs(layer) if is_head else model.taps.mlp_out(max(layer, 0))
        with torch.no_grad():
            logits = model.last_logits(torch.tensor(ids), [(at, put)] if src else [])
        expected = logits.float().softmax(-1)[[0, 1], [5, 6]]
        np.testing.assert_allclose(replies.probability[src], expected, rtol=1e-4)


@pytest.mark.parametrize("is_patched", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_state_is_put_in_as_by_a_hook_on_a_whole_run(family: str, is_patched: bool) -> None:
    """At unlike places of prompts of one length, in a model as it is and in a patched one."""
    model, given = family_model(family), list[Tensor]()
    ids = ((0, 2, 3, 4, 5, 10), (0, 16, 17, 4, 6, 10), (0, 2, 17, 4, 7, 10), (0, 2, 3, 8, 9, 10))
    prompts = [Prompt("", each, (), True, ()) for each in ids]
    at, origins = [4, 5, 1, 2], [3, 2, 4, 5]

    def run(tokens: tuple[int, ...], layer: int, place: int, state: Tensor | None) -> Tensor:
        def put(value: Tensor, hook: object) -> Tensor:
            given.append(value[0, place].clone())
            value = value.clone()
            value[0, place] = given[-1] if state is None else state
            return value

        return model.last_logits(torch.tensor([tokens]), [(taps.resid_post(layer), put)])[0]

    vector = torch.linspace(-1, 1, model.d_model)
    patch = patched(model, "m1", add=vector, at=3) if is_patched else nullcontext()
    with torch.no_grad(), patch:
        replies = transplant_states(model, prompts, prompts[::-1], at, origins, [5, 6, 7, 8])
        for layer in range(model.n_layers):
            for row in range(4):
                run(ids[3 - row], layer, origins[row], None)
                logits = run(ids[row], layer, at[row], given[-1])
                expected = float(logits.float().softmax(-1)[5 + row])
                assert replies.probability[layer, row] == pytest.approx(expected, rel=1e-4)


def test_the_embedding_cannot_be_taken(model: Model) -> None:
    prompts = encoded(model)
    with pytest.raises(OptionError, match="embedding"):
        transplant_outputs(
            model, prompts, last_outputs(model, prompts), masks(model, 3, [0]), [5, 6, 7]
        )


def test_a_position_outside_the_prompt_is_refused(model: Model) -> None:
    prompts = encoded(model)
    with pytest.raises(OptionError, match="no position 99"):
        transplant_states(model, prompts, prompts, [99, 0, 0], [0, 0, 0], [5, 6, 7])


def test_outputs_of_pairs_prompts_are_those_of_single_runs(
    model: Model, pairs: list[TokenPair]
) -> None:
    prompts = [pair.clean for pair in pairs]
    together = last_outputs(model, prompts)
    for row, prompt in enumerate(prompts[:3]):
        single = last_outputs(model, [prompt])
        torch.testing.assert_close(together.heads[row], single.heads[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.mlps[row], single.mlps[0], rtol=1e-4, atol=1e-5)
