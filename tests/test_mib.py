"""MIB's circuit track against its published formulas, written out plainly; signs; submissions."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.base.choices import KeyValue, Ranking
from circuits.base.errors import CircuitFileError, OptionError
from circuits.facts.batches import batches
from circuits.facts.pairs import TokenPair
from circuits.files.exchange import load_eap_ig, per_query_head, save_eap_ig
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from experiments.cli.main import main
from locate.edges.locators import Locator
from locate.evaluate import NOT_KNOWN, fitted
from locate.examples import Examples
from locate.mib.board import (
    SIZES,
    BoardScores,
    board_scores,
    importances,
    nested,
    save_importances,
)
from locate.mib.submission import (
    IMPORTANCES,
    NAMES,
    ON_BOARD,
    board_folder,
    lacking,
    read_submission,
    save_submission,
)
from locate.search import Search
from tests.oracles import plain_circuit_run
from tests.test_cli import refusal, run_json
from tests.tiny import equal_length_pairs, tiny_model

PERCENTAGES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
GPT2 = Wiring(12, 12, 12, KeyValue.PER_QUERY_HEAD)


@pytest.fixture
def examples(model: Model, pairs: list[TokenPair]) -> Examples:
    return Examples("capital", tuple(pairs[:2]))


@pytest.fixture
def found(model: Model, examples: Examples) -> Circuit:
    return importances(model, examples, Search(method=Locator.EAP))


def kept_by_board(scores: dict[str, float], n: int, absolute: bool) -> set[str]:
    """The n best edges; then edges go as long as one's source or destination is cut off."""
    ranked = sorted(scores, key=lambda name: -(abs(scores[name]) if absolute else scores[name]))
    kept = set(ranked[:n])
    while True:
        ends = [name.split("->") for name in kept]
        fed = {"input"} | {re.sub("<.>", "", end) for _, end in ends}
        read = {"logits"} | {source for source, _ in ends}
        alive = {
            name
            for name in kept
            if name.split("->")[0] in fed and re.sub("<.>", "", name.split("->")[1]) in read
        }
        if alive == kept:
            return kept
        kept = alive


def difference(logits: torch.Tensor, pair: TokenPair) -> float:
    return float(logits[0, pair.answer] - logits[0, pair.foil])


def plain_board(
    model: Model, circuit: Circuit, pairs: Sequence[TokenPair], absolute: bool
) -> tuple[list[int], list[float]]:
    """Edges and faithfulness at every percentage, one pair and one edge name at a time."""
    wiring, scores = circuit.wiring, circuit.scores
    assert scores is not None
    named = {wiring.edge_name(edge): float(value) for edge, value in enumerate(scores.values)}
    singles = [next(iter(batches([pair], 1))) for pair in pairs]
    with torch.no_grad():
        clean, corrupted = (
            np.mean([difference(model.last_logits(ids), pair) for ids, pair in sides])
            for sides in (
                [(each.clean, pair) for each, pair in zip(singles, pairs, strict=True)],
                [(each.corrupted, pair) for each, pair in zip(singles, pairs, strict=True)],
            )
        )
    counts, faithfulness = [], []
    for share in PERCENTAGES:
        names = kept_by_board(named, int(share * len(named)), absolute)
        mask = np.array([wiring.edge_name(edge) in names for edge in range(wiring.n_edges)])
        runs = [plain_circuit_run(model, single, Circuit(wiring, mask)) for single in singles]
        mean = np.mean([difference(run, pair) for run, pair in zip(runs, pairs, strict=True)])
        counts.append(len(names))
        faithfulness.append(float((mean - corrupted) / (clean - corrupted)))
    return counts, faithfulness


def plain_areas(faithfulness: Sequence[float], log: bool = False) -> tuple[float, float]:
    """The area under f and the area between f and 1, by trapezoids over the percentages."""
    under = from_one = 0.0
    x = [math.log(share) if log else share for share in PERCENTAGES]
    for i in range(len(x) - 1):
        width, f, g = x[i + 1] - x[i], faithfulness[i], faithfulness[i + 1]
        under += width * (f + g) / 2
        from_one += width * (abs(1 - f) + abs(1 - g)) / 2
    return under, from_one


