"""Sweeps: every unit is done once, found again by what decides it, and never lost."""

from __future__ import annotations

import json
import linecache
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import knowledge_circuits as kc
from circuits.base.choices import Metric, Templates
from circuits.base.errors import FileFormatError, OptionError, StoreError, UnitError
from circuits.files.sweep import SETTING
from circuits.files.units import Record, Store, digest, flat, read_unit
from circuits.graph.circuit import Circuit
from experiments.analyses.engine.base import Run, SkipError
from experiments.analyses.engine.parts import Shard
from experiments.benchmarks.registry import benchmark
from experiments.cli.main import main
from experiments.executors.base import Executing, ExecutorKind, Workplace
from experiments.sweeps import plan as planning
from experiments.sweeps import runs
from experiments.sweeps.plan import UnitJob, planned
from experiments.sweeps.running import Told, plan, run, status
from experiments.sweeps.runs import folder_of
from experiments.sweeps.spec import Work, parse_spec, read_spec
from experiments.sweeps.table import rows, write_table
from experiments.sweeps.verbs import VERBS, forget
from viz.sweeps import SweepReader

LENS = {"verb": "lens", "relation": ["country_capital", "animal_class"], "n-pairs": 2}
SMALL = {"models": ["facts-gpt2"], "units": [LENS]}
ONE = Executing(threads=1)


def written(folder: Path) -> dict[str, bytes]:
    files = (folder / "units").rglob("*")
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def done(folder: Path, spec: Any = SMALL, how: Executing = ONE, **options: Any) -> Told:
    return run(plan(parse_spec(spec), folder, **options), how)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    assert done(folder).done == 2
    return folder


@pytest.fixture
def copy(swept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(swept, tmp_path / "copy"))


# --- specs --------------------------------------------------------------------------------------


def test_a_list_is_an_axis_and_a_list_of_lists_one_of_lists():
    spec = parse_spec(
        {
            "models": ["a", {"name": "b", "dtype": "bf16"}],
            "seeds": [0, 1, 2],
            "units": [
                {"verb": "trace", "relation": ["x", "y"], "kind": [["resid"], ["mlp", "attn"]]},
                {"verb": "discover", "relation": "x", "template": ["{} is", "{} has"]},
            ],
        }
    )
    assert len(spec.works) == 2 * 3 * 2 * 2 + 2 * 3
    assert [work.model.name for work in spec.works] == ["a"] * 15 + ["b"] * 15
    assert {work.model.dtype for work in spec.works if work.model.name == "b"} == {"bf16"}
    kinds = [work.settings["kinds"] for work in spec.works if work.verb == "trace"]
    assert ["mlp", "attn"] in kinds
    assert ["resid"] in kinds
    assert spec.works[-1].settings["wordings"] == ["{} is", "{} has"]


def test_each_stands_for_every_relation_and_every_request(tmp_path: Path):
    spec = {"models": ["m"], "units": [{"verb": "lens", "relation": "each"}]}
    assert len(parse_spec(spec).works) == len(kc.relations())
    spec = {"models": ["m"], "units": [{"verb": "edit", "random": 7, "method": ["rome", "ft"]}]}
    assert [
        w.settings["request"] for w in parse_spec(spec).works if w.settings["method"] == "ft"
    ] == [*range(1, 8)]


def test_each_goes_by_the_other_axes(tmp_path: Path):
    for name, n in (("a", 1), ("b", 2)):
        facts = [
            {"relation": f"{name}{i}", "subject": "France", "object": "Paris", "prompt": "{} has"}
            for i in range(n)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, facts)))
        requests = [
            {"prompt": "The capital of {} is", "subject": each, "target": "Rome"}
            for each in ("France", "Peru")[:n]
        ]
        (tmp_path / f"edits_{name}.jsonl").write_text("\n".join(map(json.dumps, requests)))

    def works(**unit: Any) -> list[tuple[Any, ...]]:
        found = parse_spec({"models": ["m"], "units": [unit]}).works
        names = ("facts", "relation", "requests", "random", "request")
        return [
            tuple(Path(str(each)).stem for name in names if (each := work.settings.get(name)))
            for work in found
        ]

    facts = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    assert works(verb="lens", relation="each", facts=facts) == [
        *[("a", "a0"), ("b", "b0"), ("b", "b1")],
    ]
    files = [str(tmp_path / f"edits_{name}.jsonl") for name in "ab"]
    assert works(verb="edit", requests=files, method="ft") == [
        *[("edits_a", "1"), ("edits_b", "1"), ("edits_b", "2")],
    ]
    assert works(verb="edit", random=[1, 2], method="ft") == [("1", "1"), ("2", "1"), ("2", "2")]


