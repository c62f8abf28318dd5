"""`kc edit`, `kc unlearn` and `kc compare`: files, one line for every mistake, exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from circuits.base.choices import EditStatus, UnlearnMethod
from circuits.base.options import parse_settings
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import EditOutcome
from circuits.edits.requests import as_jsonl, read_requests
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.model.model import Model, load
from experiments.cli.main import main
from locate import edit as editing
from locate.edit import Mode, mode_for, parse_layers
from tests.test_cli import refusal, run_json, write_lines
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer

PROMPT, TEXT = "The capital of {} is", "The capital of Peru is"
ASKED = ("-p", PROMPT, "-s", "Peru", "-t", "Oslo")
FAST = ("--method", "ft", "--layers", "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    made = {
        "gpt2": (gpt2_hf(), byte_level_tokenizer()),
        "llama": (llama_hf(), metaspace_tokenizer()),
        "other": (gpt2_hf(seed=5), byte_level_tokenizer()),
    }
    for name, (model, tokenizer) in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in made}


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    requests = [
        EditRequest(PROMPT, "Peru", "Oslo", "Lima"),
        EditRequest("In {} the capital is", "Cuba", "Lima", "Havana"),
        EditRequest(PROMPT, "Japan", "Paris", "Tokyo"),
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text(as_jsonl(requests), encoding="utf-8")
    return path


def probability(model: Model, prompt: str, target: str) -> float:
    """Geometric mean over the target's tokens, one pass a token."""
    ids = list(model.tokenizer.encode(prompt).ids)
    logs = []
    for token in model.tokenizer.continuation(prompt, target):
        with torch.no_grad():
            logs.append(float(model.last_logits(torch.tensor([ids]))[0].log_softmax(-1)[token]))
        ids.append(token)
    return float(torch.tensor(logs).mean().exp())


# --- edit ----------------------------------------------------------------------------------------


def test_an_edit_is_written_and_does_what_its_summary_says(kind, models, tmp_path, capsys):
    out = tmp_path / "out"
    result = run_json(capsys, "edit", "-m", models[kind], *ASKED, *FAST, "-o", str(out))
    assert sorted(Path(path).name for path in result["files"]) == sorted(os.listdir(out))
    stored = json.loads((out / "summary.json").read_text())
    assert stored == {**result, "sha256": stored["sha256"]}
    assert result["status"] == {"done": 1}
    told = WeightDelta.load(out / "edit.kc.safetensors").provenance["judged"]
    assert told == {name: result[name] for name in told}
    assert told["success"]
    delta, model = WeightDelta.load(out / "edit.kc.safetensors"), load(models[kind], device="cpu")
    (score,) = result["scores"]
    before, after = score["probability"]
    assert probability(model, TEXT, "Oslo") == pytest.approx(before, rel=1e-3)
    with delta.applied(model):
        assert probability(model, TEXT, "Oslo") == pytest.approx(after, rel=1e-3)
    assert after > before
    assert (out / "summary.md").read_text().startswith("# ft in")
    (request,) = read_requests(out / "requests.jsonl").requests
    assert request.relation == "country_capital"  # the atlas knows this wording, and adds probes
    assert {"efficacy", "paraphrase", "locality"} <= result["success"]["after"].keys()


def test_a_rank_one_edit_says_where_its_moments_are_from(models, tmp_path, capsys):
    arguments = ("edit", "-m", models["llama"], *ASKED, "--method", "rome", "--layers", "1")
    out = tmp_path / "out"
    result = run_json(capsys, *arguments, "--moments", "identity", "-o", str(out))
    assert result["provenance"]["moments"]["kind"] == "identity"
    assert WeightDelta.load(out / "edit.kc.safetensors").provenance["method"] == "rome"


