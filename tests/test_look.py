"""`kc trace` and `kc lens` over a relation: what is known is looked at, printed, stored, drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import knowledge_circuits as kc
from circuits.base.arrays import load_arrays
from circuits.graph.circuit import Circuit
from experiments.cli.main import main
from locate.states.lens_curves import AverageLens, Followed, Place
from locate.states.trace_roles import AverageTrace
from tests.test_cli import PAIRS, refusal, run_json, write_lines

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Norway": "Oslo", "Cuba": "Paris"}
WRONG = 1


@pytest.fixture(scope="module")
def fact_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four facts that the models which ship know, and one that is false."""
    lines = [
        {"subject": s, "object": o, "relation": "capital", "prompt": "The capital of {} is"}
        for s, o in CAPITALS.items()
    ]
    return str(write_lines(tmp_path_factory.mktemp("facts") / "capitals.jsonl", lines))


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_lines(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", PAIRS))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["evaluate", "lens", "roles", "neurons", "trace"])
def test_what_pairs_are_short_of_is_warned_of_printed_and_stored(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wrong = {**PAIRS[0], "answer": PAIRS[0]["foil"], "foil": PAIRS[0]["answer"]}
    pairs = write_lines(tmp_path / "pairs.jsonl", [*PAIRS[:2], wrong])
    asked = [verb, "-m", "facts-gpt2", "--pairs", str(pairs), "--out", str(tmp_path / "out")]
    if verb == "evaluate":
        wiring = kc.load("facts-gpt2", device="cpu").wiring()
        Circuit.full(wiring).save(tmp_path / "circuit.kc.safetensors")
        asked.insert(1, str(tmp_path / "circuit.kc.safetensors"))
    asked += {"neurons": ["--mlp", "m2"], "trace": ["--samples", "1"]}.get(verb, [])
    assert main([*asked, "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    (warning,) = [each for each in told["warnings"] if "recalls 2 of the 3 answers" in each]
    assert f"kc: warning: {warning}" in printed.err
    assert (
        json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"] == told["warnings"]
    )
    stored = {path.name.partition(".")[0]: path for path in (tmp_path / "out").glob("*.kc.*")}
    stored.pop("heads", None)  # single prompts
    assert bool(stored) == (verb != "evaluate")
    for path in stored.values():
        assert kc.open(path).provenance["warnings"] == [warning]


def test_a_trace_of_what_the_model_does_not_say_warns_in_python_too(tiny: str):
    found = kc.trace(tiny, PAIRS[0]["clean"], "France", "Paris", samples=1)
    (warning,) = found.provenance["warnings"]
    assert "does not answer 'Paris' here" in warning
    assert "what is traced is no recall" in warning


@pytest.mark.parametrize("name", ["facts-gpt2", "facts-llama"])
def test_known_facts_are_traced_and_the_sites_are_where_they_were_put(
    name: str, fact_file: str, tmp_path: Path, capsys
):
    arguments = ["trace", "-m", name, "--facts", fact_file, "--samples", "3", "-o", str(tmp_path)]
    result = run_json(capsys, *arguments)
    n_facts = len(CAPITALS) - WRONG
    assert (result["facts"], result["counts"]["unknown"]) == (n_facts, WRONG)
    peaks = {(peak["kind"], peak["role"]): peak for peak in result["peaks"]}
    middle = [
        row["effect"]
        for row in result["effects"]
        if (row["kind"], row["role"]) == ("resid", "last subject token") and 2 <= row["layer"] <= 4
    ]
    total = result["p_clean"]["value"] - result["p_corrupted"]["value"]
    assert min(middle) > 0.7 * total
    assert peaks["mlp", "last subject token"]["layer"] == 2
    assert peaks["attn", "last token"]["layer"] == 6
    stored = AverageTrace.from_arrays(
        *load_arrays(tmp_path / "average_trace.kc.safetensors", "average trace")
    )
    assert stored.rows() == result["effects"]
    assert stored.provenance["window"] == 1
    assert len(stored.provenance["prompts"]) == n_facts
    assert all(Path(path).is_file() for path in result["files"])
    assert (tmp_path / "average_trace.svg").is_file()


def test_an_averaged_trace_is_printed_with_the_peaks_of_its_sites(fact_file: str, capsys):
    options = ["--facts", fact_file, "--samples", "1", "--kind", "attn", "--n-pairs", "2"]
    assert main(["trace", "-m", "facts-gpt2", *options]) == 0
    captured = capsys.readouterr()
    assert "2 facts looked at; the model knows 4 of 5" in captured.out
    table = [line for line in captured.out.splitlines() if "*" in line and "site" not in line]
    assert len(table) == 2
    late = next(line.split() for line in table if line.startswith("last token"))
    assert late[3 + 6].endswith("*")
    assert "attention output" in captured.out
    assert "MLP output" not in captured.out


def test_a_second_look_leaves_no_file_of_the_first_behind(
    tiny: str, fact_file: str, tmp_path: Path, capsys
):
    folder = ["--samples", "1", "-o", str(tmp_path)]
    words = ["--subject", "France", "--answer", "Paris"]
    run_json(capsys, "trace", PAIRS[0]["clean"], "-m", tiny, *words, *folder)
    assert (tmp_path / "trace.svg").is_file()
    run_json(capsys, "trace", "-m", "facts-gpt2", "--facts", fact_file, *folder)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"average_trace.kc.safetensors", "average_trace.svg", "summary.json"}


def test_the_averaged_lens_sees_recall_at_the_subject_and_the_answer_moved_late(
    fact_file: str, tmp_path: Path, capsys
):
    arguments = ["lens", "-m", "facts-gpt2", "--facts", fact_file, "-o", str(tmp_path)]
    result = run_json(capsys, *arguments)
    stored = load_arrays(tmp_path / "average_lens.kc.safetensors", "average lens")
    lens = AverageLens.from_arrays(*stored)
    assert lens.rows() == result["layers"]
    last = lens.mean_probability(Place.LAST, Followed.ANSWER).value
    assert last[:6].max() < 0.1  # after layers 0 to 4
    assert last[-1] > 0.8
    subject = lens.median_rank(Place.SUBJECT, Followed.ANSWER).value
    assert subject[3] < 5 < subject[0]  # after layer 2, against the embedding
    assert lens.median_rank(Place.SUBJECT, Followed.SUBJECT).value[0] == 0
    assert all(Path(path).is_file() for path in result["files"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "average_lens.kc.safetensors",
        "average_lens.svg",
        "attribution.kc.safetensors",
        "summary.json",
    }


def test_the_averaged_lens_is_printed_with_the_attribution(tiny: str, pair_file: str, capsys):
    assert main(["lens", "-m", tiny, "--pairs", pair_file]) == 0
    printed = capsys.readouterr().out
    parts = ("at the last token", "at the subject's last token", "other objects", "contribution")
    assert all(part in printed for part in parts)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trace", "A prompt", "-r", "country_capital"], "cannot be combined"),
        (["lens", "A prompt", "--facts", "x.json"], "cannot be combined"),
        (["trace"], "give a PROMPT with --subject and --answer, or one of --relation"),
        (["lens"], "give a PROMPT with --answer, or one of --relation"),
        (["trace", "A prompt", "--subject", "prompt"], "needs --subject and --answer"),
        (["trace", "-r", "country_capital", "--subject", "France"], "--subject goes with a PROMPT"),
        (["lens", "-r", "country_capital", "--foil", "Rome"], "--foil goes with a PROMPT"),
        (["trace", "-r", "no_such_relation"], "no_such_relation"),
        (["trace", "--facts", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_a_question_that_is_none_gets_one_line(arguments: list[str], expected: str, capsys):
    command, *rest = arguments
    assert expected in refusal(capsys, command, "-m", "facts-gpt2", *rest)


def test_a_relation_that_is_not_known_is_refused(tiny: str, pair_file: str, tmp_path: Path, capsys):
    out = tmp_path / "out"
    arguments = ["trace", "-m", tiny, "--pairs", pair_file, "-o", str(out)]
    message = refusal(capsys, *arguments)
    assert "knows none" in message
    assert not out.exists()