def test_what_stands_twice_is_done_once():
    twice = {**LENS, "relation": ["country_capital", "country_capital"]}
    assert len(parse_spec({"models": ["m", "m"], "units": [twice]}).works) == 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ([], "names `models` and `units`"),
        ({"models": ["m"]}, "names `models` and `units`"),
        ({**SMALL, "seed": [1]}, "has no 'seed'"),
        ({**SMALL, "units": ["lens"]}, "entry 1: an entry is a mapping"),
        ({**SMALL, "units": [{"verb": "lense"}]}, "knows no verb 'lense'"),
        ({**SMALL, "units": [{**LENS, "n-pair": 3}]}, "did you mean n_pairs"),
        ({**SMALL, "units": [LENS, {**LENS, "n-pairs": [2, -1]}]}, "entry 2: .*at least 1"),
        ({**SMALL, "units": [{**LENS, "relation": []}]}, "`relation` is an empty list"),
        ({**SMALL, "models": [{"name": "m", "dtyp": "fp16"}]}, "did you mean dtype"),
        ({**SMALL, "models": [{"dtype": "fp16"}]}, "has no name"),
        ({**SMALL, "units": [{"verb": "evaluate", "relation": "r"}]}, "`circuit` is missing"),
        ({**SMALL, "units": [{"verb": "run"}]}, "names no `analysis`"),
        ({**SMALL, "units": [{"verb": "edit"}]}, "say what to edit"),
        (
            {**SMALL, "units": [{"verb": "edit", "random": "two"}]},
            "entry 1: .*takes a whole number",
        ),
        ({**SMALL, "units": [{"verb": "edit", "random": [0]}]}, "entry 1: random is at least 1"),
    ],
)
def test_nonsense_in_a_spec_is_refused_with_its_place(spec: Any, says: str):
    with pytest.raises(OptionError, match=says):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"models: [", "is no YAML"),
        (b"!!python/object/apply:os.system ['true']", "is no YAML"),
        (b"\xff\xfe", "is no UTF-8"),
        (b"models: [a]\nunits: [{verb: x}]", "s.yaml: units, entry 1"),
    ],
)
def test_a_file_that_is_no_spec_is_named(content: bytes, says: str, tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=says):
        read_spec(path)
    with pytest.raises(FileFormatError, match="No such file"):
        read_spec(tmp_path / "absent.yaml")


# --- what decides a unit -------------------------------------------------------------------------


def key_of(entry: dict[str, Any], identity: str = "w t", model: Any = "m", seed: int = 0) -> str:
    spec = parse_spec({"models": [model], "seeds": [seed], "units": [{"verb": "lens", **entry}]})
    return UnitJob(spec.works[0], identity, Path("x")).key


def test_a_unit_is_named_by_what_decides_it_and_by_nothing_else(tmp_path: Path):
    base = {"relation": "country_capital"}
    same = [
        key_of({**base, "batch-size": 3}),
        key_of({**base, "split": "usual"}),
        key_of(base, model={"name": "m", "device": "cpu"}),
        key_of(base, model="another name of the same weights"),
    ]
    assert set(same) == {key_of(base)}
    others = [
        key_of({**base, "split": "first"}),
        key_of({"relation": "animal_class"}),
        key_of({**base, "n-pairs": 3}),
        key_of({**base, "split": "train"}),
        key_of(base, identity="other t"),
        key_of(base, model={"name": "m", "dtype": "bf16"}),
        key_of(base, seed=1),
    ]
    assert len({*others, key_of(base)}) == len(others) + 1