def test_the_saved_model_is_the_edited_one(models, tmp_path, capsys):
    out, saved = tmp_path / "out", tmp_path / "saved"
    arguments = ("edit", "-m", models["gpt2"], *ASKED, *FAST, "--save-model", str(saved))
    run_json(capsys, *arguments, "-o", str(out))
    model = load(models["gpt2"], device="cpu")
    ids = torch.tensor([model.tokenizer.encode(TEXT).ids])
    hf = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager")
    with WeightDelta.load(out / "edit.kc.safetensors").applied(model), torch.no_grad():
        expected = model.last_logits(ids)
        torch.testing.assert_close(hf(ids).logits[:, -1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["edit.kc.safetensors", "requests.jsonl", "summary.json"])
def test_a_users_own_file_is_kept_and_named_before_a_model_is_loaded(name, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    line = refusal(capsys, "edit", "-m", "no-such-model", *ASKED, "-o", str(tmp_path))
    assert f"holds a file {name}" in line
    assert (tmp_path / name).read_text() == "mine"


def test_single_edits_get_a_file_each_and_a_sequence_one(models, request_file, tmp_path, capsys):
    arguments = ("edit", "-m", models["gpt2"], "--requests", str(request_file), *FAST)
    each, whole = tmp_path / "each", tmp_path / "whole"
    alone = run_json(capsys, *arguments, "--each", "-o", str(each))
    assert alone["mode"] == "each"
    assert len(list(each.glob("edit-*.kc.safetensors"))) == 3
    after = run_json(capsys, *arguments, "--sequential", "-o", str(whole))
    assert after["mode"] == "sequential"
    assert after["right_after"] is not None
    first = [run["scores"][0]["probability"] for run in (alone, after)]
    assert first[0][0] == first[1][0]
    delta, model = WeightDelta.load(whole / "edit.kc.safetensors"), load(models["gpt2"], "cpu")
    with delta.applied(model):
        assert probability(model, TEXT, "Oslo") == pytest.approx(first[1][1], rel=1e-2)
    run_json(capsys, *arguments[:3], *ASKED, *FAST, "--each", "-o", str(each))
    assert not list(each.glob("edit-*.kc.safetensors"))  # no earlier run's edit stands beside it


def test_random_edits_are_the_seed_s(models, capsys):
    arguments = ("edit", "-m", models["llama"], "--random", "2", "-r", "country_capital", *FAST)
    one, same, other = (run_json(capsys, *arguments, "--seed", seed) for seed in "112")
    targets = [[score["target"] for score in run["scores"]] for run in (one, same, other)]
    assert targets[0] == targets[1] != targets[2]


def test_layers_come_from_a_trace_where_asked(models, capsys):
    arguments = ("edit", "-m", models["gpt2"], *ASKED, "--method", "ft", "--layers", "auto")
    result = run_json(capsys, *arguments)
    assert "1 traces" in result["layers_evidence"]
    assert len(result["layers"]) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "say what to edit"),
        ([*ASKED, "--random", "3"], "say what to edit"),
        (["-p", PROMPT, "-s", "Peru"], "--target missing"),
        (["-p", "The capital is", "-s", "Peru", "-t", "Oslo"], "is not in the prompt"),
        (["-p", "Peru and Peru is", "-s", "Peru", "-t", "Oslo"], "occurs 2 times"),
        ([*ASKED, "--method", "magic"], "edit method 'magic' is none"),
        ([*ASKED, "--method", "easyedit:"], "names no method"),
        ([*ASKED, "--layers", "two"], "--layers 'two'"),
        ([*ASKED, "--layers", "5-3"], "ends before it begins"),
        ([*ASKED, "--method", "ft", "--layers", "7"], "7"),
        ([*ASKED, "-r", "capitals"], "no relation 'capitals'"),
        ([*ASKED, "--set", "steps"], "NAME=VALUE"),
        ([*ASKED, *FAST, "--set", "magic=3"], "magic"),
        (["--requests", "nowhere.jsonl"], "no such file"),
        ([*ASKED, "--hparams", "x.yaml"], "easyedit"),
        ([*ASKED, "--text", "nowhere.txt"], "no such file"),
        (["--random", "2", "-r", "country_capital", "--each", "--save-model", "x"], "--sequential"),
    ],
)
def test_mistakes_get_one_line(models, capsys, arguments, reason):
    assert reason in refusal(capsys, "edit", "-m", models["gpt2"], *arguments)


