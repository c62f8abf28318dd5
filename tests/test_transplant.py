"""Transplants between runs: what is taken changes the target, and all of it makes it the donor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.states.transplant import last_outputs, transplant_outputs, transplant_states

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