def test_a_file_counts_by_what_it_holds(tmp_path: Path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (first, second):
        path.write_text("subject,object,prompt\nFrance,Paris,The capital of {} is\n")
    assert key_of({"facts": str(first)}) == key_of({"facts": str(second)})
    third = tmp_path / "c.csv"
    third.write_text("subject,object,prompt\nFrance,Rome,The capital of {} is\n")
    assert key_of({"facts": str(third)}) != key_of({"facts": str(first)})


def test_a_file_that_was_changed_between_two_plans_is_another_unit(copy: Path, tmp_path: Path):
    facts = tmp_path / "facts.csv"
    spec = parse_spec({"models": ["facts-gpt2"], "units": [{"verb": "lens", "facts": str(facts)}]})
    keys = set()
    for answer in ("Paris", "Rome"):
        facts.write_text(f"subject,object,prompt\nFrance,{answer},The capital of {{}} is\n")
        keys.add(planned(spec.works, copy)[0].key)
    assert len(keys) == 2


def test_a_function_of_ones_own_counts_by_its_source():
    """Held against units that name none, whose names are as they were."""

    def names(factor: int, **entry: Any) -> str:
        path = f"/tmp/margins_{factor}.py"
        code = f"def margins(logits, answer, foil):\n    return {factor} * logits.sum(-1)\n"
        linecache.cache[path] = (len(code), None, code.splitlines(keepends=True), path)
        exec(compile(code, path, "exec"), space := {"__name__": "mine"})
        Metric.add("margins", space["margins"])
        unit = {"verb": "discover", "relation": "animal_class", **entry}
        forget()
        work = parse_spec({"models": ["m"], "units": [unit]}).works[0]
        return UnitJob(work, "w t", Path("x")).key

    try:
        assert (
            names(1, metric="margins") == names(1, metric="margins") != names(2, metric="margins")
        )
        assert names(1) == names(2)
    finally:
        Metric._known.pop("margins", None)
        forget()


def test_a_model_whose_files_were_changed_is_another_model(tmp_path: Path):
    model = kc.load("facts-gpt2", device="cpu")
    places = []
    for name in ("m", "other"):
        with kc.edit(model, "The capital of {} is", subject="France", target="Rome").applied():
            model.save_pretrained(tmp_path / name)
        places.append(tmp_path / name)
    spec = parse_spec({**SMALL, "models": [str(places[0])]})
    edited = planned(spec.works, tmp_path / "out")[0].key
    model.save_pretrained(places[1])
    shutil.rmtree(places[0])
    places[1].rename(places[0])
    assert planned(spec.works, tmp_path / "out")[0].key != edited


def test_planning_again_loads_no_model(copy: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*given: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("circuits.model.model.load", fails)
    assert not plan(parse_spec(SMALL), copy).missing


def test_other_weights_under_the_planned_name_are_refused(tmp_path: Path):
    (job, *_) = planned(parse_spec(SMALL).works, tmp_path)
    with pytest.raises(OptionError, match="others than the sweep was planned with"):
        replace(job, identity="0 0").run(Workplace())


# --- units ---------------------------------------------------------------------------------------


def test_a_units_file_is_its_result_and_tells_its_values(swept: Path):
    store = Store(swept)
    for key in store.keys():  # noqa: SIM118 - it is no mapping
        found, unit = kc.open(store.path(key)), store.unit(key)
        assert unit is not None
        assert found.provenance["unit"] == unit
        name = unit["settings"]["relation"]
        again = kc.lens("facts-gpt2", name, n_pairs=2)
        assert found.rows() == again.rows()
        assert unit["values"]["relation"] == name


@pytest.mark.slow
def test_processes_and_shards_write_the_same_bytes_as_one_process(swept: Path, tmp_path: Path):
    done(tmp_path / "p", how=Executing(ExecutorKind.PROCESS, workers=2, threads=1))
    for place in (1, 2):
        done(tmp_path / "s", shard=Shard(place, 2))
    assert written(tmp_path / "p") == written(swept)
    assert written(tmp_path / "s") == written(swept)


def test_what_is_stored_is_not_done_again_and_what_is_damaged_is(copy: Path):
    before = written(copy)
    times = {path: path.stat().st_mtime_ns for path in (copy / "units").rglob("*.safetensors")}
    first, second = sorted(times)
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    told = done(copy)
    assert told.total == told.done == 1
    assert written(copy) == before
    assert second.stat().st_mtime_ns == times[second]
    first.write_bytes(before[first.name][:-3])
    assert done(copy).total == 1
    assert written(copy) == before


def test_a_unit_that_comes_out_differently_is_an_error_and_both_are_kept(copy: Path):
    store = Store(copy)
    key = next(iter(store.keys()))
    unit = store.unit(key)
    assert unit is not None
    before = written(copy)
    with pytest.raises(UnitError, match="came out differently"):
        store.save(key, {**unit, "values": {"other": 1}}, None)
    kept = written(copy)
    assert {name: kept[name] for name in before} == before
    assert len(kept) == len(before) + 1


def test_a_clock_that_jumps_changes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch):
    before = written(copy)
    for jump in (-1e9, 1e9):
        real = time.time
        monkeypatch.setattr(time, "time", lambda real=real, jump=jump: real() + jump)
        assert not plan(parse_spec(SMALL), copy).missing
        for path in (copy / "units").rglob("*.safetensors"):
            os.utime(path, (real() + jump, real() + jump))
        assert done(copy).total == 0
    assert written(copy) == before


def test_what_nothing_can_be_found_in_is_stored_with_its_reason(tmp_path: Path):
    facts = tmp_path / "wrong.csv"
    facts.write_text(
        "subject,object,prompt\nFrance,Oslo,The capital of {} is\nPeru,Rome,The capital of {} is\n"
    )
    spec = {**SMALL, "units": [{"verb": "discover", "facts": str(facts)}]}
    told = done(tmp_path, spec)
    assert told.done == 1
    (row,) = rows(tmp_path)
    assert "knows" in row["left_out"]
    assert not plan(parse_spec(spec), tmp_path).missing
    assert told.left_out == 1
    assert "1 of 1 done, 1 of them with nothing to be found, 0 failed" in told.line()
    found = status(tmp_path)
    assert [found["units"][0][name] for name in ("done", "left_out", "failed")] == [1, 1, 0]
    assert "1 of them with nothing to be found" in found["says"]
    assert "1 of them with nothing to be found" in SweepReader(tmp_path).look(60).says()


def test_options_that_cannot_be_met_fail_and_are_tried_again(tmp_path: Path):
    unit = {"verb": "discover", "relation": "country_capital", "n-pairs": 2, "edges": 999_999}
    spec = {**SMALL, "units": [unit]}
    told = done(tmp_path, spec)
    assert (told.done, told.left_out, told.ended) == (0, 0, 1)
    (failure,) = status(tmp_path)["failures"]
    assert "999999" in failure["reason"]
    assert len(plan(parse_spec(spec), tmp_path).missing) == 1


def test_a_failure_is_recorded_goes_on_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = VERBS["lens"]

    def fails(model: Any, source: Any, looking: Any) -> Any:
        if source.relation == "country_capital":
            raise ZeroDivisionError("of its own")
        return real.run(model, source, looking)

    monkeypatch.setitem(VERBS, "lens", replace(real, run=fails))
    for tries in (1, 2):
        assert done(tmp_path).ended == 3 - tries
        (failure,) = Store(tmp_path).errors().values()
        assert failure["tries"] == tries
        assert "ZeroDivisionError" in failure["reason"]
    assert status(tmp_path)["units"][0]["failed"] == 1
    monkeypatch.setitem(VERBS, "lens", real)
    assert done(tmp_path).done == 1
    assert not Store(tmp_path).errors()


def test_a_disk_that_is_full_stops_the_sweep_and_loses_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
):
    next((copy / "units").rglob("*.safetensors")).unlink()
    before = written(copy)

    def full(*given: Any, **options: Any) -> None:
        raise StoreError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("circuits.base.results.save_arrays", full)
        with pytest.raises(StoreError, match="no space left"):
            done(copy)
    assert written(copy) == before
    assert done(copy).done == 1


