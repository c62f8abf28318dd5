"""Roles of heads: hand-made heads get their labels; readings and ablations obey their laws."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError, PromptError
from circuits.base.intervals import Interval, bootstrap, bootstrap_means, mean
from circuits.facts.pairs import TokenPair, encode_pairs
from circuits.graph.ablation import source_constants
from circuits.graph.circuit import Circuit
from circuits.model.model import Model
from circuits.model.tokens import Tokenizer
from locate.heads.attention import read_heads
from locate.heads.head_check import EFFECTS, Effect, Role, Verdict
from locate.heads.readings import REGIONS, HeadReadings, Region
from locate.heads.role_checks import ablate_heads, choose_controls, judge, nearest_controls
from locate.heads.role_criteria import Evidence, RoleCriteria
from locate.heads.role_report import RoleReport
from locate.heads.roles import head_roles, label_heads
from locate.states.attribution import direct_logit_attribution, head_logits
from tests.tiny import (
    byte_level_tokenizer,
    gpt2_hf,
    llama_hf,
    metaspace_tokenizer,
    prompt_pairs,
)

LOOSE = RoleCriteria(attention=0.05, share=0.001, resamples=200)
"""Thresholds at which heads of a random model get labels, for laws that need some."""
MOVER, RELATION, MIXTURE, SILENT = "a0.h0", "a0.h1", "a0.h2", "a0.h3"


# --- a model whose heads' roles are known --------------------------------------------------------

IS_SUBJECT, IS_RELATION, WHICH_SUBJECT, IS_BOS = 0, 1, 2, 7
WHICH_ANSWER, IS_OBJECT = 10, 20
ONE_FEATURE, TWO_FEATURES = 31**0.5, 30 / 60**0.5
"""What LayerNorm over 32 dimensions makes of a vector with one, or two, equal entries."""


@pytest.fixture(scope="module")
def hand_made() -> Model:
    """Layer 0 has a mover, a relation, a mixture and a silent head; nothing else writes.

    The mover gives most of its plain attention to BOS, where its values are next to nothing.
    """
    hf = gpt2_hf(layers=2, heads=4)
    pairs = _pairs()
    subjects = list(dict.fromkeys(_subject_token(pair) for pair in pairs))
    answers = {_subject_token(pair): pair.answer for pair in pairs}
    objects = [answers[token] for token in subjects]
    capital = pairs[0].clean.ids[pairs[0].clean.tokens.index(" capital")]

    generator = torch.Generator().manual_seed(0)
    embedding = torch.zeros(hf.config.vocab_size, 32)
    # The last token's own embedding is most of the residual, as it is in trained models: silencing
    # a head then hardly changes the final norm's scale.
    embedding[:, 24:] = 10 * torch.randn(len(embedding), 8, generator=generator)
    unembedding = torch.zeros_like(embedding)
    embedding[[*subjects, capital, pairs[0].clean.ids[0]]] = 0
    for place, token in enumerate(subjects):
        embedding[token, [IS_SUBJECT, WHICH_SUBJECT + place]] = 1.0
        unembedding[objects[place], [WHICH_ANSWER + place, IS_OBJECT]] = 1.0
    embedding[capital, IS_RELATION] = 1.0
    embedding[pairs[0].clean.ids[0], IS_BOS] = 1.0

    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        hf.transformer.wte.weight.copy_(embedding)
        hf.lm_head.weight = torch.nn.Parameter(unembedding)
        attn = hf.transformer.h[0].attn
        even = ONE_FEATURE / TWO_FEATURES  # subjects have two features: this makes keys alike
        looks_at = {
            0: {IS_SUBJECT: even, IS_BOS: 1.02},
            1: {IS_RELATION: 1.0},
            2: {IS_SUBJECT: even, IS_RELATION: 1.0},
            3: {IS_SUBJECT: even},
        }
        for head, features in looks_at.items():
            first = 8 * head
            attn.c_attn.bias[first] = 12.0  # a constant query
            for feature, weight in features.items():
                attn.c_attn.weight[feature, 32 + first] = weight
            if head in (0, 2):
                for place in range(len(subjects)):
                    attn.c_attn.weight[WHICH_SUBJECT + place, 64 + first + place] = 1.0
                    attn.c_proj.weight[first + place, WHICH_ANSWER + place] = 1.0
            if head in (1, 2):
                attn.c_attn.weight[IS_RELATION, 64 + first + 7] = 1.0
                attn.c_proj.weight[first + 7, IS_OBJECT] = 1.0
    return Model.from_hf(hf, byte_level_tokenizer(), "hand-made")


@pytest.fixture(scope="module")
def hand_pairs() -> list[TokenPair]:
    return _pairs()


@pytest.fixture(scope="module")
def report(hand_made: Model, hand_pairs: list[TokenPair]) -> RoleReport:
    return head_roles(hand_made, hand_pairs)


def _pairs() -> list[TokenPair]:
    usable = []
    for pair in prompt_pairs():
        with contextlib.suppress(PromptError):  # subjects of different lengths
            usable += encode_pairs(Tokenizer(byte_level_tokenizer()), [pair], bos=True)
    return usable


def _subject_token(pair: TokenPair) -> int:
    return pair.clean.ids[pair.subject.last]


def test_hand_made_heads_get_the_roles_they_were_made_for(report):
    assert report.roles == {MOVER: "mover", RELATION: "relation", MIXTURE: "mixture"}


def test_a_head_that_looks_at_the_subject_but_writes_nothing_is_no_mover(report):
    silent = report[SILENT]
    assert silent.weighted[Region.SUBJECT] > 0.9
    assert silent.role is Role.NONE


def test_a_sink_on_the_first_token_does_not_hide_what_a_mover_reads(report):
    mover = report[MOVER]
    assert mover.attention[Region.BOS] > 0.4
    assert mover.weighted[Region.SUBJECT] > 0.8 > mover.attention[Region.SUBJECT]


def test_ablation_confirms_the_hand_made_heads(report):
    assert {head.name: head.check.verdict for head in report.labelled} == {
        MOVER: Verdict.CONFIRMED,
        RELATION: Verdict.CONFIRMED,
        MIXTURE: Verdict.CONFIRMED,
    }


def test_without_the_mover_others_rise_and_without_the_relation_head_off_tokens_rise(report):
    assert report[MOVER].check.effects[Effect.P_OTHERS].low > 0
    assert report[RELATION].check.effects[Effect.P_OFF].low > 0
    assert report[RELATION].check.effects[Effect.P_OTHERS].high < 0


def test_a_baseline_of_silent_heads_changes_nothing(report):
    assert len(report.controls) == len(report.labelled)
    assert all(abs(report.baseline[effect].value) < 1e-6 for effect in EFFECTS)


def test_a_hand_made_mover_writes_the_answers(report, hand_made, hand_pairs):
    answers = {hand_made.tokenizer.token_string(pair.answer) for pair in hand_pairs}
    assert answers <= set(report[MOVER].written)


def test_the_report_has_the_most_important_head_first_and_is_plain_json(report):
    scores = [head.score for head in report.heads]
    assert scores == sorted(scores, reverse=True)
    stored = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert stored["heads"][0]["role"] == report.heads[0].role
    rows = json.loads(json.dumps(report.rows(), allow_nan=False))
    assert [row["head"] for row in rows] == [head.name for head in report.heads]
    assert {row["verdict"] for row in rows if row["role"] == "none"} == {None}


def test_no_check_leaves_the_labels_as_they_are(report, hand_made, hand_pairs):
    unchecked = head_roles(hand_made, hand_pairs, check=False)
    assert unchecked.roles == report.roles
    assert unchecked.baseline is None
    assert all(head.check is None for head in unchecked.heads)


def test_a_circuit_leaves_only_its_own_heads(report, hand_made, hand_pairs):
    wiring = hand_made.wiring()
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[wiring.edge_index(f"{MOVER}->logits")] = True
    kept[wiring.edge_index(f"{SILENT}->logits")] = True
    within = head_roles(hand_made, hand_pairs, circuit=Circuit(wiring, kept))
    assert [head.name for head in within.heads] == [MOVER, SILENT]
    assert within.roles == {MOVER: "mover"}
    assert within[MOVER].mover == report[MOVER].mover


# --- laws of reading ---------------------------------------------------------------------------


def test_attention_shares_sum_to_one(model, pairs):
    readings = read_heads(model, pairs)
    for shares in (readings.attention, readings.weighted):
        assert shares.min() >= 0
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)


def test_what_the_regions_write_sums_to_direct_logit_attribution(model, pairs):
    wiring = model.wiring()
    attribution = direct_logit_attribution(model, pairs)
    for row, pair in enumerate(pairs):  # with the foil as only rival both contrasts are the same
        gains = read_heads(model, [pair], [pair.answer, pair.foil]).answer_gain[0].sum(-1)
        for layer in range(model.n_layers):
            first = wiring.head_src(layer)
            expected = attribution.contributions[row, first : first + model.n_heads]
            np.testing.assert_allclose(gains[layer], expected, atol=1e-4)


def test_the_range_gain_is_a_difference_of_mean_logits(model, pairs):
    pair, heads = pairs[0], [(0, 1), (2, 3)]
    objects = sorted({p.answer for p in pairs} | {p.foil for p in pairs})
    rivals = [token for token in objects if token != pair.answer]
    rest = np.setdiff1d(np.arange(model.d_vocab), objects)
    logits = head_logits(model, torch.tensor([pair.clean.ids]), heads)[0].numpy()
    gains = read_heads(model, pairs).range_gain[0].sum(-1)
    for (layer, head), row in zip(heads, logits, strict=True):
        assert gains[layer, head] == pytest.approx(row[rivals].mean() - row[rest].mean(), abs=1e-4)


def test_written_tokens_are_the_largest_mean_logits(model, pairs):
    heads = [(1, 0), (2, 2)]
    written = read_heads(model, pairs, n_written=3).written
    logits = [head_logits(model, torch.tensor([p.clean.ids]), heads)[0] for p in pairs]
    means = torch.stack([row - row.mean(-1, keepdim=True) for row in logits]).mean(0)
    for (layer, head), row in zip(heads, means, strict=True):
        assert written[layer][head] == tuple(row.topk(3).indices.tolist())


def test_without_bos_the_first_token_belongs_to_the_prompt(model, pairs):
    without = encode_pairs(model.tokenizer, [pair.text for pair in pairs], bos=False)
    assert (read_heads(model, pairs).attention[..., REGIONS.index(Region.BOS)] > 0).all()
    assert (read_heads(model, without).attention[..., REGIONS.index(Region.BOS)] == 0).all()


def test_batch_size_and_order_change_neither_labels_nor_numbers(model, pairs):
    together = head_roles(model, pairs, criteria=LOOSE, batch_size=16)
    alone = head_roles(model, pairs[::-1], criteria=LOOSE, batch_size=1)
    assert len(together.roles) > 1
    assert alone.roles == together.roles
    assert alone.controls == together.controls
    for left, right in zip(alone.heads, together.heads, strict=True):
        assert left.name == right.name
        assert left.mover.gain.low == pytest.approx(right.mover.gain.low, abs=1e-4)
        if right.check is not None:
            effects = (left.check.effects, right.check.effects)
            for effect in EFFECTS:
                assert effects[0][effect].value == pytest.approx(effects[1][effect].value, abs=1e-4)


def test_bf16_reads_what_fp32_reads_but_for_rounding(kind, pairs):
    make = gpt2_hf if kind == "gpt2" else llama_hf
    tokenizer = byte_level_tokenizer() if kind == "gpt2" else metaspace_tokenizer()
    precise, coarse = (
        read_heads(Model.from_hf(make().to(dtype), tokenizer), pairs)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert np.abs(coarse.weighted - precise.weighted).max() < 0.02
    correlation = np.corrcoef(coarse.answer_gain.ravel(), precise.answer_gain.ravel())[0, 1]
    assert correlation > 0.999


# --- laws of ablation --------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", [Ablation.ZERO, Ablation.MEAN])
def test_an_ablation_is_a_whole_run_with_the_head_replaced_at_the_last_token(
    model, pairs, ablation
):
    layer, head = 1, 2
    constant = source_constants(model, pairs, ablation).heads[layer][head]
    effects = ablate_heads(model, pairs, [(0, 0), (layer, head)], ablation=ablation)
    objects = {p.answer for p in pairs} | {p.foil for p in pairs}

    def silence(value, hook):
        value = value.clone()
        value.reshape(*value.shape[:2], model.n_heads, -1)[:, -1, head] = constant
        return value

    for row, pair in enumerate(pairs):
        rivals = sorted(objects - {pair.answer})
        runs = []
        for hooks in ([], [(f"blocks.{layer}.attn.o.hook_in", silence)]):
            logits = model.last_logits(torch.tensor([pair.clean.ids]), hooks)[0].detach()
            gap = logits[pair.answer] - logits[rivals].mean()
            runs.append([float(gap), float(logits.softmax(-1)[pair.answer])])
        found = [effects[row, 1, EFFECTS.index(e)] for e in (Effect.ANSWER_GAP, Effect.P_ANSWER)]
        np.testing.assert_allclose(found, np.subtract(runs[1], runs[0]), atol=1e-4)


def test_changes_of_probability_sum_to_zero(model, pairs):
    effects = ablate_heads(model, pairs, [(0, 0), (1, 3), (2, 1)])
    parts = [EFFECTS.index(e) for e in (Effect.P_ANSWER, Effect.P_OTHERS, Effect.P_OFF)]
    assert np.abs(effects).max() > 1e-3
    np.testing.assert_allclose(effects[..., parts].sum(-1), 0, atol=1e-5)


def test_the_model_is_untouched_by_it_all(model, pairs):
    tokens = torch.tensor([pairs[0].clean.ids])
    before = model.last_logits(tokens)
    weights = {name: value.clone() for name, value in model.bridge.state_dict().items()}
    head_roles(model, pairs, criteria=LOOSE)
    with pytest.raises(OptionError):
        head_roles(model, pairs, objects=[model.d_vocab])
    assert torch.equal(model.last_logits(tokens), before)
    assert all(torch.equal(v, weights[n]) for n, v in model.bridge.state_dict().items())


# --- the criterion -----------------------------------------------------------------------------


def _evidence(attention: float = 0.5, low: float = 0.1, share: float = 0.5) -> Evidence:
    return Evidence(attention, Interval(0.5, low, 0.9), share)


NOTHING = Evidence(0.0, Interval(0.0, 0.0, 0.0), 0.0)


def test_one_part_makes_a_mover_or_a_relation_head_and_both_a_mixture_head():
    criteria, part = RoleCriteria(), _evidence()
    assert criteria.classify(part, NOTHING) is Role.MOVER
    assert criteria.classify(NOTHING, part) is Role.RELATION
    assert criteria.classify(part, part) is Role.MIXTURE
    assert criteria.classify(NOTHING, NOTHING) is Role.NONE


def test_thresholds_are_inclusive_and_the_interval_must_lie_above_zero():
    criteria = RoleCriteria(attention=0.3, share=0.02)
    assert criteria.holds(_evidence(attention=0.3, share=0.02, low=1e-9))
    assert not criteria.holds(_evidence(attention=np.nextafter(0.3, 0)))
    assert not criteria.holds(_evidence(share=np.nextafter(0.02, 0)))
    assert not criteria.holds(_evidence(low=0.0))
    assert not criteria.holds(_evidence(low=np.nan))


def test_a_head_that_looks_at_the_subject_and_copies_from_elsewhere_is_no_mover():
    looks = np.tile([0.8, 0.1, 0.05, 0.05, 0.0], (6, 1, 2, 1))
    gains = np.zeros_like(looks)
    gains[:, 0, 0, REGIONS.index(Region.SUBJECT)] = 1.0
    gains[:, 0, 1, REGIONS.index(Region.SELF)] = 1.0
    readings = HeadReadings(looks, looks, gains, np.zeros_like(gains), (((1,), (2,)),))
    [[mover, copier]] = label_heads(readings, RoleCriteria())
    assert (mover.role, copier.role) == (Role.MOVER, Role.NONE)
    assert mover.score == mover.mover.share == 0.5  # of what both heads write
    assert copier.answer_gain.value == 1.0


def _changes(low: float, high: float) -> dict[Effect, Interval]:
    return {effect: Interval((low + high) / 2, low, high) for effect in EFFECTS}


def test_a_verdict_asks_for_a_loss_that_exceeds_the_baseline():
    loss, gain, unsure = _changes(-2, -1), _changes(1, 2), _changes(-1, 1)
    for role in (Role.MOVER, Role.RELATION, Role.MIXTURE):
        assert judge(role, loss, loss) is Verdict.CONFIRMED
        assert judge(role, loss, None) is Verdict.CONFIRMED
        assert judge(role, loss, unsure) is Verdict.NOT_CONFIRMED
        assert judge(role, unsure, loss) is Verdict.NOT_CONFIRMED
        assert judge(role, gain, loss) is Verdict.CONTRARY


def test_each_role_is_judged_by_its_own_effect():
    mixed = {**_changes(-2, -1), Effect.RANGE_GAP: Interval(0.0, -1.0, 1.0)}
    assert judge(Role.MOVER, mixed, None) is Verdict.CONFIRMED
    assert judge(Role.RELATION, mixed, None) is Verdict.NOT_CONFIRMED
    assert judge(Role.MIXTURE, mixed, None) is Verdict.NOT_CONFIRMED


def test_controls_are_unlabelled_heads_of_the_nearest_layers_each_drawn_once():
    has_role = np.zeros((4, 3), dtype=bool)
    labelled = [(2, 0), (2, 1), (3, 2)]
    for at in labelled:
        has_role[at] = True
    for seed in range(20):
        chosen = choose_controls(labelled, has_role, seed)
        assert len(set(chosen)) == 3
        assert not any(has_role[at] for at in chosen)
        assert chosen[0] == (2, 2)
        assert {layer for layer, _ in chosen[1:]} <= {1, 3}
    assert choose_controls([(0, 0)], np.ones((1, 1), dtype=bool), 0) == []


def test_each_head_is_held_against_its_own_nearest_heads_however_many_are_labelled() -> None:
    """Twelve labelled heads of early layers leave one of layer 5 the controls of its layer."""
    has_role = np.zeros((6, 8), dtype=bool)
    labelled = [(layer, head) for layer in range(3) for head in range(4)] + [(5, 0)]
    for site in labelled:
        has_role[site] = True
    found = nearest_controls(labelled, has_role, 4, 0)
    for (layer, _), controls in found.items():
        assert len(set(controls)) == 4
        assert {each for each, _ in controls} == {layer}
        assert not any(has_role[site] for site in controls)
    assert found[0, 0] == found[0, 3]
    assert len({site for each in found.values() for site in each}) == 4 * 4
    has_role[4:] = True
    assert {layer for layer, _ in nearest_controls([(5, 0)], has_role, 4, 0)[5, 0]} == {3}
    assert nearest_controls([(0, 0)], np.ones((1, 1), dtype=bool), 4, 0) == {(0, 0): []}


def test_bootstrap_limits_of_many_means_agree_with_scipy_and_ignore_order():
    values = np.random.default_rng(1).normal(1, 1, (40, 3))
    centre, low, high = bootstrap_means(values, resamples=4000)
    shuffled = bootstrap_means(values[::-1], resamples=4000)
    for left, right in zip((centre, low, high), shuffled, strict=True):
        assert np.array_equal(left, right)
    for column in range(3):
        other = bootstrap(mean, values[:, column], resamples=4000)
        assert centre[column] == pytest.approx(other.value)
        assert (low[column], high[column]) == pytest.approx((other.low, other.high), abs=0.03)


def test_pairs_that_ask_one_prompt_are_one_observation(model, pairs):
    """However often a question is asked, it says no more of others than once."""
    twice = [*pairs, *pairs[:3], pairs[0]]
    once, repeated = (head_roles(model, each, criteria=LOOSE) for each in (pairs, twice))
    assert repeated.provenance["prompts"] == once.provenance["prompts"] == len(pairs)
    assert repeated.roles == once.roles
    for head in once.heads:
        other = repeated[head.name]
        mine = [head.mover.gain, head.relation.gain, head.answer_gain, head.range_gain]
        theirs = [other.mover.gain, other.relation.gain, other.answer_gain, other.range_gain]
        for one, same in zip(mine, theirs, strict=True):
            limits = (one.value, one.low, one.high)
            assert limits == pytest.approx((same.value, same.low, same.high), abs=1e-4)


def test_of_a_single_prompt_there_are_labels_but_neither_intervals_nor_checks(model, pairs):
    foils = [replace(pairs[0], foil=pair.foil) for pair in pairs[:3]]
    report = head_roles(model, foils, criteria=LOOSE)
    assert report.labelled
    assert report.provenance["prompts"] == 1
    assert "checked_on" not in report.provenance
    for head in report.heads:
        assert head.check is None
        assert np.isnan([head.mover.gain.low, head.range_gain.high]).all()
    for head in report.labelled:
        parts = {Role.MOVER: [head.mover], Role.RELATION: [head.relation]}
        for part in parts.get(head.role, [head.mover, head.relation]):
            assert part.gain.value > 0


# --- bad input ---------------------------------------------------------------------------------


def test_a_pair_without_a_subject_is_named(model, pairs):
    text = replace(pairs[1].text, subject=None)
    without = [pairs[0], replace(pairs[1], text=text, subject=None)]
    with pytest.raises(OptionError, match=r"pair 2 .*names no subject"):
        head_roles(model, without)


def test_absurd_requests_are_refused(model, pairs):
    with pytest.raises(OptionError, match="no prompt pairs"):
        head_roles(model, [])
    with pytest.raises(OptionError, match="only object"):
        head_roles(model, [pairs[0], pairs[0]], objects=[pairs[0].answer])
    with pytest.raises(OptionError, match="vocabulary"):
        head_roles(model, pairs, objects=[-1, 3])
    with pytest.raises(OptionError, match="same relation"):
        ablate_heads(model, pairs, [(0, 0)], ablation=Ablation.PATCH)
    with pytest.raises(OptionError, match="share"):
        RoleCriteria(share=0)
    with pytest.raises(OptionError, match="circuit is for"):
        head_roles(model, pairs, circuit=Circuit.full(replace(model.wiring(), n_layers=9)))
