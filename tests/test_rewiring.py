"""What an edit does to a circuit: laws on tiny models, and a ROME edit of the trained one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import locate.changes.rewiring
import locate.edges.eap
from circuits.base.arrays import save_arrays
from circuits.base.choices import Contrast, KeyValue
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.writing import to_json
from circuits.edits.edit import EditRequest, LowRank, WeightDelta
from circuits.edits.effects.pairs import edit_pairs, in_other_wordings
from circuits.edits.methods.run import edit
from circuits.facts.facts import Fact, fill, relation
from circuits.facts.pairs import TokenPair, encode_pairs
from circuits.graph.circuit import Circuit
from circuits.graph.compare import compare_scores
from circuits.graph.noise import Decision, Sample, corrupted_subject
from circuits.graph.scores import EdgeScores
from circuits.graph.select import prune, top_n
from circuits.model.model import Model, load
from locate.changes.rewired import Rewiring
from locate.changes.rewiring import changed_edges, distinct_prompts, rewiring, unedited_side
from locate.changes.rewiring_summary import summarise, whole_numbers
from locate.looks.says import says
from locate.search import Scoring
from locate.states.attribution import direct_logit_attribution

FAST = {"scoring": Scoring(steps=2), "resamples": 4, "draws": 2, "n_heads": 2}
MANY = {**FAST, "resamples": 50}


@pytest.fixture(autouse=True)
def _small_effects_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of a tiny random model moves the metric by less than a tenth of a logit."""
    for module in ("restored", "rewiring_summary"):
        monkeypatch.setattr(f"locate.changes.{module}.UNDEFINED_BELOW", 1e-6)


def selector(scores: EdgeScores) -> Circuit:
    return prune(top_n(scores, 40))


def small_edit(model: Model, seed: int = 0, size: float = 1.0) -> WeightDelta:
    """A rank-one change of the middle layer's MLP output matrix."""
    generator = torch.Generator().manual_seed(seed)
    name = model.mlp_output_name(1)
    rows, columns = model.parameter(name).shape
    left = size * torch.randn(rows, 1, generator=generator)
    return WeightDelta({name: LowRank(left, torch.randn(1, columns, generator=generator))})


_DONE: dict[tuple, Rewiring] = {}


def rewired(model: Model, pairs: list[TokenPair], seed: int = 0, **options: object) -> Rewiring:
    """A random edit's rewiring; tests that ask for the same one share it, as it is a value."""
    key = (model.name, seed, *((name, repr(value)) for name, value in sorted(options.items())))
    if key not in _DONE:
        delta = small_edit(model, seed)
        _DONE[key] = rewiring(model, delta, pairs, selector=selector, **{**FAST, **options})
    return _DONE[key]


# --- pairs for an edit ---------------------------------------------------------------------------

REQUEST = EditRequest("The capital of {} is", "Peru", "Oslo", "Lima", "capital")
FACTS = [
    Fact("capital", subject, answer)
    for subject, answer in (
        ("France", "Paris"),
        ("Japan", "Tokyo"),
        ("Cuba", "Havana"),
        ("Norway", "Oslo"),
        ("Peru", "Lima"),
    )
]


def test_no_partner_has_the_old_or_the_new_object(model):
    found = edit_pairs(model.tokenizer, [REQUEST], others=FACTS)
    assert {corrupted_subject(pair) for pair in found.before} == {"France", "Japan", "Cuba"}
    assert found.before == found.after
    for pair in found.before:
        assert (pair.clean, pair.answer, pair.foil) == (REQUEST.text, "Lima", "Oslo")


@pytest.mark.parametrize("prompt", ["{}n is", "In Peru, the capital of {} is"])
def test_pairs_ask_about_the_subject_in_the_slot(model, prompt):
    request = replace(REQUEST, prompt=prompt)
    found = edit_pairs(model.tokenizer, [request], others=FACTS)
    assert {corrupted_subject(pair) for pair in found.before} <= {"France", "Japan", "Cuba"}
    for pair in found.encode(model.tokenizer)[0]:
        assert pair.subject == pair.clean.span_of("Peru", 1 + prompt.count("Peru"))