def test_cpr_and_cmd_are_those_of_the_published_evaluation(model, examples, found):
    scores = board_scores(model, [found], examples, resamples=0)
    told = scores.as_dict()
    edges, values = plain_board(model, found, examples.pairs, absolute=False)
    assert list(scores.signed.sizes) == edges
    np.testing.assert_allclose([f.value for f in scores.signed.faithfulness], values, atol=2e-3)
    assert scores.cpr.value == pytest.approx(plain_areas(values)[0], abs=2e-3)
    assert told["log"]["cpr"] == pytest.approx(plain_areas(values, log=True)[0], abs=1e-2)
    edges, values = plain_board(model, found, examples.pairs, absolute=True)
    assert list(scores.absolute.sizes) == edges
    assert scores.cmd.value == pytest.approx(plain_areas(values)[1], abs=2e-3)
    assert told["log"]["cmd"] == pytest.approx(plain_areas(values, log=True)[1], abs=1e-2)


def test_edges_are_counted_with_a_key_and_value_input_a_query_head(model, examples, found):
    assert found.wiring == model.wiring(KeyValue.PER_QUERY_HEAD)
    assert found.n_edges == found.wiring.n_edges
    shared = Circuit.full(
        model.wiring(), EdgeScores(model.wiring(), np.ones(model.wiring().n_edges))
    )
    apart = per_query_head(shared)
    assert apart.scores is not None
    np.testing.assert_allclose(apart.scores.grouped().values, 1)
    assert board_scores(model, [shared], examples, resamples=0).signed.sizes[-1] == found.n_edges


def test_nine_circuits_score_as_the_importances_that_they_were_ranked_by(model, examples, found):
    assert found.scores is not None
    nine = nested(found.scores, Ranking.SIGNED)[: len(SIZES)]
    whole = board_scores(model, [found], examples, resamples=0)
    by_file = board_scores(model, nine[::-1], examples, resamples=0)
    assert by_file.cpr.value == pytest.approx(whole.cpr.value, abs=1e-9)
    assert replace(by_file.absolute, ranking=Ranking.SIGNED) == by_file.signed == whole.signed


def test_a_circuit_that_is_larger_than_its_place_allows_is_refused(model, examples, found):
    nine = [Circuit.empty(found.wiring)] * (len(SIZES) - 1)
    with pytest.raises(OptionError, match=r"50 % of edges may keep .* it keeps"):
        board_scores(model, [*nine, Circuit.full(found.wiring)], examples)


def test_what_the_board_cannot_rank_is_refused(model, examples, found):
    with pytest.raises(OptionError, match="not 1 without scores"):
        board_scores(model, [Circuit.full(found.wiring)], examples)
    with pytest.raises(OptionError, match="or 9 circuits, not 2"):
        board_scores(model, [found, found], examples)
    other = Wiring(1, 2, 2, KeyValue.PER_QUERY_HEAD)
    alien = Circuit.full(other, EdgeScores(other, np.ones(other.n_edges)))
    with pytest.raises(OptionError, match="but 'tiny-"):
        board_scores(model, [alien], examples)
    with pytest.raises(OptionError, match="selects edges and gives no importances"):
        importances(model, examples, Search(method=Locator.ACDC, threshold=0.1))


