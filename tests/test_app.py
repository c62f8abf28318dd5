"""Laws of the app that need no browser: what is listed and opened, links, jobs, refusals."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.base.arrays import save_arrays
from circuits.base.errors import FileFormatError, KnowledgeCircuitsError, OptionError
from circuits.base.origin import write_all
from circuits.edits.edit import WeightDelta
from circuits.edits.parts.keys import key_point
from circuits.edits.parts.moments import Moments
from circuits.facts.pairs import PromptPair
from circuits.files.kinds import DAMAGED, KINDS, OTHER
from circuits.graph.circuit import Circuit
from circuits.model.wiring import Wiring
from tests.edits import same, weights
from tests.results import comparison as a_comparison
from tests.test_viz import circuit_of
from tests.tiny import tiny_model
from viz.app import try_page
from viz.app.browse_page import browse_page, preview
from viz.app.callbacks import details_of
from viz.app.context import Context, Models, prompts_of
from viz.app.details import edge_details
from viz.app.exports import DATA, PICTURES, exported
from viz.app.jobs import Jobs
from viz.app.library import Library
from viz.app.routes import page_of
from viz.app.security import is_loopback
from viz.app.server import _refused, check_port, make_app, warm_up
from viz.app.state import MOST_EDGES, VIEWS, ViewState, parse_state
from viz.paper.difference import either_circuit
from viz.screen.difference import difference_scene

ROOT = Path(__file__).parent.parent
HOSTILE = "<img src=x onerror=alert(1)> ‮ {{7*7}}"


def stored(folder: Path, name: str = "circuit", seed: int = 0) -> Circuit:
    circuit = circuit_of(Wiring(3, 4, 2), 0.5, seed)
    origin = {"model": "facts-gpt2", "relation": HOSTILE, "method": "eap-ig", "faithfulness": 0.9}
    circuit = Circuit(
        circuit.wiring, circuit.kept, circuit.scores, roles={"a1.h1": "mover"}, provenance=origin
    )
    circuit.save(folder / f"{name}.kc.safetensors")
    return circuit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    (root / "deep" / "er").mkdir(parents=True)
    stored(root)
    stored(root / "deep" / "er", "second", 1)
    (root / "broken.kc.safetensors").write_bytes(b"garbage, and no header")
    whole = (root / "circuit.kc.safetensors").read_bytes()
    (root / "cut.kc.safetensors").write_bytes(whole[:-7])
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    (root / "flipped.kc.safetensors").write_bytes(flipped)
    return root


# --- the list of results -------------------------------------------------------------------------


def test_every_result_below_the_folder_is_listed_once_and_damage_is_named(folder):
    entries = {entry.name: entry for entry in Library(folder).entries()}
    assert len({entry.id for entry in entries.values()}) == len(entries) == 5
    assert entries["deep/er/second.kc.safetensors"].kind is KINDS["circuit"]
    assert entries["broken.kc.safetensors"].kind is DAMAGED
    assert "truncated" in entries["cut.kc.safetensors"].error
    assert entries["circuit.kc.safetensors"].about["faithfulness"] == 0.9


def test_an_id_is_the_same_in_every_run_and_a_new_file_appears(folder):
    library = Library(folder)
    before = {entry.name: entry.id for entry in library.entries()}
    stored(folder, "later", 2)
    assert before.items() <= {entry.name: entry.id for entry in library.entries()}.items()
    assert before.items() <= {e.name: e.id for e in Library(folder).entries()}.items()


def test_a_changed_file_is_read_again(folder):
    library = Library(folder)
    entry = next(e for e in library.entries() if e.name == "circuit.kc.safetensors")
    first = library.value(entry.id)
    other = stored(folder, "circuit", 7)
    os.utime(folder / "circuit.kc.safetensors", (1, 1))
    assert first != other
    assert library.value(entry.id) == other


def test_a_link_is_neither_listed_nor_opened_even_where_it_takes_a_files_place(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    stored(outside)
    target = outside / "circuit.kc.safetensors"
    (folder / "link.kc.safetensors").symlink_to(target)
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    library = Library(folder)
    names = {entry.name for entry in library.entries()}
    assert not any("link" in name for name in names)
    entry = next(e for e in library.entries() if e.name == "circuit.kc.safetensors")
    (folder / "circuit.kc.safetensors").unlink()
    (folder / "circuit.kc.safetensors").symlink_to(target)
    with pytest.raises(KnowledgeCircuitsError, match="link"):
        library.value(entry.id)


@pytest.mark.parametrize(
    "result",
    ["../circuit", "/etc/passwd", "circuit.kc.safetensors", "a\x00b", "%2e%2e%2f", "", "*"],
)
def test_only_ids_of_the_list_open_anything(folder, result):
    with pytest.raises(OptionError, match="no such result"):
        Library(folder).value(result)


@pytest.mark.parametrize("name", ["../summary.json", "/etc/passwd", "deep/../x", "..", ""])
def test_a_neighbour_is_a_plain_name_in_the_same_folder(folder, name):
    library = Library(folder)
    entry = next(e for e in library.entries() if e.kind is KINDS["circuit"])
    assert library.record(entry.id, name) == {}


def test_files_above_the_cap_and_pipes_are_not_opened(folder):
    os.mkfifo(folder / "pipe.kc.safetensors")
    entries = {entry.name: entry for entry in Library(folder, max_bytes=100).entries()}
    library = Library(folder, max_bytes=100)
    with pytest.raises(KnowledgeCircuitsError, match="at most"):
        library.value(entries["circuit.kc.safetensors"].id)
    assert entries["pipe.kc.safetensors"].kind is DAMAGED


def test_a_missing_or_empty_folder_has_no_results(tmp_path):
    assert Library(None).entries() == []
    assert Library(tmp_path).entries() == []


# --- links ---------------------------------------------------------------------------------------

NAMES = st.text("abcmh0123.<>-", min_size=1, max_size=12)
ANY = st.text("a~:;%&=,/ é<", min_size=1, max_size=8)
LISTS = st.lists(NAMES, max_size=4, unique=True).map(tuple)
STATES = st.builds(
    ViewState,
    view=st.sampled_from(VIEWS),
    r=st.text("0123456789abcdef", max_size=12),
    n=st.integers(1, MOST_EDGES),
    t=st.floats(0, 100).map(lambda x: float(f"{x:g}")),
    node=NAMES,
    edge=NAMES,
    q=st.text(max_size=20).filter(lambda text: "\x00" not in text and "\ud7ff" not in text),
    role=LISTS,
    kind=LISTS,
    hide=LISTS,
    layers=st.none() | st.tuples(st.integers(0, 9), st.integers(10, 20)),
    groups=st.lists(st.tuples(st.text("abc _", max_size=8), LISTS.filter(bool)), max_size=3).map(
        tuple
    ),
    prompt=st.text("The capital of?=&%#+;é", max_size=30),
    collapsed=LISTS,
    off=LISTS,
    rows=NAMES,
    number=NAMES,
    where=st.dictionaries(ANY, st.lists(ANY, min_size=1, max_size=3, unique=True).map(tuple)).map(
        lambda found: tuple(found.items())
    ),
    cell=st.just(()) | st.tuples(ANY, ANY),
)


@settings(max_examples=150)
@given(STATES)
def test_a_link_reproduces_its_view(state):
    back, notices = parse_state(state.search())
    assert back == state
    assert not notices


@settings(max_examples=200)
@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: "?" + repr(raw)))
def test_no_query_string_is_an_error(text):
    state, _ = parse_state(text)
    assert isinstance(state, ViewState)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("?n=abc", "n"),
        ("?t=nan", "t"),
        ("?t=-1", "t"),
        ("?view=admin", "view"),
        ("?look=foo", "look"),
        ("?layers=5-2", "layers"),
        ("?r=a%00b", "r"),
    ],
)
def test_what_a_link_says_wrongly_is_left_at_its_default_and_said(query, name):
    state, notices = parse_state(query)
    assert state == ViewState()
    assert len(notices) == 1
    assert name in notices[0]


def test_numbers_in_links_are_clamped():
    assert parse_state("?n=999999999999")[0].n == MOST_EDGES
    assert parse_state("?n=-5")[0].n == 1


# --- pages ---------------------------------------------------------------------------------------


def texts(component) -> str:
    return json.dumps(component.to_plotly_json(), default=lambda each: each.to_plotly_json())


def test_every_result_has_a_page_and_damage_is_shown_as_such(folder):
    context = Context(Library(folder))
    for entry in context.library.entries():
        state = ViewState(view=entry.kind.view, r=entry.id)
        if entry.name.startswith("flipped"):  # is only seen when the whole file is read
            with pytest.raises(KnowledgeCircuitsError, match=r"^flipped.*hash"):
                page_of(context, state, "", {})
            continue
        page, shown, _ = page_of(context, state, "", {})
        assert (shown is None) == (entry.kind is DAMAGED)
        if shown is None:
            assert entry.error in texts(page)


ODD = [
    {"roles": 3},
    {"roles": [{"name": "a1.h1", "mover": {"share": 0.5, "gain": {"value": "x", "low": 1}}}]},
    {"stability": 3},
    {"pairs": 3},
    {"evaluation": {"hit_at_10": {"circuit": 3}}},
]


@pytest.mark.parametrize("evidence", ODD, ids=str)
def test_what_no_page_expects_in_a_file_costs_a_line_and_never_the_server(evidence, tmp_path):
    replace(circuit_of(Wiring(3, 4, 2), 0.5, 0), evidence=evidence).save(
        tmp_path / "odd.kc.safetensors"
    )
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    warm_up(context)
    shown = [str(preview(context, entry.id))]
    ways = (
        lambda: page_of(context, ViewState(view="circuit", r=entry.id), "", {}),
        lambda: details_of(context, entry.id, {"node": "a1.h1"}),
    )
    for way in ways:
        try:
            shown.append(str(way()))
        except OptionError as error:
            shown.append(str(error))
    said = "odd.kc.safetensors cannot be shown: it holds what no page expects (TypeError"
    assert all((said in text) == (evidence == ODD[0]) for text in shown)


def test_a_damaged_circuit_that_would_be_the_first_page_does_not_keep_the_server_down(folder):
    flipped = (folder / "flipped.kc.safetensors").read_bytes()
    (folder / "circuit.kc.safetensors").write_bytes(flipped)
    context = Context(Library(folder))
    with pytest.raises(FileFormatError, match="hash"):
        page_of(context, ViewState(), "", {})
    warm_up(context)


def test_without_a_word_the_first_circuit_opens_and_an_empty_folder_says_what_to_do(
    folder, tmp_path
):
    _, entry, _ = page_of(Context(Library(folder)), ViewState(), "", {})
    assert entry is not None
    assert entry.kind is KINDS["circuit"]
    page, entry, _ = page_of(Context(Library(tmp_path / "results" / "deep")), ViewState(), "", {})
    assert entry is not None
    empty = tmp_path / "empty"
    empty.mkdir()
    page, entry, _ = page_of(Context(Library(empty)), ViewState(), "", {})
    assert entry is None
    assert "make demo" in texts(page)


# --- what the server refuses ---------------------------------------------------------------------


@pytest.fixture
def client(folder):
    return make_app(Context(Library(folder))).server.test_client()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:8050", "[::1]:8050"])
def test_local_names_are_answered_with_a_policy_that_allows_no_other_site(client, host):
    response = client.get("/", headers={"Host": host})
    assert response.status_code == 200
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "["],
)
def test_other_host_names_are_refused(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.get("/_dash-layout", headers={"Host": host}).status_code == 403


def test_requests_from_other_sites_are_refused(client):
    answer = client.post(
        "/_dash-update-component", json={}, headers={"Origin": "http://evil.example"}
    )
    assert answer.status_code == 403
    assert client.get("/", headers={"Origin": "http://localhost:8050"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [[], {}, "text", {"output": "nothing.data", "inputs": 3}, {"output": 3, "inputs": []}],
)
def test_a_malformed_callback_is_refused_without_a_traceback(client, body, capfd):
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code == 400
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_ours_is_no_request_of_the_users(caplog):
    with pytest.raises(OptionError) as failed:
        Library(None).value("nothing")
    assert _refused(failed.value) == ("this page failed; the terminal says where", 500)
    assert "fault of the app" in caplog.text
    assert _refused(KeyError("output"))[1] == 400


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../server.py",
        "/assets/%2e%2e/server.py",
        "/assets/..%2fserver.py",
        "/assets//etc/passwd",
        "/assets/x%00.css",
        "/_dash-component-suites/dash/../../etc/passwd",
    ],
)
def test_no_path_leads_out_of_the_assets(client, path):
    response = client.get(path)
    assert b"def make_app" not in response.data
    assert b"root:" not in response.data


def test_other_names_are_answered_only_where_they_were_allowed(folder):
    app = make_app(Context(Library(folder)), "0.0.0.0", ["lab.example"])
    client = app.server.test_client()
    for host, status in (("lab.example", 200), ("10.1.2.3:80", 200), ("evil.example", 403)):
        assert client.get("/", headers={"Host": host}).status_code == status
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")


def test_neither_the_environment_nor_mcp_opens_the_server(folder):
    code = """