# --- state and table ------------------------------------------------------------------------------


def test_the_time_that_is_left_is_told_from_what_was_done(copy: Path):
    (row,) = status(copy)["units"]
    spec = {**SMALL, "seeds": [0, 1], "models": ["facts-gpt2", "facts-llama"]}
    found = plan(parse_spec(spec), copy)
    assert len(found.missing) == 6
    assert found.estimate(1) == pytest.approx(6 * row["seconds"])
    assert found.estimate(2) == pytest.approx(3 * row["seconds"])
    other = {**SMALL, "units": [{"verb": "trace", "relation": "country_capital"}]}
    assert plan(parse_spec(other), copy).estimate() is None


def test_status_counts_what_is_planned_done_and_failed(copy: Path):
    found = status(copy)
    (row,) = found["units"]
    assert (row["model"], row["verb"]) == ("facts-gpt2", "lens")
    assert (row["planned"], row["done"], row["left_out"], row["failed"]) == (2, 2, 0, 0)
    assert row["seconds"] > 0
    (copy / "logs" / "torn.jsonl").write_text('{"status": "done", "sec')
    assert status(copy) == found


def test_the_table_has_every_unit_with_its_settings_and_numbers(copy: Path):
    path, count = write_table(copy)
    table = pq.read_table(path)
    assert count == len(table) == 2
    wanted = {"key", "model", "verb", "settings.relation", "settings.n_pairs"}
    assert wanted <= set(table.column_names)
    assert set(table["settings.relation"].to_pylist()) == set(LENS["relation"])
    by_key = {row["key"]: row for row in table.to_pylist()}
    for key, row in by_key.items():
        unit = read_unit(Store(copy).path(key), key)
        assert unit is not None
        numbers = {k: v for k, v in flat(unit["values"]).items() if isinstance(v, float)}
        shown = {name: value for name, value in numbers.items() if name in row}
        assert shown
        assert {name: row[name] for name in shown} == shown