def test_the_pairs_that_found_the_scores_are_called_so_and_of_others_scores_it_is_not_known(
    model, pairs, tmp_path: Path
):
    france, norway = (
        next(pair for pair in pairs if pair.text.subject == name) for name in ("France", "Norway")
    )
    examples = Examples("capital", (france,))
    found = importances(model, examples, Search(method=Locator.EAP))

    def on(scores: Circuit | list[Circuit], asked: Examples) -> BoardScores:
        circuits = scores if isinstance(scores, list) else [scores]
        return board_scores(
            model, [fitted(each, model, tmp_path) for each in circuits], asked, resamples=0
        )

    own, others = on(found, examples), on(found, Examples("capital", (norway,)))
    assert own.measured_on == own.as_dict()["measured_on"] == "pairs that found it"
    assert "the very pairs that found them" in own.says()
    assert own.warnings == ()
    assert others.measured_on == "other subjects"
    assert "subjects they were not found on" in others.says()
    found.save(tmp_path / "found.kc.safetensors")
    [stored] = read_submission(tmp_path / "found.kc.safetensors")
    assert on(stored, Examples("capital", (france, norway))).measured_on == "all pairs"
    save_eap_ig(found, tmp_path / "ours.json", full=True)  # which holds the hash of the pairs
    [ours] = read_submission(tmp_path / "ours.json")
    assert on(ours, examples).measured_on == "pairs that found it"
    save_importances(found, examples, tmp_path / "both")
    [both] = read_submission(tmp_path / "both")
    assert on(both, Examples("capital", (norway,))).measured_on == "other subjects"
    [theirs] = read_submission(foreign(found, tmp_path / "theirs.json"), "supports")
    for unknown in (theirs, [*nested(found.scores, Ranking.SIGNED)][: len(SIZES)]):
        done = on(unknown, examples)
        assert done.as_dict()["measured_on"] is None
        assert done.warnings == (NOT_KNOWN,)
        assert done.as_dict()["warnings"] == [NOT_KNOWN]
        assert "pairs that may have found them" in done.says()


# --- signs ---------------------------------------------------------------------------------------


def foreign(circuit: Circuit, path: Path, factor: float = 1.0) -> Path:
    """The circuit's file as another tool writes it, its scores times a factor."""
    save_eap_ig(circuit, path, full=True)
    document = json.loads(path.read_text())
    del document["kc"]
    for info in document["edges"].values():
        info["score"] *= factor
    path.write_text(json.dumps(document))
    return path


def test_the_sign_of_a_file_is_stated_and_turned_round(model, examples, found, tmp_path: Path):
    same = foreign(found, tmp_path / "same.json")
    turned = foreign(found, tmp_path / "turned.json", -1.0)
    for path in (same, turned):
        with pytest.raises(OptionError, match=r"add `sign` supports .* or opposes"):
            read_submission(path)
    whole = board_scores(model, [found], examples, resamples=0)
    for path, sign in ((same, "supports"), (turned, "opposes")):
        [read] = read_submission(path, sign)
        scores = board_scores(model, [fitted(read, model, path)], examples, resamples=0)
        assert scores.cpr.value == pytest.approx(whole.cpr.value, abs=1e-6)
    [wrong] = read_submission(turned, "supports")
    scores = board_scores(model, [fitted(wrong, model, turned)], examples, resamples=0)
    assert abs(scores.cpr.value - whole.cpr.value) > 0.01
    assert scores.cmd.value == pytest.approx(whole.cmd.value, abs=1e-6)


def test_a_file_that_says_its_sign_itself_is_given_none(found, tmp_path: Path):
    save_eap_ig(found, tmp_path / "ours.json")
    assert len(read_submission(tmp_path / "ours.json")) == 1
    with pytest.raises(OptionError, match="says itself that positive scores support"):
        read_submission(tmp_path / "ours.json", "opposes")


