"""Laws of the logit lens averaged over facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuits.base.arrays import load_arrays, save_arrays
from circuits.base.errors import NumericalError, OptionError
from circuits.base.intervals import FEWEST
from circuits.base.origin import OBSERVED
from circuits.facts.pairs import TokenPair
from circuits.model.model import Model
from locate.heads.attention import rivals
from locate.states.attribution import direct_logit_attribution
from locate.states.lens import lens_positions, logit_lens
from locate.states.lens_average import average_lens
from locate.states.lens_curves import AverageLens, Followed, Place
from locate.states.observed import recorded
from tests.tiny import equal_length_pairs, tiny_model


@pytest.fixture
def lens(model: Model, pairs: list[TokenPair]) -> AverageLens:
    return average_lens(model, pairs)


def repeated(lens: AverageLens, times: int) -> AverageLens:
    """The same facts several times over: limits need more of them than the tiny model has."""
    parts = {name: np.concatenate([values] * times) for name, values in lens.arrays().items()}
    origin = {name: value for name, value in lens.provenance.items() if name != OBSERVED}
    return replace(lens, **parts, provenance=origin)


def asked(lens: AverageLens, groups: list[int]) -> AverageLens:
    """The lens with a record of which rows ask one fact."""
    own = repeated(lens, 1)
    return replace(own, provenance={**own.provenance, **recorded(groups, "facts")})


def test_limits_draw_facts_with_all_wordings_that_ask_them(lens: AverageLens) -> None:
    """Facts asked four times are no more facts; of two facts in many pairs there are no limits."""
    place, what, n = Place.LAST, Followed.ANSWER, lens.n_facts
    once = repeated(lens, -(-FEWEST // n))
    four = repeated(once, 4)
    numbers = list(range(once.n_facts))
    for name in ("median_rank", "mean_probability"):
        shared = getattr(asked(four, numbers * 4), name)(place, what)
        alone, own = (
            getattr(each, name)(place, what) for each in (four, asked(four, [*range(four.n_facts)]))
        )
        wide, narrow = (np.nanmax(each.high - each.low) for each in (shared, alone))
        assert narrow < wide or narrow == wide == 0
        np.testing.assert_array_equal(alone.low, own.low)  # each its own: no digit differs
        np.testing.assert_array_equal(alone.high, own.high)
        few = getattr(asked(four, [place % 2 for place in range(four.n_facts)]), name)(place, what)
        assert np.isnan(few.low).all()
        np.testing.assert_array_equal(few.value, alone.value)
    exact = asked(four, numbers * 4).mean_probability(place, what)
    expected = once.mean_probability(place, what)
    spread = expected.high - expected.low
    np.testing.assert_allclose(exact.high - exact.low, spread, atol=0.15 * spread.max())


def test_pairs_of_one_fact_are_recorded_as_one(model: Model, pairs: list[TokenPair]) -> None:
    by_subject = list({pair.text.subject: pair for pair in pairs}.values())
    assert average_lens(model, by_subject).groups is None
    found = average_lens(model, by_subject * 2)
    assert found.groups is not None
    assert found.groups.tolist() == [*range(len(by_subject))] * 2
    broken = {**found.metadata(), "provenance": {OBSERVED: {"groups": [0]}}}
    with pytest.raises(OptionError, match="one observation"):
        AverageLens.from_arrays(found.arrays(), broken)


def test_each_fact_has_the_best_rank_that_the_lens_gives_its_tokens(
    model: Model, pairs: list[TokenPair], lens: AverageLens
) -> None:
    others = rivals(model, pairs)
    for fact, pair in enumerate(pairs):
        assert pair.subject is not None
        wanted = {
            Followed.ANSWER: (pair.answer,),
            Followed.OTHERS: others[fact],
            Followed.SUBJECT: pair.clean.ids[pair.subject.start : pair.subject.stop],
        }
        positions = lens_positions(pair.clean, pair.text.subject)
        for column, what in enumerate(lens.followed):
            tokens = {str(token): token for token in wanted[what]}
            alone = logit_lens(model, pair.clean, tokens, positions)
            np.testing.assert_array_equal(lens.rank[fact, :, :, column], alone.rank.min(-1))
            np.testing.assert_allclose(
                lens.probability[fact, :, :, column], alone.probability.max(-1), rtol=1e-4
            )


def test_the_batch_size_changes_nothing(
    model: Model, pairs: list[TokenPair], lens: AverageLens
) -> None:
    alone = average_lens(model, pairs, batch_size=1)
    np.testing.assert_array_equal(alone.rank, lens.rank)
    np.testing.assert_allclose(alone.probability, lens.probability, rtol=1e-4)


def test_limits_hold_the_estimate_and_do_not_depend_on_the_order(lens: AverageLens) -> None:
    lens = repeated(lens, FEWEST)
    turned = replace(lens, rank=lens.rank[::-1], probability=lens.probability[::-1])
    for place in lens.places:
        for what in lens.followed:
            ranks, again = lens.median_rank(place, what), turned.median_rank(place, what)
            assert (ranks.low <= ranks.value).all()
            assert (ranks.value <= ranks.high).all()
            np.testing.assert_array_equal(ranks.low, again.low)
            np.testing.assert_array_equal(ranks.high, again.high)
            chance = lens.mean_probability(place, what)
            assert (chance.low <= chance.value).all()
            assert (chance.value <= chance.high).all()
    spread = lens.median_rank(Place.LAST, Followed.ANSWER)
    assert (spread.low < spread.high).any()


@pytest.mark.parametrize("n_facts", [1, FEWEST - 1, FEWEST])
def test_few_facts_have_no_limits(model: Model, lens: AverageLens, n_facts: int) -> None:
    many = repeated(lens, FEWEST)
    rows = replace(many, rank=many.rank[:n_facts], probability=many.probability[:n_facts]).rows()
    assert len(rows) == 2 * 3 * (model.n_layers + 1)
    for limits in ("rank_limits", "probability_limits"):
        assert all((row[limits] is None) == (n_facts < FEWEST) for row in rows)
    assert {row["layer"] for row in rows} == set(range(-1, model.n_layers))


def test_without_subjects_the_last_token_is_read_alone(
    model: Model, pairs: list[TokenPair], lens: AverageLens
) -> None:
    nameless = replace(pairs[0], text=replace(pairs[0].text, subject=None), subject=None)
    part = average_lens(model, [nameless, *pairs[1:]])
    assert (part.places, part.followed) == ((Place.LAST,), (Followed.ANSWER, Followed.OTHERS))
    np.testing.assert_array_equal(part.rank, lens.rank[:, :, :1, :2])
    with pytest.raises(OptionError, match="subject at the last token was not followed"):
        part.median_rank(Place.LAST, Followed.SUBJECT)


def test_what_is_not_finite_has_no_rank_and_no_part() -> None:
    model = tiny_model("gpt2")
    pairs = equal_length_pairs(model)
    with torch.no_grad():
        model.parameter(model.mlp_output_name(1)).view(-1)[0] = np.nan
    with pytest.raises(NumericalError, match="not finite"):
        average_lens(model, pairs)
    with pytest.raises(NumericalError, match="not all finite"):
        direct_logit_attribution(model, pairs)


def test_storing_and_loading_is_identity(lens: AverageLens, tmp_path: Path) -> None:
    path = tmp_path / "lens.kc.safetensors"
    save_arrays(path, "average lens", lens.arrays(), lens.metadata())
    again = AverageLens.from_arrays(*load_arrays(path, "average lens"))
    assert again.rows() == lens.rows()
    assert again.metadata() == lens.metadata()
    np.testing.assert_array_equal(again.rank, lens.rank)
    np.testing.assert_array_equal(again.probability, lens.probability)


def test_arrays_that_are_no_lens_and_no_pairs_at_all_are_refused() -> None:
    with pytest.raises(OptionError, match="no prompt pairs"):
        average_lens(tiny_model("gpt2"), [])
    good = AverageLens(
        (Place.LAST,), (Followed.ANSWER,), np.zeros((1, 3, 1, 1), int), np.zeros((1, 3, 1, 1)), {}
    )
    arrays, metadata = good.arrays(), good.metadata()
    for bad_arrays, bad_metadata in [
        ({}, metadata),
        (arrays, {}),
        (arrays, {**metadata, "places": ["nowhere"]}),
        (arrays, {**metadata, "followed": ["answer", "subject"]}),
        ({**arrays, "probability": np.zeros((1, 2, 1, 1))}, metadata),
    ]:
        with pytest.raises(OptionError, match=r"not an averaged lens|is missing"):
            AverageLens.from_arrays(bad_arrays, bad_metadata)