def test_the_table_is_the_same_in_pieces(copy: Path, monkeypatch: pytest.MonkeyPatch):
    store = Store(copy)
    for number in range(7):
        told = {"settings": {"a": number if number % 2 else "x"}, "values": {f"v{number}": 1.5}}
        save_empty(store, number, **told)
    whole = pq.read_table(write_table(copy)[0]).to_pylist()
    monkeypatch.setattr("experiments.sweeps.table.AT_ONCE", 2)
    pieces = pq.read_table(write_table(copy)[0]).to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in pieces] == [
        {k: v for k, v in row.items() if v is not None} for row in whole
    ]
    assert len(whole) == 9


def save_empty(store: Store, number: int, **told: Any) -> str:
    key = f"{number:064x}"
    unit = {"key": key, "verb": "lens", "model": "m", "dtype": "fp32", "settings": {}}
    store.save(key, {**unit, "left_out": "", "values": {}, **told}, None)
    return key


def test_a_damaged_file_is_a_row_that_says_so(copy: Path):
    path = next((copy / "units").rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:50])
    assert sorted(row["damaged"] for row in rows(copy)) == [False, True]


def test_a_record_comes_back_from_its_file(tmp_path: Path):
    store = Store(tmp_path)
    key = save_empty(store, 3, values={"a": {"b": 1.5}, "list": [1, 2]})
    found = kc.open(store.path(key))
    assert isinstance(found, Record)
    assert found.rows() == [{"name": "a.b", "value": 1.5}]
    assert digest(store.path(key)) is not None


# --- the command ----------------------------------------------------------------------------------


def command(tmp_path: Path, spec: Any, *more: str) -> tuple[int, Path]:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return main(["sweep", str(path), "--out", str(tmp_path / "out"), *more]), tmp_path / "out"