def test_commands_that_use_signs_want_them_said(tmp_path: Path, capsys):
    wiring = Wiring(2, 2, 2, KeyValue.PER_QUERY_HEAD)
    last = wiring.n_edges - 1
    circuit = Circuit.full(wiring, EdgeScores(wiring, np.arange(last + 1, dtype=np.float32)))
    path = str(foreign(circuit, tmp_path / "theirs.json"))
    dot = ("export", path, "--to", "csv", "--out", str(tmp_path / "x.csv"))
    assert "add --sign supports" in refusal(capsys, *dot)
    assert not (tmp_path / "x.csv").exists()
    run_json(capsys, *dot, "--sign", "opposes")
    assert f"-{last}.0" in (tmp_path / "x.csv").read_text()
    both = ("compare", "--before", path, "--after", path)
    assert "add --sign supports" in refusal(capsys, *both)
    run_json(capsys, *both, "--sign", "supports")
    assert main(["show", path, "-n", "1"]) == 0
    assert "--sign says it" in capsys.readouterr().out
    shown = run_json(capsys, "show", path, "-n", "1", "--sign", "opposes")
    assert shown["strongest_edges"][0]["score"] == -last
    to_board = (
        "mib",
        "export",
        path,
        "--task",
        "ioi",
        "--model",
        "gpt2",
        "-o",
        str(tmp_path / "s"),
    )
    assert "add --sign supports" in refusal(capsys, *to_board)
    assert not (tmp_path / "s").exists()


# --- submissions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Circuit:
    """Scores of GPT-2's shape."""
    values = np.random.default_rng(0).standard_normal(GPT2.n_edges).astype(np.float32)
    about = {"model": "/home/somebody/gpt2", "method": "eap-ig", "d_model": 768}
    return replace(Circuit.full(GPT2, EdgeScores(GPT2, values)), provenance=about)