def test_each_side_asks_for_its_own_object_where_the_answers_are_contrasted(model):
    found = edit_pairs(model.tokenizer, [REQUEST], others=FACTS, contrast=Contrast.ANSWER)
    objects = {fact.subject: fact.object for fact in FACTS}
    for before, after in zip(found.before, found.after, strict=True):
        assert (before.clean, before.corrupted) == (after.clean, after.corrupted)
        assert (before.answer, after.answer) == ("Lima", "Oslo")
        assert before.foil == after.foil == objects[corrupted_subject(before)]


def test_every_wording_gets_its_partners_and_the_seed_chooses_them(model):
    frames = ("In {} the capital is", REQUEST.prompt)

    def of(seed: int) -> tuple:
        return edit_pairs(
            model.tokenizer, [REQUEST], others=FACTS, templates=frames, partners=2, seed=seed
        ).before

    assert [pair.clean for pair in of(0)] == ["The capital of Peru is"] * 2 + [
        "In Peru the capital is"
    ] * 2
    assert of(0) == of(0)
    assert len({of(seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("request_", "options", "error", "reason"),
    [
        (REQUEST, {"partners": 1}, OptionError, "at least 2 partners"),
        (REQUEST, {"others": FACTS[:1]}, PromptError, "fewer than 2"),
        (EditRequest("In {} is", "Peru", "Oslo"), {}, OptionError, "what it replaces"),
        (EditRequest("In {} is", "Peru", "Oslo", "Lima"), {}, OptionError, "names no relation"),
        (None, {}, OptionError, "no edit"),
    ],
)
def test_a_request_without_pairs_is_refused(model, request_, options, error, reason):
    requests = [] if request_ is None else [request_]
    with pytest.raises(error, match=reason):
        edit_pairs(model.tokenizer, requests, **options)


def test_a_request_without_partners_is_skipped_where_others_have_some(model):
    lonely = EditRequest("The capital of {} is", "a land with many more tokens", "Oslo", "Lima")
    found = edit_pairs(model.tokenizer, [lonely, REQUEST], others=FACTS)
    assert [request for request, _ in found.skipped] == [lonely]
    assert {pair.subject for pair in found.before} == {"Peru"}


# --- rewiring ------------------------------------------------------------------------------------


def test_an_edit_that_changes_nothing_rewires_nothing(model, pairs):
    nothing = 0.0 * small_edit(model)
    found = rewiring(model, nothing, pairs, selector=selector, **FAST)
    assert found.comparison.jaccard == 1
    assert found.comparison.dissimilarity == 0
    assert found.comparison.changes.counts()[Decision.UNCHANGED] == model.wiring().n_edges
    assert np.array_equal(found.followed.rank[0], found.followed.rank[1])
    assert found.switched == ()
    assert all(head.swing == head.moved == 0 for head in found.heads)
    assert np.isnan(found.restoration.recovered)


def test_the_model_is_left_bit_for_bit_as_it_was(model, pairs):
    before = {name: model.parameter(name).clone() for name in model.parameter_names}
    provenance = model.provenance
    rewiring(model, small_edit(model), pairs, selector=selector, **FAST)
    assert all(torch.equal(model.parameter(name), before[name]) for name in before)
    assert model.provenance == provenance


def test_each_model_is_attributed_once_however_many_resamples(model, pairs, monkeypatch):
    calls = []
    plain = locate.edges.eap.attribute

    def counted(*args, **options):
        calls.append(len(args[1]))
        return plain(*args, **options)

    monkeypatch.setattr(locate.edges.eap, "attribute", counted)
    seen = []
    found = rewired(model, pairs, resamples=50, progress=lambda n, of: seen.append((n, of)))
    assert calls == [len(pairs)] * 2
    assert seen[-1] == (2 * len(pairs), 2 * len(pairs))
    calls.clear()
    options = {"scoring": FAST["scoring"], "n_heads": FAST["n_heads"]}
    before = unedited_side(model, pairs, **options)
    calls.clear()
    again = rewiring(model, small_edit(model), pairs, selector=selector, before=before, **MANY)
    assert calls == [len(pairs)]
    assert again.as_dict() == found.as_dict()
    unseen = unedited_side(model, pairs, **{**options, "n_heads": 0})
    with pytest.raises(OptionError, match="without heads"):
        rewiring(model, small_edit(model), pairs, selector=selector, before=unseen, **MANY)


def test_the_comparison_is_that_of_both_models_own_scores(model, pairs):
    found = rewired(model, pairs)
    plain = locate.edges.eap.attribute(model, pairs, FAST["scoring"])
    with small_edit(model).applied(model):
        edited = locate.edges.eap.attribute(model, pairs, FAST["scoring"])
    before, after = found.comparison.scores
    np.testing.assert_allclose(before, plain.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, edited.values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.comparison.changes.change, after - before, rtol=1e-3, atol=1e-4
    )
    assert found.comparison.before.scores.per_pair is None


def test_heads_speak_for_old_and_new_as_direct_attribution_says(model, pairs):
    found, asked = rewired(model, pairs), distinct_prompts(pairs)
    runs = [direct_logit_attribution(model, asked).mean()]
    with small_edit(model).applied(model):
        runs.append(direct_logit_attribution(model, asked).mean())
    places = {name: place for place, name in enumerate(model.wiring().src_names)}
    assert found.heads
    for head in found.heads:
        for side in (0, 1):
            expected = runs[side][places[head.name]]
            assert head.old[side] - head.new[side] == pytest.approx(expected, abs=1e-4)


def test_what_the_nodes_write_accounts_for_the_swing_of_the_answer(model, pairs):
    """But for biases and the final norm's shift, which belong to no node."""
    found, asked = rewired(model, pairs), distinct_prompts(pairs)
    runs = [direct_logit_attribution(model, asked)]
    with small_edit(model).applied(model):
        runs.append(direct_logit_attribution(model, asked))
    rest = [float(run.constant.mean()) for run in runs]
    whole = found.written.sum(1) + rest
    assert found.logit_differences == pytest.approx(tuple(whole), abs=1e-3)
    summary = summarise([found], resamples=10)
    shares = [summary["layer", group, "written_share"].value for group in found.comparison.layers]
    by_layer = dict(zip(found.comparison.layers, shares, strict=True))
    outside = (rest[0] - rest[1]) / found.swing
    assert sum(by_layer.values()) == pytest.approx(1 - outside, abs=1e-3)


def test_the_heads_shown_are_those_that_moved_most(model, pairs):
    found = rewired(model, pairs, n_heads=1)
    wiring = model.wiring()
    before, after = found.comparison.scores
    moved = np.bincount(wiring.edge_src, np.abs(after.astype(float) - before), wiring.n_src)
    heads = [src for src, name in enumerate(wiring.src_names) if name.startswith("a")]
    best = max(heads, key=lambda src: moved[src])
    assert found.heads[0].name == wiring.src_names[best]
    assert found.heads[0].moved == pytest.approx(moved[best])
    assert 1 <= len(found.heads) <= 2


def test_the_last_state_of_the_followed_objects_is_the_models_own_output(model, pairs):
    found = rewired(model, pairs)
    asked = distinct_prompts(pairs)
    place = found.followed.places.index("last")
    for row, pair in enumerate(asked):
        probability = model.last_logits(torch.tensor([pair.clean.ids]))[0].softmax(-1)
        np.testing.assert_allclose(
            found.followed.probability[0, row, -1, place],
            probability[[pair.answer, pair.foil]].numpy(),
            rtol=1e-3,
            atol=1e-6,
        )
    assert len(found.followed.rows()) == 2 * 2 * (model.n_layers + 1) * 2


def test_only_the_largest_changes_are_restored_where_a_limit_is_set(model):
    wiring = model.wiring()
    rows = np.random.default_rng(0).standard_normal((10, wiring.n_edges))
    before = EdgeScores(wiring, rows.mean(0), rows)
    after = rows + np.where(np.arange(wiring.n_edges) % 3, 0, np.arange(wiring.n_edges))
    comparison = compare_scores(
        before,
        EdgeScores(wiring, after.mean(0), after),
        selector,
        Sample(tuple(range(10)), tuple(range(10))),
        resamples=0,
    )
    called = changed_edges(comparison)
    assert called.sum() > 5
    few = changed_edges(comparison, 5)
    assert few.sum() == 5
    assert not (few & ~called).any()
    size = np.abs(comparison.changes.change)
    assert size[few].min() >= size[called & ~few].max()
    assert np.array_equal(changed_edges(comparison, int(called.sum())), called)


def test_the_same_edges_are_restored_on_prompts_that_chose_none(model, pairs):
    """On the same prompts they do the same, and further ones change neither circuit nor edges."""
    alone = rewired(model, pairs)
    there = rewired(model, pairs, elsewhere=pairs)
    assert alone.elsewhere is None
    for name, value in there.restoration.arrays().items():
        assert np.array_equal(value, there.elsewhere.arrays()[name]), name
        assert np.array_equal(value, alone.restoration.arrays()[name]), name
    few = rewired(model, pairs, elsewhere=pairs[:1])
    assert few.elsewhere.n_edges == few.restoration.n_edges
    assert few.elsewhere.restored.shape == (1,)
    assert few.provenance["elsewhere"] == [pairs[0].text.clean]
    assert few.as_dict()["elsewhere"]["edges"] == few.restoration.n_edges


def test_other_wordings_are_the_relations_and_not_the_requests(model):
    request = EditRequest("The capital of {} is", "France", "Rome", "Paris", "country_capital")
    found = in_other_wordings(model.tokenizer, [request])
    named = relation("country_capital")
    said = {fill(each, "France") for each in (*named.templates, *named.held_out)} - {request.text}
    assert {pair.clean for pair in found} <= said
    assert len(found) == len({pair.clean for pair in found}) > 2
    assert {(pair.answer, pair.foil) for pair in found} == {("Paris", "Rome")}
    elsewhere = replace(request, relation="capital")
    assert in_other_wordings(model.tokenizer, [elsewhere]) == []


def test_a_model_that_keeps_its_answer_is_asked_for_that_answer(model, pairs):
    """With answers contrasted, an edit that changes nothing must not look like one that does."""
    after = [replace(pair, answer=int(np.argmin(_logits(model, pair)))) for pair in pairs]
    nothing = 0.0 * small_edit(model)
    found = rewiring(model, nothing, pairs, after, selector=selector, **FAST)
    assert found.comparison.dissimilarity == 0
    swapped = rewiring(model, nothing, after, list(pairs), selector=selector, **FAST)
    assert swapped.comparison.dissimilarity > 0.1


def _logits(model: Model, pair: TokenPair) -> np.ndarray:
    with torch.no_grad():
        return model.last_logits(torch.tensor([pair.clean.ids]))[0].numpy()


def test_keys_and_values_may_be_counted_for_every_query_head(model, pairs):
    kv = KeyValue.PER_QUERY_HEAD
    options = {**FAST, "scoring": Scoring(steps=2, kv=kv)}
    found = rewiring(model, small_edit(model), pairs, selector=selector, **options)
    assert found.comparison.before.wiring == model.wiring(kv)
    assert found.restoration.random.shape == (2, len(distinct_prompts(pairs)))


def test_sides_that_ask_other_prompts_are_refused(model, pairs):
    with pytest.raises(OptionError, match="same prompts"):
        rewiring(model, small_edit(model), pairs, pairs[::-1], selector=selector, **FAST)
    with pytest.raises(OptionError, match="no prompt pairs"):
        rewiring(model, small_edit(model), [], selector=selector, **FAST)


# --- files and summaries -------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [0, 2])
def test_save_then_load_is_identity(model, pairs, tmp_path, draws):
    found = rewired(model, pairs, draws=draws, roles={"a0.h0": "mover"})
    path = tmp_path / "rewiring.kc.safetensors"
    found.save(path)
    loaded = Rewiring.load(path)
    assert json.loads(to_json(loaded.as_dict())) == json.loads(to_json(found.as_dict()))
    assert loaded.heads == found.heads
    loaded.save(tmp_path / "again.kc.safetensors")
    assert (tmp_path / "again.kc.safetensors").read_bytes() == path.read_bytes()
    assert summarise([loaded]).rows() == summarise([found]).rows()


def test_what_was_restored_elsewhere_is_stored(model, pairs, tmp_path):
    found = rewired(model, pairs, elsewhere=pairs[:1])
    found.save(tmp_path / "a.kc.safetensors")
    again = Rewiring.load(tmp_path / "a.kc.safetensors")
    assert again.elsewhere.as_dict() == found.elsewhere.as_dict()


def test_a_file_that_is_no_rewiring_is_refused(tmp_path):
    path = tmp_path / "r.kc.safetensors"
    save_arrays(path, "rewiring", {}, {"comparison": {}})
    with pytest.raises(FileFormatError, match=r"r\.kc\.safetensors"):
        Rewiring.load(path)


def test_a_summary_is_the_mean_over_requests(model, pairs):
    found = [rewired(model, pairs, seed) for seed in range(3)]
    summary = summarise(found, resamples=50)
    assert summary.n == 3
    shares = [{mass.group: mass.share for mass in each.comparison.by_layer()} for each in found]
    thrice = summarise(3 * found, resamples=50)
    for group in ("input", "0", "1", "2"):
        expected = np.mean([share[group] for share in shares])
        interval = thrice["layer", group, "moved_share"]
        assert interval.value == pytest.approx(expected)
        assert interval.low <= interval.value <= interval.high
        few = summary["layer", group, "moved_share"]
        assert few.value == pytest.approx(expected)
        assert np.isnan([few.low, few.high]).all(), "three requests are too few to resample"
    jaccard = np.mean([whole_numbers(each)["jaccard"] for each in found])
    assert summary["whole", "", "jaccard"].value == pytest.approx(jaccard)
    assert summary["role", "mlp", "moved_share"].value > 0
    to_json(summary.rows())


def test_edits_that_are_their_own_controls_do_nothing_beyond_them(model, pairs):
    found = [rewired(model, pairs, seed) for seed in range(2)]
    summary = summarise(found, found, resamples=50)
    values = [interval.value for interval in summary.beyond_control.values()]
    assert np.nanmax(np.abs(values)) == 0
    assert summary.beyond_control.keys() == summary.means.keys()


def test_an_undefined_number_is_left_out_of_the_mean(model, pairs):
    found = rewired(model, pairs)
    nothing = replace(found, restoration=None)
    summary = summarise([nothing, found], resamples=50)
    quantity = ("whole", "", "recovered")
    assert summary.counts[quantity] == 1
    assert summary[quantity].value == pytest.approx(found.restoration.recovered)


def test_summaries_of_nothing_or_with_too_few_controls_are_refused(model, pairs):
    with pytest.raises(OptionError, match="no rewirings"):
        summarise([])
    found = rewired(model, pairs)
    with pytest.raises(OptionError, match="as many controls"):
        summarise([found], [found, found])


# --- a ROME edit of the trained model ------------------------------------------------------------


@pytest.mark.slow
def test_after_a_rome_edit_a_mover_says_the_new_object_and_its_edges_bring_the_old_one_back():
    model = load("facts-gpt2", device="cpu")
    asked = relation("country_capital")
    request = EditRequest(asked.templates[0], "France", "Tokyo", "Paris", asked.name)
    delta = edit(model, request, "rome").delta
    pairs = edit_pairs(model.tokenizer, [request], seed=0)
    before, after = pairs.encode(model.tokenizer)
    elsewhere = encode_pairs(model.tokenizer, in_other_wordings(model.tokenizer, [request]))
    found = rewiring(
        model,
        delta,
        before,
        after,
        selector=lambda s: prune(top_n(s, 200)),
        resamples=5,
        draws=5,
        elsewhere=elsewhere,
    )
    assert found.comparison.changes.counts()[Decision.CHANGED] > 50
    assert not {pair.text.clean for pair in elsewhere} & {pair.text.clean for pair in before}
    assert found.elsewhere.recovered > 0.8
    assert np.max(np.abs(found.elsewhere.random_recovered)) < 0.3
    assert found.elsewhere.as_dict() != found.restoration.as_dict()
    assert f"on {len(elsewhere)} prompts in other wordings they undo" in says(found)
    assert found.switched
    for head in found.switched:
        assert "Tokyo" not in [word.strip() for word in head.written[0]]
    assert any(head.written[1][0].strip() == "Tokyo" for head in found.switched)
    last = found.followed.places.index("last")
    assert found.followed.rank[:, 0, -1, last].tolist()[0][0] == 0  # Paris before
    assert found.followed.rank[:, 0, -1, last].tolist()[1][1] == 0  # Tokyo after
    assert found.restoration.recovered > 0.8
    assert found.restoration.first_restored.all()
    assert not found.restoration.first_edited.any()
    assert np.max(np.abs(found.restoration.random_recovered)) < 0.3
    # The edited MLP itself writes nothing for the answer: the movers fetch it (layers 6 and 7).
    shares = {g: summarise([found])["layer", g, "written_share"].value for g in ("2", "6", "7")}
    assert shares["6"] + shares["7"] > 0.8 > abs(shares["2"]) * 4