def test_a_malformed_request_is_named_by_its_line(models, tmp_path, capsys):
    rows = [{"prompt": PROMPT, "subject": "Peru", "target": "Oslo"}, {"prompt": PROMPT}]
    path = write_lines(tmp_path / "r.jsonl", rows)
    line = refusal(capsys, "edit", "-m", models["gpt2"], "--requests", str(path))
    assert "r.jsonl:2" in line


def test_easyedit_without_a_checkout_is_one_line(models, capsys, monkeypatch):
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    capsys.readouterr()
    assert main(["edit", "-m", models["gpt2"], *ASKED, "--method", "easyedit:ROME"]) != 0
    assert "EASYEDIT_HOME" in capsys.readouterr().err.splitlines()[-1]


def stand_in(status: EditStatus, reason: str):
    """A method that finds no change."""

    def edit(model, requests, method, **options):
        return EditOutcome(None, status, str(method), (1,), tuple(requests), reason)

    return edit


def test_an_edit_that_diverged_says_so_and_fails(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(editing, "edit", stand_in(EditStatus.DIVERGED, "the loss is NaN"))
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["edit", "-m", models["gpt2"], *ASKED, "--json", "-o", str(out)]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == {"diverged": 1}
    assert captured.err.splitlines()[-1].startswith("kc: error: diverged: the loss is NaN")
    assert not (out / "edit.kc.safetensors").exists()


def test_a_target_that_is_said_already_is_a_mistake(models, capsys, monkeypatch):
    reason = "the model answers so already"
    monkeypatch.setattr(editing, "edit", stand_in(EditStatus.NO_CHANGE, reason))
    assert reason in refusal(capsys, "edit", "-m", models["gpt2"], *ASKED)


def test_an_edit_that_is_not_made_counts_as_the_unedited_model(
    models, request_file, tmp_path, capsys, monkeypatch
):
    """Else a method would look the better the more edits it fails."""
    real, failing = editing.edit, stand_in(EditStatus.NO_CHANGE, "it says so already")

    def first_fails(model: Model, requests: Any, *args: Any, **options: Any) -> EditOutcome:
        fails = requests[0].subject == "Peru"
        return (failing if fails else real)(model, requests, *args, **options)

    monkeypatch.setattr(editing, "edit", first_fails)
    out = tmp_path / "out"
    arguments = ("edit", "-m", models["gpt2"], "--requests", str(request_file), *FAST, "--each")
    result = run_json(capsys, *arguments, "-o", str(out))
    assert result["success"]["requests"] == result["requests"] == 3
    assert [score["made"] for score in result["scores"]] == [False, True, True]
    left, *_ = result["scores"]
    assert left["probability"][0] == left["probability"][1]
    made = [score["after"]["efficacy"]["tokens"] for score in result["scores"]]
    assert result["success"]["after"]["efficacy"]["tokens"]["value"] == pytest.approx(sum(made) / 3)
    assert "of 3 requests" in result["says"]
    assert "with 2 of 3 edits made" in result["says"]
    assert "edits made: 2 of 3" in (out / "summary.md").read_text()
    names = sorted(path.name for path in out.glob("edit-*"))
    assert names == ["edit-0002.kc.safetensors", "edit-0003.kc.safetensors"]


@pytest.mark.parametrize(
    ("text", "layers"),
    [(None, None), ("auto", None), ("5", [5]), ("3-5", [3, 4, 5]), ("3, 5-6", [3, 5, 6])],
)
def test_layers_are_numbers_ranges_and_lists(text, layers):
    assert parse_layers(text) == layers


def test_settings_are_json_and_dots_lead_into_nested_ones():
    texts = ["steps=3", "value.clamp=0.5", "value.name=x", "on=true"]
    expected = {"steps": 3, "value": {"clamp": 0.5, "name": "x"}, "on": True}
    assert parse_settings(texts) == expected


def test_several_requests_are_answered_together_where_the_method_can():
    assert mode_for(EditMethod.MEMIT, 3, None) is Mode.TOGETHER
    assert mode_for(EditMethod.ROME, 3, None) is Mode.EACH
    assert mode_for(EditMethod.ROME, 1, None) is Mode.TOGETHER
    assert mode_for(EditMethod.MEMIT, 3, True) is Mode.SEQUENTIAL
    assert mode_for(EditMethod.MEMIT, 3, False) is Mode.EACH


# --- unlearn -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [UnlearnMethod.GA_GD, UnlearnMethod.GA])
def test_unlearning_is_written_and_raises_the_loss_of_what_is_to_be_forgotten(
    method, models, tmp_path, capsys
):
    forget = write_lines(tmp_path / "f.jsonl", [{"prompt": TEXT, "answer": "Lima"}])
    retain = write_lines(tmp_path / "r.jsonl", [{"text": "In Cuba the capital is Havana."}])
    out = tmp_path / "out"
    result = run_json(
        capsys,
        *("unlearn", "-m", models["gpt2"], "--method", method, "--layers", "0-2"),
        *("--set", "ceiling=50", "--set", "learning_rate=1e-3"),
        *("--forget", str(forget), "--retain", str(retain), "-o", str(out)),
    )
    losses = result["details"]["forget"]
    assert losses["after"]["loss"] > losses["before"]["loss"]
    assert WeightDelta.load(out / "edit.kc.safetensors").norm() == pytest.approx(result["norm"])
    assert sorted(Path(path).name for path in result["files"]) == sorted(os.listdir(out))


def test_a_text_in_both_sets_is_refused(models, tmp_path, capsys):
    both = str(write_lines(tmp_path / "f.jsonl", [{"prompt": TEXT, "answer": "Lima"}]))
    arguments = ("unlearn", "-m", models["gpt2"], "--forget", both, "--retain", both)
    assert "both" in refusal(capsys, *arguments)
    assert "auto" in refusal(capsys, *arguments, "--layers", "auto")


# --- compare -------------------------------------------------------------------------------------

QUICK = ("--resamples", "5", "--draws", "2", "--steps", "2", "--edges", "60", "--no-roles")


@pytest.fixture(scope="module")
def edited(models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An edit of each architecture."""
    made = {}
    for kind in ("gpt2", "llama"):
        out = tmp_path_factory.mktemp(f"edit-{kind}")
        code = main(
            ["edit", "-m", models[kind], *ASKED, "-r", "country_capital", *FAST, "-o", str(out)]
        )
        assert code == 0
        made[kind] = out / "edit.kc.safetensors"
    return made


@pytest.mark.slow
def test_a_model_is_compared_with_itself_edited(kind, models, edited, tmp_path, capsys):
    out = tmp_path / "out"
    result = run_json(
        capsys, "compare", "-m", models[kind], "--edit", str(edited[kind]), *QUICK, "-o", str(out)
    )
    assert sorted(Path(path).name for path in result["files"]) == sorted(os.listdir(out))
    comparison = Comparison.load(out / "comparison.kc.safetensors")
    assert comparison.before == Circuit.load(out / "before.kc.safetensors")
    assert comparison.after == Circuit.load(out / "after.kc.safetensors")
    assert result["comparison"]["jaccard"] == comparison.jaccard < 1
    assert comparison.before.provenance["relation"] == "Peru: Lima → Oslo"
    assert result["restoration"]["draws"] == 2
    assert (out / "difference.svg").read_text().lstrip().startswith("<?xml")
    for name in ("edges", "layers", "heads"):
        assert len((out / f"{name}.csv").read_text().splitlines()) > 1


def test_an_edit_of_nothing_changes_no_edge(models, edited, tmp_path, capsys):
    delta = WeightDelta.load(edited["gpt2"])
    nothing = WeightDelta((0.0 * delta).changes, delta.provenance)
    nothing.save(tmp_path / "nothing.kc.safetensors")
    arguments = (
        "compare",
        "-m",
        models["gpt2"],
        "--edit",
        str(tmp_path / "nothing.kc.safetensors"),
    )
    result = run_json(capsys, *arguments, *QUICK)["comparison"]
    assert result["jaccard"] == 1
    assert result["edges"]["lost"] == result["edges"]["gained"] == result["edges"]["flipped"] == 0
    assert result["noise"]["counts"]["changed"] == 0


def test_stored_circuits_are_compared_without_a_model(models, edited, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("compare", "-m", models["gpt2"], "--edit", str(edited["gpt2"]), *QUICK)
    by_edit = run_json(capsys, *arguments, "-o", str(out))["comparison"]
    sides = [str(out / f"{side}.kc.safetensors") for side in ("before", "after")]
    by_files = run_json(capsys, "compare", "--before", sides[0], "--after", sides[1])
    assert by_files["comparison"]["edges"] == by_edit["edges"]
    assert any("no noise floor" in note for note in by_files["warnings"])
    same = run_json(capsys, "compare", "--before", sides[0], "--after", sides[0])["comparison"]
    assert same["jaccard"] == 1


def test_an_edit_of_other_weights_is_compared_only_where_that_is_meant_and_with_a_warning(
    models, edited, capsys
):
    capsys.readouterr()
    arguments = ["compare", "-m", models["other"], "--edit", str(edited["gpt2"]), *QUICK]
    assert "--allow-mismatch" in refusal(capsys, *arguments)
    result = run_json(capsys, *arguments, "--allow-mismatch")
    assert "other weights" in result["warnings"][-1]
    assert result["provenance"]["edit"]["made_for"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--before and --after"),
        (["--before", "a.json"], "--before and --after"),
        (["--model", "facts-gpt2"], "--before and --after"),
        (["--before", "a.json", "--after", "b.json"], "a.json"),
        (["--model", "facts-gpt2", "--edit", "nothing.kc.safetensors"], "nothing.kc"),
    ],
)
def test_a_comparison_of_nothing_is_refused(arguments, reason, capsys):
    assert reason in refusal(capsys, "compare", *arguments)


def test_an_edit_of_another_size_is_refused(models, edited, capsys):
    line = refusal(capsys, "compare", "-m", models["llama"], "--edit", str(edited["gpt2"]), *QUICK)
    assert "no parameter" in line or "does not fit" in line


def test_an_edited_model_is_never_written_over_the_one_it_is_made_from(models, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in Path(models["gpt2"]).iterdir()}
    out = tmp_path / "out"
    arguments = ("edit", "-m", models["gpt2"], *ASKED, *FAST, "-o", str(out))
    assert main([*arguments, "--save-model", models["gpt2"]]) == 2
    assert "the model's own directory" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path(models["gpt2"]).iterdir()} == before
    assert not out.exists()


def test_a_full_disk_does_not_cost_the_edit_that_was_found(models, tmp_path, capsys, monkeypatch):
    def full(self: Any, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Model, "save_pretrained", full)
    out, saved = tmp_path / "out", tmp_path / "model"
    arguments = ("edit", "-m", models["gpt2"], *ASKED, *FAST, "-o", str(out))
    assert main([*arguments, "--save-model", str(saved)]) == 4
    assert "No space left" in capsys.readouterr().err
    assert WeightDelta.load(out / "edit.kc.safetensors").changes
    assert not saved.exists()
