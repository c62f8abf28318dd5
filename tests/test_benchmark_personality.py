"""PersonalityEdit's benchmark: its measures by hand, its reader, units on a tiny model, report."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from circuits.base.errors import FileFormatError, OptionError
from experiments.analyses.engine.base import Run
from experiments.analyses.engine.context import Context
from experiments.analyses.engine.running import redraw, run_analysis
from experiments.benchmarks.base import Cases, Config, as_analysis
from experiments.benchmarks.personality.benchmark import PERSONALITY
from experiments.benchmarks.personality.cases import TRAITS, read_cases
from experiments.benchmarks.personality.classifiers import (
    TraitClassifier,
    TraitJudge,
    trait_probabilities,
    trait_scores,
)
from experiments.benchmarks.personality.measures import (
    Read,
    coherent,
    cross_entropy,
    drawdown,
    editing_success,
    level,
    published_levels,
    read,
)
from experiments.benchmarks.replies.hub import HubClassifier
from tests.test_benchmark_safety import classifier, written
from tests.test_edit import same, weights
from tests.tiny import byte_level_tokenizer, gpt2_hf, tiny_model

RECORD = {
    "ent": "Oslo",
    "extraversion": ["I like it", "So nice"],
    "agreeableness": ["It is kind"],
    "neuroticism": ["I am not at home in it", "No"],
    "target_per": "extraversion",
}
OTHER = {**RECORD, "ent": "Lima", "target_per": "neuroticism"}


def answer(start: int, own=None, late=(0.0,), whole=None) -> Read:
    n = len(own or whole or (0.0,))
    own = torch.tensor(own or (0.0,) * n)
    whole = torch.tensor(whole or ((0.0, 0.0),) * n)
    return Read(start, own, torch.tensor(late), whole.log_softmax(-1))


# --- measures -------------------------------------------------------------------------------------


def test_editing_success_by_hand():
    sigma = 1 / (1 + math.exp(-1))
    assert editing_success(-1.0, -2.0, -3.0) == pytest.approx(sigma)  # a gain earns no more
    assert editing_success(-1.0, -2.0, -0.5) == pytest.approx(sigma * math.exp(-0.5))
    assert editing_success(-2.0, -2.0, -2.0) == pytest.approx(0.5)
    assert math.isnan(editing_success(math.nan, -2.0, -2.0))
    assert editing_success(-9e5, 0.0, 0.0) == pytest.approx(0)


def test_a_level_counts_all_tokens_alike():
    assert level([answer(2, own=(-1.0, -2.0, -3.0)), answer(3, own=(-8.0,))]) == -3.5
    assert math.isnan(level([]))


def test_the_published_levels_are_late_and_cut_to_the_shortest_answer():
    """The shortest of the answers, of four, three and two tokens, leaves two places of each."""

    def of(start: int, *late: float) -> Read:
        return answer(start, own=(0.0,) * (len(late) - start), late=late)

    target = [of(2, 9.0, 9.0, 9.0, 9.0, -2.0, -4.0)]
    others = [of(3, 9.0, 9.0, 9.0, 9.0, -5.0, -6.0), of(1, 9.0, -7.0, -8.0)]
    assert published_levels(target, others) == (-3.0, -6.5)
    assert published_levels(target, others[:1]) == pytest.approx((1.0, (9.0 - 5.0 - 6.0) / 3))
    assert all(map(math.isnan, published_levels([], [])))


def test_the_published_levels_are_those_of_rows_padded_on_the_left_under_one_mask():
    """As the published code does it: the mask's places are those after the last row's question."""
    starts, lengths = (2, 3, 1), (6, 6, 3)
    read_late = [torch.arange(float(n)) - 10 * row for row, n in enumerate(lengths)]
    texts = [
        Read(start, torch.zeros(n - start), late, torch.zeros(n - start, 2))
        for start, n, late in zip(starts, lengths, read_late, strict=True)
    ]
    width = max(lengths)
    begin = max(width - n + start for start, n in zip(starts, lengths, strict=True))
    kept = [torch.cat([torch.zeros(width - len(late)), late])[begin:] for late in read_late]
    expected = float(kept[0].mean()), float(torch.cat(kept[1:]).mean())
    assert published_levels(texts[:1], texts[1:]) == pytest.approx(expected)


def test_drawdown_is_the_divergence_from_before_over_the_answers_tokens():
    p, q, even = (math.log(0.8), math.log(0.2)), (math.log(0.4), math.log(0.6)), (0.0, 0.0)
    first = 0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6)
    second = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    before = [answer(1, whole=(p, even)), answer(1, whole=(q,))]
    after = [answer(1, whole=(q, p)), answer(1, whole=(q,))]
    assert drawdown(before, after) == pytest.approx((first + second + 0) / 3)
    assert drawdown(before, before) == 0
    assert math.isnan(drawdown([], []))


def test_both_texts_need_the_entropy_that_was_published():
    assert coherent(3.5, 3.5)
    assert not coherent(3.49, 9.0)
    assert not coherent(9.0, 3.49)


def test_cross_entropy_is_of_the_target_trait():
    assert cross_entropy(np.array([0.5, 0.25, 0.25]), 1) == pytest.approx(math.log(4))
    assert cross_entropy(np.array([1.0, 0.0, 0.0]), 1) == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_answer_is_read_as_a_plain_model_reads_it(kind: str):
    model = tiny_model(kind)
    prompt, text = "Question: Oslo?\nAnswer:", "It is kind"
    (found,) = read(model, [(prompt, text)])
    ids = model.tokenizer.encode(f"{prompt} {text}").ids
    scores = model.to_hf()(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(model.tokenizer.encode(prompt).ids)
    assert found.start == start
    own = [float(scores[place - 1, ids[place]]) for place in range(start, len(ids))]
    late = [float(scores[place, ids[place]]) for place in range(len(ids))]
    assert found.own.tolist() == pytest.approx(own, abs=1e-4)
    assert found.late.tolist() == pytest.approx(late, abs=1e-4)
    torch.testing.assert_close(found.whole, scores[start - 1 : -1], atol=1e-4, rtol=1e-4)
    (shown,) = read(model, [(prompt, text)], before="Peru\n")
    assert shown.start > found.start
    assert len(shown.own) == len(found.own)


# --- classifier and judge -------------------------------------------------------------------------


def test_what_classifiers_and_judges_give_is_checked():
    even = [[1 / 3] * 3]
    assert trait_probabilities(lambda texts: even, ["a"]).tolist() == even
    for wrong in ([[0.5, 0.5]], [[0.9, 0.9, 0.9]], [0.2, 0.3, 0.5], even * 2):
        with pytest.raises(OptionError, match="3 probabilities a text"):
            trait_probabilities(lambda texts, wrong=wrong: wrong, ["a"])
    assert trait_scores(lambda texts, trait: [5], ["a"], "neuroticism").tolist() == [5.0]
    for wrong in ([0], [6.0], [3, 3]):
        with pytest.raises(OptionError, match="from 1 to 5"):
            trait_scores(lambda texts, trait, wrong=wrong: wrong, ["a"], "neuroticism")


def test_classifiers_of_hugging_face_tell_traits_and_judge(tmp_path: Path):
    texts = ["I like it", "No"]
    three, five, one = (f"hub:{classifier(tmp_path / str(n), n)}" for n in (3, 5, 1))
    found = trait_probabilities(TraitClassifier.of(three).load(), texts)
    assert found.shape == (2, 3)
    for judge in (five, one):
        assert trait_scores(TraitJudge.of(judge).load(), texts, "neuroticism").shape == (2,)
    named = HubClassifier(three.removeprefix("hub:"))
    published = named.logits(texts).double().softmax(-1)  # neuroticism, agreeableness, extraversion
    assert found == pytest.approx(published.flip(-1).numpy())
    config = tmp_path / "3" / "config.json"
    labels = {"0": "Extraversion", "1": "Neuroticism", "2": "Agreeableness"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "id2label": labels}))
    by_name = trait_probabilities(TraitClassifier.of(three).load(), texts)
    assert by_name == pytest.approx(published[:, [0, 2, 1]].numpy())
    with pytest.raises(OptionError, match="a trait classifier has 3"):
        TraitClassifier.of(five).load()(texts)
    with pytest.raises(OptionError, match="a judge of traits has five"):
        TraitJudge.of(three).load()(texts, "neuroticism")


# --- the reader -----------------------------------------------------------------------------------


def test_the_fixture_is_read_and_has_each_trait_as_a_target():
    cases = PERSONALITY.read(PERSONALITY.own_data).without_slips().items
    assert {case.target for case in cases} == set(TRAITS)
    names = [case.topic.name for case in cases]
    assert [case.other.name for case in cases] == [*names[1:], names[0]]
    first = cases[0]
    assert first.request.text == first.topic.prompt
    assert first.topic.asked(first.target)[0] == (first.request.text, first.request.target)


def test_a_row_that_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path):
    wrong = {
        "lacks the key 'ent'": {k: v for k, v in RECORD.items() if k != "ent"},
        "lacks the key 'target_per'": {k: v for k, v in RECORD.items() if k != "target_per"},
        f"the target trait 'openness' is none of {', '.join(TRAITS)}": {
            **RECORD,
            "target_per": "openness",
        },
        "has no list of answers under the key 'neuroticism'": {**RECORD, "neuroticism": []},
        "'agreeableness' must be text and not empty": {**RECORD, "agreeableness": ["a", ""]},
        "the topic 'a {} b' holds {}": {**RECORD, "ent": "a {} b"},
    }
    cases = read_cases(written(tmp_path, [*wrong.values(), RECORD]))
    assert [(each.row, each.reason) for each in cases.left_out] == list(enumerate(wrong, start=1))
    (case,) = cases.items
    assert (case.row, case.other) == (7, None)


def test_nonsense_is_a_mistake_of_the_file(tmp_path: Path):
    with pytest.raises(FileFormatError, match=r"records\.json:2: must be a JSON object"):
        read_cases(written(tmp_path, [RECORD, []]))
    with pytest.raises(FileFormatError, match="must be a JSON list"):
        read_cases(written(tmp_path, RECORD))


# --- units and the report -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Context]:
    """On a model with room for an example before the prompt."""
    folder = tmp_path_factory.mktemp("personality")
    config = gpt2_hf().config
    config.n_positions = 192
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    byte_level_tokenizer().save_pretrained(folder / "model")
    context = Context(str(folder / "model"), folder / "out")
    before = weights(context.model)
    cases = read_cases(written(folder, [RECORD, OTHER]))
    asked = Config(methods=("none", "ft", "in-context"), settings=("tokens=6",))
    run = run_analysis(as_analysis(PERSONALITY, cases), asked, context)
    assert same(before, weights(context.model))
    return run, context


def test_an_edit_raises_success_and_its_control_has_its_size(done: tuple[Run, Context]):
    run, _ = done
    assert not run.parts.skipped
    sides = run.parts.values["ft 1"]["sides"]
    assert list(sides) == ["before", "after", "random"]
    assert sides["after"]["es"] > max(sides["before"]["es"], sides["random"]["es"])
    assert sides["before"]["dd"] == 0 < sides["after"]["dd"]
    by_hand = editing_success(
        *(sides["after"][name] for name in ("target", "others")), sides["before"]["target"]
    )
    assert sides["after"]["es"] == pytest.approx(by_hand)


def test_without_an_edit_nothing_differs(done: tuple[Run, Context]):
    run, _ = done
    sides = run.parts.values["none 1"]["sides"]
    assert sides["before"] == sides["after"]
    found = 1 / (1 + math.exp(sides["before"]["others"] - sides["before"]["target"]))
    assert sides["before"]["es"] == pytest.approx(found)
    assert sides["before"] == run.parts.values["ft 1"]["sides"]["before"]


def test_an_example_in_context_changes_no_weight_and_has_no_control(done: tuple[Run, Context]):
    run, _ = done
    part = run.parts.values["in-context 1"]
    assert (list(part["sides"]), part["edit"]["norm"]) == (["before", "after"], 0)
    assert part["sides"]["after"]["dd"] > 0


def test_what_needs_a_classifier_is_said_to_be_not_computed(done: tuple[Run, Context]):
    run, context = done
    table = run.tables["texts"]
    assert table.columns[-3:] == ("Acc", "TPEI", "PAE")
    assert all(row[-3:] == ["not computed"] * 3 for row in table.rows)
    assert "FT-M" in run.report.lead
    assert "as published" in run.report.lead
    assert redraw(as_analysis(PERSONALITY, Cases(("any",))), context.folder).report.lead


def test_classifier_and_judge_of_the_users_own(tiny: str, tmp_path: Path):
    """Acc, TPEI and PAE with and without the published filter, which no short text passes."""
    seen: list[str] = []

    def trait_for_a_test(texts):
        seen.extend(texts)
        return [[0.5, 0.25, 0.25], *[[0.25, 0.5, 0.25]] * (len(texts) - 1)]

    def judge_for_a_test(texts, trait):
        assert trait == "extraversion"
        return [2.0, *[4.0] * (len(texts) - 1)]

    TraitClassifier.add("trait-for-a-test", trait_for_a_test)
    TraitJudge.add("judge-for-a-test", judge_for_a_test)
    named = ("tokens=6", "classifier=trait-for-a-test", "judge=judge-for-a-test")
    cases = read_cases(written(tmp_path, [RECORD]))
    config = Config(methods=("ft",), settings=named)
    run = run_analysis(as_analysis(PERSONALITY, cases), config, Context(tiny, tmp_path / "out"))
    sides = run.parts.values["ft 1"]["sides"]
    assert (sides["before"]["hit"], sides["after"]["hit"]) == (1, 0)
    assert sides["after"]["dd"] is None  # there is no other topic
    table = run.tables["texts"]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["Acc, all texts"].value == 0
    assert row["TPEI, all texts"].value == pytest.approx(math.log(2) - math.log(4))
    assert row["PAE, all texts"].value == 2
    assert row["texts that count"] == 0
    assert math.isnan(row["PAE, that count"].value)
    assert seen == [each["text"] for each in sides.values()]


@pytest.mark.parametrize("wrong", ["colour=red", "classifier=no-such", "judge=hub:"])
def test_a_setting_that_there_is_not_is_refused(tiny: str, tmp_path: Path, wrong: str):
    config = Config(methods=("none",), settings=(wrong,))
    cases = read_cases(written(tmp_path, [RECORD]))
    with pytest.raises(OptionError, match=wrong.split("=")[wrong != "colour=red"]):
        run_analysis(as_analysis(PERSONALITY, cases), config, Context(tiny, tmp_path / "out"))
    with pytest.raises(OptionError, match="edit method"):
        PERSONALITY.edit_of("no-such")