def test_a_submission_of_importances_is_one_file_of_every_edge(small: Circuit, tmp_path: Path):
    [path] = save_submission(small, tmp_path, "ioi", "gpt2")
    assert path == tmp_path / "ioi_gpt2" / IMPORTANCES
    assert [each.name for each in path.parent.iterdir()] == [IMPORTANCES]
    document = json.loads(path.read_text())
    assert document["cfg"] == {
        **{"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    }
    assert len(document["edges"]) == 32_491
    assert "somebody" not in path.read_text()
    [read] = read_submission(path.parent)
    assert read.scores is not None
    assert small.scores is not None
    np.testing.assert_array_equal(read.scores.values, small.scores.values)
    with pytest.raises(OptionError, match=r"importances\.json is there already"):
        save_submission(small, tmp_path, "ioi", "gpt2", "circuits")
    again = save_submission(small, tmp_path / "again", "ioi", "gpt2")
    assert again[0].read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_submission_of_circuits_is_nine_of_the_boards_sizes(small: Circuit, tmp_path: Path):
    files = save_submission(small, tmp_path, "ioi", "gpt2", "circuits", "absolute")
    wanted = ("0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50")
    assert [path.name for path in files] == [f"{name}.json" for name in wanted] == list(NAMES)
    assert small.scores is not None
    strongest = np.argsort(-np.abs(small.scores.values))
    for path, share in zip(files, PERCENTAGES, strict=False):
        document = json.loads(path.read_text())
        kept = {name for name, info in document["edges"].items() if info["in_graph"]}
        best = {GPT2.edge_name(edge) for edge in strongest[: int(share * GPT2.n_edges)]}
        assert kept <= best
        assert {info["score"] for info in document["edges"].values()} == {0.0}
    read = sorted(each.n_edges for each in read_submission(files[0].parent))
    assert read == [each.n_edges for each in nested(small.scores, "absolute")[:9]]


def test_a_folder_that_the_board_does_not_take_is_refused(small: Circuit, tmp_path: Path):
    assert board_folder("arc-easy", "llama3") == "arc-easy_llama3"
    assert sum(map(len, ON_BOARD.values())) == 12
    with pytest.raises(OptionError, match=r"no mcqa of gpt2; its models there: qwen2\.5, gemma2"):
        save_submission(small, tmp_path, "mcqa", "gpt2")
    with pytest.raises(OptionError, match=r"qwen2\.5 has 24 layers of 14 heads"):
        save_submission(small, tmp_path, "ioi", "qwen2.5")
    with pytest.raises(OptionError, match="no scores of edges"):
        save_submission(Circuit.full(GPT2), tmp_path, "ioi", "gpt2")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "one.json").write_text("{}")
    (tmp_path / "two.json").write_text("{}")
    (tmp_path / "three.pt").write_text("")
    with pytest.raises(OptionError, match=r"holds 2 \.json files; .* \.pt files are not read"):
        read_submission(tmp_path)
    with pytest.raises(CircuitFileError):
        read_submission(tmp_path / "one.json")


def test_a_submission_says_what_it_lacks(small: Circuit, tmp_path: Path, capsys):
    small.save(tmp_path / "found.kc.safetensors")
    arguments = ("mib", "export", str(tmp_path / "found.kc.safetensors"), "--task", "ioi")
    out = ("--out", str(tmp_path / "board"))
    told = run_json(capsys, *arguments, "--model", "gpt2", *out)
    assert told["lacks"] == lacking(tmp_path / "board") == "tasks: 1 more, models: 1 more"
    (tmp_path / "board" / "mcqa_qwen2.5").mkdir()
    (tmp_path / "board" / "mcqa_qwen2.5" / IMPORTANCES).write_text("{}")
    assert lacking(tmp_path / "board") is None
    assert "--rank has no effect" in refusal(
        capsys, *arguments, "--model", "gpt2", *out, "--rank", "absolute"
    )


# --- commands ------------------------------------------------------------------------------------


def test_from_pairs_to_scores_on_the_command_line(tiny: str, tmp_path: Path, capsys):
    pairs = tmp_path / "pairs.csv"
    rows = [pair.text for pair in equal_length_pairs(tiny_model("gpt2"))]
    lines = [f"{pair.clean},{pair.corrupted},{pair.answer},{pair.foil}" for pair in rows]
    pairs.write_text("\n".join(["clean,corrupted,answer,foil", *lines]) + "\n")
    made, judged = str(tmp_path / "made"), str(tmp_path / "judged")
    common = ("--model", tiny, "--pairs", str(pairs))
    found = run_json(capsys, "mib", "discover", *common, "--method", "eap", "--out", made)
    stored = load_eap_ig(Path(made) / "importances.json")
    assert found["edges"] == stored.wiring.n_edges
    assert found["provenance"]["kv"] == "per-query-head"
    assert "stands in --out" in refusal(capsys, "mib", "evaluate", made, *common, "--out", made)
    whole = run_json(capsys, "mib", "evaluate", made, *common)
    circuit = str(Path(made) / "importances.kc.safetensors")
    done = run_json(capsys, "mib", "evaluate", circuit, *common, "--out", judged)
    faithfulness = [point["value"] for point in done["signed"]["faithfulness"]]
    assert done["cpr"] == pytest.approx(plain_areas(faithfulness)[0]) == whole["cpr"]
    assert done["signed"]["fraction"] == list(PERCENTAGES)
    assert done["measured_on"] == whole["measured_on"] == "pairs that found it"
    written = json.loads((Path(judged) / "summary.json").read_text())
    assert written["cmd"] == done["cmd"]
    bare = foreign(stored, tmp_path / "bare.json")
    told = run_json(capsys, "mib", "evaluate", str(bare), *common, "--sign", "supports")
    assert told["warnings"][0] == NOT_KNOWN
    assert main(["show", str(Path(judged) / "curves.kc.safetensors")]) == 0
    assert "by |score|" in capsys.readouterr().out
    assert "gpt2 has 12 layers" in refusal(
        capsys, "mib", "export", circuit, "--task", "ioi", "--model", "gpt2", "--out", made + "-s"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--method", "acdc"), "selects edges"),
        (("--method", "eap", "--steps", "3"), "--steps has no effect"),
    ],
)
def test_a_search_without_importances_is_refused(
    more: tuple[str, ...], said: str, tiny: str, tmp_path: Path, capsys: Any
):
    pairs = tmp_path / "pairs.jsonl"
    pair = equal_length_pairs(tiny_model("gpt2"))[0].text
    pairs.write_text(json.dumps(pair.as_dict()) + "\n")
    arguments = ("mib", "discover", "--model", tiny, "--pairs", str(pairs), "--out")
    assert said in refusal(capsys, *arguments, str(tmp_path / "out"), *more)
    assert not (tmp_path / "out").exists()