def test_the_command_plans_runs_tells_and_tabulates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, folder = command(tmp_path, SMALL, "--dry-run")
    assert code == 0
    assert "2 units, 2 to do; --first 3" in capsys.readouterr().out
    assert not (folder / "units").exists()
    assert command(tmp_path, SMALL, "--first", "1", "--json")[0] == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["plan", "unit", "end"]
    assert lines[1]["status"] == "done"
    assert lines[2].items() >= {"event": "end", "done": 1, "failed": 0}.items()
    assert command(tmp_path, SMALL, "--dry-run")[0] == 0
    assert "1 to do: about" in capsys.readouterr().out
    assert command(tmp_path, SMALL)[0] == 0
    assert main(["sweep", "status", str(folder)]) == 0
    assert "facts-gpt2  lens  2        2     0" in capsys.readouterr().out
    assert main(["sweep", "table", str(folder)]) == 0
    assert "2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["status"], "takes one folder"),
        (["table", "nowhere"], "there is no folder"),
        (["a.yaml", "b.yaml"], "one spec at a time"),
        (["absent.yaml"], "No such file"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["sweep", *words]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_analyses_and_benchmarks_are_entries_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    spec = {
        "models": ["facts-gpt2"],
        "units": [
            {
                "verb": "run",
                "analysis": "flow",
                "set": {"relations": ["country_capital"], "draws": 2},
            },
            {"verb": "benchmark", "benchmark": "zsre", "limit": 1, "methods": ["none", "ft"]},
        ],
    }
    code, folder = command(tmp_path, spec, "--executor", "process", "--workers", "1")
    assert code == 0, capsys.readouterr().err
    reports = sorted((folder / "runs").glob("*/report.html"))
    assert len(reports) == 2
    found = list(rows(folder))
    assert len(found) == 1 + 2, "one relation, two methods"
    for row in found:
        assert (row["model"], row["dtype"]) == ("facts-gpt2", "fp32")
    named = {row[f"{SETTING}analysis"] for row in found}
    assert named == {"flow", "benchmark-zsre"}
    assert {row[f"{SETTING}draws"] for row in found if f"{SETTING}draws" in row} == {2}
    wrong = {**spec, "units": [{"verb": "run", "analysis": "flow", "draws": 2}]}
    assert command(tmp_path, wrong)[0] == 2
    assert "options go under `set`" in capsys.readouterr().err


def test_the_table_has_the_rates_of_an_editing_benchmark_and_no_unit_of_an_earlier_version(
    tmp_path: Path,
):
    entry = {"verb": "benchmark", "benchmark": "zsre", "limit": 1, "methods": ["none"]}
    code, folder = command(tmp_path, {**SMALL, "units": [entry]})
    assert code == 0
    (path,) = (folder / "runs").glob("*/parts/*.json")
    unit = json.loads(path.read_text())
    (row,) = rows(folder)
    (score,) = unit["value"]["scores"]
    for measure, rates in score["after"].items():
        found = {name: row[f"means.scores.after.{measure}.{name}"] for name in rates}
        assert found == rates
    path.with_name("earlier.json").write_text(json.dumps({**unit, "fingerprint": "another"}))
    assert len(list(rows(folder))) == 1


def test_a_run_that_fails_is_told_by_status_until_it_has_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    entry = {"verb": "benchmark", "benchmark": "zsre", "limit": 1, "methods": ["none"]}
    real = runs.run_analysis

    def fails(*given: Any, **asked: Any) -> Any:
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(runs, "run_analysis", fails)
    for tries in (1, 2):
        code, folder = command(tmp_path, {**SMALL, "units": [entry]})
        assert code == UnitError.exit_code
        (failure,) = Store(folder).errors().values()
        assert (failure["tries"], failure["verb"]) == (tries, "benchmark")
    (told,) = status(folder)["failures"]
    assert told["reason"] == "ZeroDivisionError: of its own"
    assert "benchmark=zsre" in told["unit"]
    assert "0 of 1 planned units are done, 1 failed" in SweepReader(folder).look(60).says()
    monkeypatch.setattr(runs, "run_analysis", real)
    capsys.readouterr()
    assert command(tmp_path, {**SMALL, "units": [entry]}, "--json")[0] == 0
    event = json.loads(capsys.readouterr().out.splitlines()[1])
    assert (event["status"], event["total"]) == ("done", 1)
    assert Path(event["report"]).is_file()
    found = status(folder)
    (row,) = found["units"]
    assert (row["verb"], row["planned"], row["done"], row["failed"]) == ("benchmark", 1, 1, 0)
    assert not found["failures"]
    assert row["seconds"] == pytest.approx(event["seconds"])


def test_what_a_run_makes_nothing_of_is_refused_before_anything_runs(tmp_path: Path, capsys):
    entry = {"verb": "run", "analysis": "icl", "shots": [0, 2]}
    assert command(tmp_path, {"models": ["facts-gpt2"], "units": [entry]})[0] == 2
    assert "would change nothing in icl" in capsys.readouterr().err


def benchmark_work(**options: Any) -> Work:
    entry = {"verb": "benchmark", "benchmark": "zsre", **options}
    (work,) = parse_spec({"models": ["facts-gpt2"], "units": [entry]}).runs
    return work


@pytest.mark.parametrize("name", ["shots", "known", "facts"])
def test_a_benchmark_is_asked_nothing_that_it_does_not_read(name: str):
    runs.check(benchmark_work(seed=1, batch_size=4))
    with pytest.raises(OptionError, match=f"has no '{name}'"):
        runs.check(benchmark_work(**{name: 1}))


def test_rows_that_no_benchmark_of_a_sweep_can_use_are_told_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [*json.loads(benchmark("zsre").own_data.read_text())[:1], {"subject": "Peru"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(OptionError, match="1 rows cannot be used, the first is row 2"):
        runs.check(benchmark_work(data=str(path), strict=True))
    work, told = benchmark_work(data=str(path), strict=False), []

    def stop(*given: Any, **more: Any) -> Run:
        raise SkipError("nothing is run here")

    monkeypatch.setattr(runs, "run_analysis", stop)
    runs.check(work)
    with pytest.raises(SkipError):
        runs.run_one(work, tmp_path / "out", Executing(), told.append)
    assert len(told) == 1
    assert "zsre: 1 rows cannot be used, the first is row 2" in told[0]


def test_models_of_one_name_have_folders_of_their_own(tmp_path: Path):
    entry = {"verb": "run", "analysis": "flow"}
    spec = parse_spec({"models": ["runs/a/final", "runs/b/final"], "units": [entry]})
    folders = {folder_of(work, tmp_path) for work in spec.runs}
    assert len(folders) == 2


def test_a_run_is_asked_in_the_wordings_of_split_as_other_units_are():
    entries = [
        {"verb": "run", "analysis": "flow", name: "first"} for name in ("split", "templates")
    ]
    (work,) = parse_spec({"models": ["facts-gpt2"], "units": entries}).runs  # one, named twice
    assert runs._context(work, Path()).templates == Templates.FIRST


def test_the_number_of_verbs_is_that_of_the_page():
    page = (Path(planning.__file__).parents[2] / "docs" / "tasks" / "sweep.md").read_text()
    assert all(f"`{name}`" in page for name in VERBS)


def test_roles_of_a_task_are_a_unit_as_python_has_them():
    spec = {"verb": "roles", "task": "ioi", "n_pairs": 4}
    (work,) = parse_spec({"models": ["facts-gpt2"], "units": [spec]}).works
    model = kc.load("facts-gpt2", device="cpu")
    values, result = VERBS["roles"].run(model, *VERBS["roles"].options(work.settings))
    expected = kc.roles(model, "ioi", n_pairs=4)
    assert result is None
    assert values["heads"] == expected.rows()
    assert len(values["heads"]) == model.n_layers * model.n_heads
    with pytest.raises(OptionError, match="`ablation` has no effect on pairs without a subject"):
        VERBS["roles"].run(model, *VERBS["roles"].options({**work.settings, "ablation": "mean"}))


@pytest.mark.slow
def test_neurons_are_units_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A unit holds what the function gives with these options."""
    entry = {"verb": "neurons", "relation": "country_capital", "n-pairs": 4, "mlp": [["m2"]]}
    spec = {"models": ["facts-gpt2"], "units": [{**entry, "size": [[1, 4]], "random": 1}]}
    code, folder = command(tmp_path, spec)
    assert code == 0, capsys.readouterr().err
    (path,) = (folder / "units").glob("*/*.safetensors")
    options = {"n_pairs": 4, "sizes": (1, 4), "n_random": 1}
    expected = kc.neurons("facts-gpt2", "country_capital", "m2", **options)
    found = kc.open(path)
    assert found.rows() == expected.rows()
    assert len(found.rows()) > 0
    wiring = kc.load("facts-gpt2").wiring()
    names = map(wiring.edge_name, range(wiring.n_edges))
    kept = np.array([name == "m2->logits" for name in names])
    stored = tmp_path / "m2.kc.safetensors"
    Circuit(wiring, kept).save(stored)
    given = {name: value for name, value in entry.items() if name != "mlp"}
    given |= {"circuit": str(stored), "size": [[1, 4]], "random": 1}
    assert command(tmp_path, {**spec, "units": [given]})[0] == 0
    (other,) = set((folder / "units").glob("*/*.safetensors")) - {path}
    assert kc.open(other).rows() == expected.rows()
    wrong = {**spec, "units": [{**entry, "circuit": "tests"}]}
    assert command(tmp_path, wrong)[0] == 2
    assert "names the MLPs already" in capsys.readouterr().err