import sys
from pathlib import Path
from viz.app.context import Context
from viz.app.library import Library
from viz.app.server import make_app
app = make_app(Context(Library(Path(sys.argv[1]))))
client = app.server.test_client()
found = {rule.rule for rule in app.server.url_map.iter_rules()}
print(sorted(found), app.server.debug, client.get("/_mcp").headers.get("Content-Type"))
"""
    environment = {
        **os.environ,
        "HOST": "0.0.0.0",
        "DASH_DEBUG": "true",
        "DASH_MCP_ENABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "mcp" not in done.stdout.lower().split("]")[0]
    assert "] False" in done.stdout


def test_a_port_in_use_is_one_clear_line():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OptionError, match="`port`"):
            check_port("127.0.0.1", taken.getsockname()[1])


def test_a_files_word_loads_no_model_that_was_not_named():
    models = Models()
    assert models.can_load("facts-gpt2")
    assert not models.can_load("evil/model")
    assert not models.can_load("/tmp/model")
    with pytest.raises(OptionError, match="not started with"):
        models.get("evil/model")


def test_dash_is_imported_below_viz_app_alone():
    for layer in ("circuits", "locate", "viz", "experiments"):
        for path in (ROOT / layer).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {
                alias.name.partition(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import)
                for alias in node.names
            } | {
                (node.module or "").partition(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
            }
            assert not names & {"dash", "dash_ag_grid", "flask"} or "viz/app" in path.as_posix()


# --- jobs ----------------------------------------------------------------------------------------


def wait_for(jobs: Jobs, key: str, state: str, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = jobs.status(key)
        if status is not None and status.state == state:
            return
        time.sleep(0.01)
    raise AssertionError(f"{jobs.status(key)} did not become {state}")


def test_a_job_runs_once_and_a_second_one_is_refused_meanwhile():
    jobs, go, runs = Jobs(), threading.Event(), []

    def work(stage):
        stage("waiting")
        go.wait(10)
        runs.append(1)
        return "found"

    jobs.start("a", "first", work)
    jobs.start("a", "first", work)
    with pytest.raises(OptionError, match="first"):
        jobs.start("b", "second", work)
    assert jobs.value("a") is None
    go.set()
    wait_for(jobs, "a", "done")
    jobs.start("a", "first", work)
    assert jobs.value("a") == "found"
    assert runs == [1]


def test_a_cancelled_job_stops_within_a_forward_pass(model):
    """A batch of a real model takes seconds; the rest of it is not run."""
    jobs, key, seen = Jobs(), "a", []

    def note(layer: int):
        def hook(value, hook):
            seen.append(layer)
            if layer == 0:
                jobs.cancel(key)

        return key_point(layer), hook

    tokens = torch.tensor([model.tokenizer.encode("The capital of France is").ids])
    last = model.n_layers - 1
    jobs.start(key, "run", lambda stage: model.last_logits(tokens, [note(0), note(last)]))
    wait_for(jobs, key, "cancelled")
    assert seen == [0]
    # Nothing is left behind: neither the check nor the hooks.
    model.last_logits(tokens)
    assert seen == [0]


def test_a_cancelled_job_stops_at_its_next_step_and_may_be_asked_again():
    jobs, started = Jobs(), threading.Event()

    def work(stage):
        progress = stage("counting")
        for step in range(100_000):
            progress(step, 100_000)
            started.set()
            time.sleep(0.001)

    jobs.start("a", "count", work)
    started.wait(10)
    assert jobs.status("a").total == 100_000
    jobs.cancel("a")
    wait_for(jobs, "a", "cancelled")
    jobs.start("a", "count", lambda stage: 7)
    wait_for(jobs, "a", "done")
    assert jobs.value("a") == 7


def asked_live(name: str, target: str = "") -> ViewState:
    words = {"prompt": "The capital of France is", "subject": "France", "answer": "Paris"}
    return ViewState(view="try", model=name, target=target, **words)


@pytest.mark.parametrize("target", ["", "Rome"])
@pytest.mark.parametrize("runs_before", [0, 3, 9])
def test_after_stop_no_run_of_the_model_begins(
    target: str, runs_before: int, monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model("gpt2")
    moments = Moments.identity(model, range(model.n_layers))
    monkeypatch.setattr("circuits.edits.methods.run.find_moments", lambda *given, **_: moments)
    context, runs, late = Context(Library(None)), [], []
    context.models.add(model)
    state = asked_live(model.name, target)
    key, plain = try_page.job_key(state), model.bridge.forward

    def counted(*given, **options):
        (late if context.jobs._jobs[key].stop.is_set() else runs).append(1)
        if len(runs) == runs_before + 1:
            context.jobs.cancel(key)
        return plain(*given, **options)

    monkeypatch.setattr(model.bridge, "forward", counted)
    before = weights(model)
    try_page.start(context, state)
    wait_for(context.jobs, key, "cancelled", 60)
    assert len(runs) == runs_before + 1
    assert not late
    assert same(weights(model), before)


def test_stop_does_not_wait_for_a_model_that_is_being_loaded(monkeypatch: pytest.MonkeyPatch):
    go, loads = threading.Event(), []

    def load(name, device=None):
        loads.append(name)
        go.wait(60)
        return tiny_model("gpt2")

    monkeypatch.setattr("circuits.model.model.load", load)
    context = Context(Library(None))
    state = asked_live("facts-gpt2")
    try_page.start(context, state)
    while not loads:
        time.sleep(0.01)
    start = time.monotonic()
    context.jobs.cancel(try_page.job_key(state))
    wait_for(context.jobs, try_page.job_key(state), "cancelled")
    assert time.monotonic() - start < 2
    go.set()  # and what was loaded is not loaded again
    assert context.models.get("facts-gpt2") is context.models.get("facts-gpt2")
    assert loads == ["facts-gpt2"]


@pytest.mark.parametrize("error", [OptionError("say what"), ZeroDivisionError("x")])
def test_a_failing_job_says_why_and_lets_the_next_one_run(error):
    jobs = Jobs()

    def work(stage):
        raise error

    jobs.start("a", "fails", work)
    wait_for(jobs, "a", "failed")
    assert str(error) in jobs.status("a").error
    jobs.start("b", "works", lambda stage: 1)
    wait_for(jobs, "b", "done")


def test_a_server_behind_another_name_says_how_it_would_answer(folder):
    client = make_app(Context(Library(folder))).server.test_client()
    refused = client.get("/", headers={"Host": "lab.example.org"})
    assert refused.status_code == 403
    assert "--allow-host NAME" in refused.text
    allowed = make_app(Context(Library(folder)), allowed=["lab.example.org"]).server.test_client()
    assert allowed.get("/", headers={"Host": "lab.example.org"}).status_code == 200


@pytest.mark.parametrize("service", ["JupyterHub", "Colab"])
def test_a_notebook_on_another_machine_is_told_what_it_can_do(service, monkeypatch):
    if service == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", sys)
    else:
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/x/")
    with pytest.raises(OptionError, match=rf"{service}.*circuit\.plot\(\).*kc serve"):
        circuit_of(Wiring(1, 2, 2), 0.5, 0).explore()


def test_a_result_that_vanishes_while_it_is_listed_is_no_fault(folder, monkeypatch):
    library, plain = Library(folder), Path.stat

    def vanishing(path, **options):
        if path.name == "circuit.kc.safetensors":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return plain(path, **options)

    names = {entry.name for entry in library.entries()}
    monkeypatch.setattr(Path, "stat", vanishing)
    assert {entry.name for entry in Library(folder).entries()} < names
    monkeypatch.undo()
    (gone,) = (each for each in library.entries() if each.name == "circuit.kc.safetensors")
    (folder / "circuit.kc.safetensors").unlink()
    with pytest.raises(KnowledgeCircuitsError):
        library.value(gone.id)


# --- exports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [*PICTURES, *DATA])
def test_a_circuit_is_exported_in_every_format(format):
    circuit = circuit_of(Wiring(2, 3, 3), 0.6, 4)
    data = exported(circuit, format, "A title", circuit.edge_names()[:5])
    starts = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG", "graphml": b"<?xml"}
    assert data.startswith(starts.get(format, b""))
    assert len(data) > 100


def test_a_kind_that_is_not_known_is_shown_as_what_it_says(tmp_path):
    path = tmp_path / "x.kc.safetensors"
    save_arrays(path, "an-analysis", {"x": np.ones(2)}, {"model": "m", "finding": HOSTILE})
    context = Context(Library(tmp_path))
    (entry,) = context.library.entries()
    assert entry.kind is OTHER
    page, _, _ = page_of(context, ViewState(view="record", r=entry.id), "", {})
    assert "finding" in texts(page)


def test_the_page_of_an_edit_needs_no_file_beside_it_and_older_ones_still_have_theirs(tmp_path):
    request = {"prompt": "The capital of {} is", "subject": "Peru", "target": "Oslo"}
    success = {"score": {"value": 0.25}}
    part = WeightDelta({"w": torch.ones(2, 2)}, {"requests": [request]})
    (part + part).judged({"success": success}).save(tmp_path / "new" / "edit.kc.safetensors")
    part.save(tmp_path / "old" / "edit.kc.safetensors")
    context = Context(Library(tmp_path))
    for entry in context.library.entries():
        beside = {"success": {"score": {"value": 0.75}}}
        (tmp_path / entry.name).with_name("summary.json").write_text(json.dumps(beside))
        page = texts(page_of(context, ViewState(view="record", r=entry.id), "", {})[0])
        assert "The capital of Peru is" in page
        assert "Peru: \\u2192 Oslo" in page
        shown = "0.250" if entry.name.startswith("new") else "0.750"
        assert shown in page
        assert ("0.750" in page) == entry.name.startswith("old")


def test_files_of_different_runs_are_named_by_their_folder_below_the_root(tmp_path):
    deltas = [WeightDelta({"w": torch.full((2, 2), float(n))}) for n in range(2)]
    summary = {"summary.json": lambda path: path.write_text("{}")}
    write_all(tmp_path / "run", {"edit.kc.safetensors": deltas[0].save, **summary})
    library = Library(tmp_path)
    (entry,) = library.entries()
    assert library.mixed(entry) is None
    deltas[1].save(tmp_path / "run" / "edit.kc.safetensors")
    line = str(library.mixed(entry))
    assert line.startswith("the folder run holds files of different runs")
    assert str(tmp_path) not in line


def test_the_list_says_how_many_results_it_leaves_out(folder: Path, monkeypatch):
    monkeypatch.setattr("viz.app.library.MAX_FILES", 2)
    monkeypatch.setattr("viz.app.browse_page.MAX_FILES", 2)
    n_files = len(list(folder.rglob("*.kc.safetensors")))
    assert n_files > 2
    page = browse_page(Context(Library(folder)), ViewState())
    assert f"2 of {n_files} results" in str(page)


def test_what_a_click_measures_is_measured_on_the_circuits_own_pairs():
    asked = {
        "clean": "The capital of France is",
        "corrupted": "The capital of Japan is",
        "answer": "Paris",
        "foil": "Tokyo",
        "subject": "France",
    }
    circuit = circuit_of(Wiring(8, 8, 8), 0.5, 0)
    circuit = replace(circuit, evidence={"pairs": [asked, asked, {"clean": "no pair"}]})
    (record,) = prompts_of(circuit)
    (pair,) = Context(Library(None)).stored_question("facts-gpt2", record, None).pairs
    assert {name: getattr(pair.text, name) for name in asked} == asked


def test_a_stored_pair_is_asked_in_the_app_as_it_was():
    twice = PromptPair(
        "In Peru, the capital of Peru is",
        "In Peru, the capital of Cuba is",
        " Lima",
        " Havana",
        "Peru",
        "r",
        answers=(" Lima", " Li"),
        foils=(" Havana",),
        spans=(("subject", "Peru", 2), ("where", "In", 0)),
        exact=True,
        start=9,
    )
    token = PromptPair("Peru is", "Cuba is", "Lima", "Havana", "Peru", "r", tokens=(7, 9))
    records = [pair.as_dict() for pair in (twice, token)]
    circuit = replace(circuit_of(Wiring(8, 8, 8), 0.5, 0), evidence={"pairs": records})
    assert prompts_of(circuit) == records
    (pair,) = Context(Library(None)).stored_question("facts-gpt2", records[0], False).pairs
    assert pair.text == twice
    assert pair.subject == pair.clean.span_of("Peru", 2)
    broken = {**records[0], "spans": 3}
    with pytest.raises(FileFormatError, match="'spans' must be texts"):
        Context(Library(None)).stored_question("facts-gpt2", broken, False)


def test_an_edge_that_turned_round_is_shown_with_both_signs():
    comparison = a_comparison()
    before, after = (values.copy() for values in comparison.scores)
    edge = int(np.flatnonzero(comparison.before.kept & comparison.after.kept)[0])
    before[edge], after[edge] = 1.14, -1.53
    sides = [
        replace(side, scores=replace(side.scores, values=values))
        for side, values in ((comparison.before, before), (comparison.after, after))
    ]
    turned = replace(comparison, before=sides[0], after=sides[1])
    name = turned.before.wiring.edge_name(edge)
    shown = str(edge_details(either_circuit(turned), name, turned))
    assert "'+1.14'" in shown
    assert "-1.53, the sign flips" in shown
    titles = str(difference_scene(turned))
    assert "before +1.14, after -1.53" in titles
