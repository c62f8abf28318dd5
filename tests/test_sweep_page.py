"""Laws of a sweep's page: one line in the list, every cell's units, and from each to its result."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuits.base.errors import OptionError
from circuits.base.writing import save_json
from circuits.files.kinds import DAMAGED, KINDS, SWEEP
from circuits.files.sweep import Unit, read_file, read_table, unit_files
from circuits.files.units import Store
from circuits.model.wiring import Wiring
from experiments.sweeps.table import write_table
from tests.browser import open_browser, served, why_no_browser
from tests.test_viz import circuit_of
from viz import sweeps
from viz.app.browse_page import browse_page, preview
from viz.app.context import Context, Models
from viz.app.library import Library
from viz.app.routes import page_of
from viz.app.server import make_app
from viz.app.state import ViewState, parse_state
from viz.app.sweep_callbacks import answer, asked
from viz.app.sweep_page import MOST_UNITS, MOST_VALUES
from viz.matrix import ABSENT, axes, chosen, matrix_of, settings_in, value_of, varying
from viz.page.results import sections
from viz.screen.matrix import matrix_figure
from viz.sweeps import SweepReader

pytestmark = pytest.mark.slow

RELATIONS = ("capital", "currency", "language")
METHODS = ("eap", "exact")
FAILURE = "crashed: out of memory"
HOSTILE = "<img src=x onerror=alert(1)> ‮ {{7*7}}"
MISSING = why_no_browser()
in_browser = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def key_of(*words: Any) -> str:
    return sha256(repr(words).encode()).hexdigest()


def store_unit(store: Store, relation: str, method: str, seed: int, **values: Any) -> str:
    """A stored unit that has a circuit; returns its key."""
    key = key_of(relation, method, seed)
    place = RELATIONS.index(relation) if relation in RELATIONS else 9
    circuit = circuit_of(Wiring(3, 4, 2), 0.5, seed)
    numbers = {
        "faithfulness": 0.5 + place / 10 + seed / 100 + (method == "exact") / 7,
        "edges": circuit.n_edges,
        "kv": "grouped",
        "intervals": {"low": -1.0 - seed},
        **values,
    }
    unit = {
        "key": key,
        "verb": "discover",
        "model": "facts-gpt2",
        "dtype": "fp32",
        "settings": {"relation": relation, "method": method, "seed": seed, "n_pairs": 8},
        "left_out": "",
        "values": numbers,
    }
    store.save(key, unit, circuit)
    return key


def plan_units(folder: Path, keys: list[str]) -> None:
    units = [[key, "discover", "facts-gpt2", f"discover {key[:4]}"] for key in keys]
    save_json({"units": units}, folder / "plans" / "0.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of 3 relations, 2 methods and 2 seeds; one unit failed, one was never begun."""
    swept = tmp_path / "results" / "swept"
    store = Store(swept)
    grid = list(product(RELATIONS, METHODS, (0, 1)))
    keys = [store_unit(store, *each) for each in grid]
    plan_units(swept, [*keys, key_of("never")])
    store.path(keys[-1]).unlink()
    settings = {"relation": "language", "method": "exact", "seed": 1, "n_pairs": 8}
    told = {"status": "crashed", "reason": "out of\nmemory", "verb": "discover"}
    store.fail(keys[-1], {**told, "model": "facts-gpt2", "dtype": "fp32", "settings": settings})
    return tmp_path / "results"


def opened(folder: Path, **state: Any) -> tuple[Context, str, Any]:
    """A new server on the folder, its sweep's id, and the sweep's page."""
    context = Context(Library(folder), Models(()))
    (entry,) = [each for each in context.library.entries() if each.kind is SWEEP]
    page, _, _ = page_of(context, ViewState("sweep", entry.id, **state), "", {})
    return context, entry.id, page


def texts(component: Any) -> str:
    return json.dumps(component.to_plotly_json(), default=lambda each: each.to_plotly_json())


def links(component: Any) -> list[str]:
    found = component if isinstance(component, list) else [component]
    return [
        each.href
        for part in found
        for each in [part, *part._traverse()]
        if getattr(each, "href", "").startswith("?r=")
    ]


# --- the list -------------------------------------------------------------------------------------


def test_a_sweep_is_one_line_whether_it_is_the_folder_or_stands_in_it(folder):
    for root, name in ((folder, "swept"), (folder / "swept", "swept"), (folder.parent, "results")):
        entries = Library(root).entries()
        assert [each.kind for each in entries] == [SWEEP]
        assert name in entries[0].name
        assert "1 result" in texts(browse_page(Context(Library(root)), ViewState("browse")))


def test_other_results_beside_units_are_still_listed(folder):
    circuit_of(Wiring(3, 4, 2), 0.5, 5).save(
        folder / "swept" / "runs" / "flow" / "a.kc.safetensors"
    )
    entries = Library(folder).entries()
    assert [each.name for each in entries] == ["swept", "swept/runs/flow/a.kc.safetensors"]
    reader = SweepReader(folder / "swept")
    assert "analyses or benchmarks" not in reader.look().says()
    (folder / "swept" / "runs" / "flow" / "summary.json").write_text("{}")  # one with a report
    assert "1 analyses or benchmarks" in reader.look().says()


def test_the_sentence_counts_what_is_planned_done_and_failed(folder):
    _, _, page = opened(folder)
    said = "11 of 13 planned units are done, 1 failed (all of facts-gpt2)."
    assert said in texts(page)
    context = Context(Library(folder))
    entry = context.library.entries()[0]
    assert said in json.dumps(
        [each.to_plotly_json() for each in preview(context, entry.id)], default=str
    )


def test_only_a_sweep_has_a_sweeps_page(folder):
    context, _, _ = opened(folder)
    with pytest.raises(OptionError, match="no such result"):
        context.library.sweep("0123456789ab")
    unit = context.library.unit_id(opened(folder)[1], key_of("capital", "eap", 0))
    with pytest.raises(OptionError, match="is no sweep"):
        context.library.sweep(unit)


# --- the matrix -----------------------------------------------------------------------------------


def test_a_cell_is_the_mean_the_spread_and_the_count_of_its_units(folder):
    write_table(folder / "swept")
    units = SweepReader(folder / "swept").look(60).units
    matrix = matrix_of(units, "relation", "method", "faithfulness")
    table = pd.read_parquet(folder / "swept" / "table.parquet")
    groups = table.groupby(["settings.relation", "settings.method"])["faithfulness"]
    assert matrix.means == pytest.approx(groups.mean().to_dict())
    for cell, numbers in groups:
        assert len(matrix.values[cell]) == len(numbers)
        low, high, deviation = matrix.spread(cell)
        assert (low, high) == pytest.approx((numbers.min(), numbers.max()))
        if len(numbers) > 1:
            assert deviation == pytest.approx(numbers.std())
        else:
            assert deviation is None
    figure = matrix_figure(matrix, ("capital", "exact"))
    assert figure.data[0].z[0][1] == matrix.means["capital", "exact"]
    assert figure.data[0].text[0][1].endswith("n 2")
    assert "standard deviation" in figure.data[0].customdata[0][1][2]
    assert figure.layout.shapes[0].x0 == 0.5


def test_what_failed_stands_in_its_cell_and_has_no_number(folder):
    units = SweepReader(folder / "swept").look(60).units
    matrix = matrix_of(units, "relation", "method", "faithfulness")
    assert matrix.bad == {("language", "exact"): 1}
    assert len(matrix.values["language", "exact"]) == 1
    held = sum(map(len, matrix.values.values()))
    assert held + sum(matrix.bad.values()) == len(units) == 12


def test_filters_leave_what_has_one_of_the_wanted_values_of_each_setting(folder):
    units = SweepReader(folder / "swept").look(60).units
    where = {"relation": ["capital", "language"], "seed": ["0"], "method": []}
    left = chosen(units, where)
    assert {(value_of(u, "relation"), value_of(u, "seed")) for u in left} == {
        ("capital", "0"),
        ("language", "0"),
    }
    assert len(left) == 4
    assert chosen(units, {"relation": ["none such"]}) == []


def test_rows_are_relations_and_columns_methods_where_these_vary():
    def of(**settings: str) -> Unit:
        return Unit(repr(settings), settings)

    both = [of(relation=r, method=m, seed=s, model="a") for r, m, s in product("ab", "xy", "01")]
    assert axes(settings_in(both)) == ("relation", "method")
    assert list(varying(settings_in(both))) == ["relation", "method", "seed"]
    models = [of(relation="a", model=m, seed=s) for m, s in product("ab", "01")]
    assert axes(settings_in(models)) == ("model", "seed")
    many = [of(model="a", verb="edit", request=str(n)) for n in range(1000)]
    assert axes(settings_in(many)) == ("model", "verb")
    facts = [of(facts=f, verb=v) for f, v in (("one.csv", "lens"), ("two.csv", "trace"))]
    assert axes(settings_in(facts)) == ("facts", "verb")
    assert value_of(facts[0], "relation") == ABSENT


def test_values_stand_by_size_or_by_letter():
    units = [Unit(n, {"steps": n}) for n in ("10", "9", "x", "1.5")]
    assert settings_in(units)["steps"] == ["1.5", "9", "10", "x"]


def test_means_on_both_sides_of_zero_turn_colour_there():
    for numbers in ((-1.0, 2.0), (-5.0, 1.0)):
        units = [Unit(str(x), {"a": str(x), "b": "b"}, {"n": x}) for x in numbers]
        scale = matrix_figure(matrix_of(units, "a", "b", "n")).layout.coloraxis
        assert scale.cmin <= min(numbers)
        assert scale.cmax >= max(numbers)
        share = -scale.cmin / (scale.cmax - scale.cmin)
        assert share == pytest.approx(scale.colorscale[1][0])


def test_labels_are_harmless_and_long_ones_are_cut_or_broken():
    units = [Unit(name, {"a": name, "b": name}, {"n": 1.0}) for name in (HOSTILE, "x-" * 40)]
    figure = matrix_figure(matrix_of(units, "a", "b", "n"), (HOSTILE, HOSTILE))
    shown = [*figure.layout.xaxis.ticktext, *figure.layout.yaxis.ticktext]
    shown += [each[2] for line in figure.data[0].customdata for each in line]
    assert not any("<img" in text or "\u202e" in text for text in shown)
    assert all(
        len(line) <= 40 for text in figure.layout.xaxis.ticktext for line in text.split("<br>")
    )
    assert figure.layout.xaxis.ticktext[1].replace("<br>", "").startswith("x-x-x-")


# --- units ----------------------------------------------------------------------------------------


def test_every_cell_leads_to_the_result_of_each_of_its_units(folder):
    context, result, _ = opened(folder)
    fresh = Context(Library(folder), Models(()))  # a link opens in a new server too
    seen = set()
    for relation, method in product(RELATIONS, METHODS):
        state = asked("faithfulness", "relation", "method", {}, [relation, method])
        _, units = answer(context, result, state)
        for link in links(units):
            page, entry, _ = page_of(fresh, parse_state(link)[0], "", {})
            assert entry is not None
            assert entry.kind is KINDS["circuit"]
            assert "edges-table" in texts(page)
            unit = fresh.library.value(entry.id).provenance["unit"]
            assert (unit["settings"]["relation"], unit["settings"]["method"]) == (relation, method)
            seen.add(unit["key"])
    assert len(seen) == 11


def test_controls_say_what_is_shown_and_empty_ones_filter_nothing(folder):
    context, result, _ = opened(folder)
    picture, units = answer(
        context, result, asked("edges", "seed", "relation", {"method": ["eap"]}, [])
    )
    figure = next(each.figure for each in picture[0]._traverse() if hasattr(each, "figure"))
    assert list(figure.layout.yaxis.ticktext) == ["0", "1"]
    assert list(figure.layout.xaxis.ticktext) == list(RELATIONS)
    assert len(links(units)) == 6
    everything = answer(
        context, result, asked(None, None, None, {"method": [], "seed": None}, None)
    )
    assert len(links(everything[1])) == 11
    nothing = answer(context, result, asked(None, None, None, {"method": ["none such"]}, None))
    assert "No unit passes" in texts(nothing[0][0])


def test_a_page_in_one_file_says_what_the_app_says(folder):
    (section,) = sections(folder / "swept")
    assert section.lead == SweepReader(folder / "swept").look(60).says()
    assert section.lead.startswith("11 of 13 planned units are done, 1 failed")
    assert section.facts["relation"] == "capital, currency, language"
    units, failed = section.listings
    assert len(units.rows) == 11
    assert failed.rows == [[f"discover {key_of('language', 'exact', 1)[:4]}", FAILURE]]


def test_units_without_a_plan_are_counted_as_they_are(folder):
    shutil.rmtree(folder / "swept" / "plans")
    said = SweepReader(folder / "swept").look(60).says()
    assert said == "11 units are done, of a plan that is not in the folder, 1 failed."


def test_a_failure_is_listed_with_its_line(folder):
    _, _, page = opened(folder)
    assert "crashed: out of memory" in texts(page)
    assert "Failed or damaged: 1" in texts(page)


def test_a_damaged_unit_is_a_line_and_the_page_stays(folder):
    store = Store(folder / "swept")
    path = store.path(key_of("capital", "eap", 0))
    path.write_bytes(path.read_bytes()[:-9])
    (folder / "swept" / "errors" / "ab.json").write_text("[" * 100_000)
    (folder / "swept" / "plans" / "9.json").write_text('{"units": 3}')
    other = store.path(key_of("capital", "eap", 1))
    other.write_bytes(b"")
    context, result, page = opened(folder)
    shown = texts(page)
    assert "is truncated" in shown
    assert "is empty" in shown
    assert "the record of this failure is damaged" in shown
    assert "2 of the done are damaged" in shown
    assert "n 2" in shown
    damaged = context.library.unit_id(result, key_of("capital", "eap", 0))
    assert context.library.entry(damaged).kind is DAMAGED
    page, _, title = page_of(context, ViewState(r=damaged), "", {})
    assert title == "Damaged file"


def test_what_is_written_meanwhile_is_there_at_the_next_look(folder):
    context, result, _ = opened(folder)
    key = store_unit(Store(folder / "swept"), "language", "exact", 1)
    unit = context.library.unit_id(result, key)
    assert context.library.entry(unit).kind is KINDS["circuit"]
    page, _, _ = page_of(context, ViewState("sweep", result), "", {})
    assert "12 of 13 planned units are done, none failed" in texts(page)
    path = Store(folder / "swept").path(key)
    path.write_bytes(b"gone wrong")
    assert context.library.entry(unit).kind is DAMAGED


def test_a_unit_is_read_once_and_again_where_it_was_touched(folder, monkeypatch):
    read: list[str] = []

    def counting(path: Path, key: str) -> Unit:
        read.append(key)
        return read_file(path, key)

    monkeypatch.setattr(sweeps, "read_file", counting)
    reader = SweepReader(folder / "swept")
    first = reader.look(60)
    assert sorted(read) == sorted(first.stored)
    reader.look(60)
    assert len(read) == 11
    touched = Store(folder / "swept").path(key_of("capital", "eap", 0))
    os.utime(touched, (1, 1))
    assert reader.look(60).units == first.units
    assert read[11:] == [key_of("capital", "eap", 0)]


def test_the_table_says_the_same_as_the_files_and_spares_reading_them(folder, monkeypatch):
    plain = SweepReader(folder / "swept").look(60)
    write_table(folder / "swept")
    tabled = read_table(folder / "swept")
    for key, path, mark in unit_files(folder / "swept"):
        assert tabled[key] == (mark, read_file(path, key))
    changed = store_unit(Store(folder / "swept"), "language", "exact", 1)
    read: list[str] = []
    monkeypatch.setattr(
        sweeps, "read_file", lambda path, key: read.append(key) or read_file(path, key)
    )
    os.utime(Store(folder / "swept").path(key_of("capital", "eap", 0)), (1, 1))
    seen = SweepReader(folder / "swept").look(60)
    assert sorted(read) == sorted([changed, key_of("capital", "eap", 0)])
    assert {u.key for u in seen.units} == {u.key for u in plain.units}
    (folder / "swept" / "table.parquet").write_bytes(b"PAR1 no table at all PAR1")
    assert SweepReader(folder / "swept").look(60).units == seen.units


def test_a_page_does_not_wait_for_units_that_take_long_to_read(folder, monkeypatch):
    def slow(path: Path, key: str) -> Unit:
        time.sleep(0.2)
        return read_file(path, key)

    monkeypatch.setattr(sweeps, "read_file", slow)
    reader = SweepReader(folder / "swept")
    start = time.monotonic()
    seen = reader.look(0.3)
    assert time.monotonic() - start < 1.5
    assert 0 < seen.unread < 11
    assert reader.look(60).unread == 0


def test_links_in_a_sweep_are_not_followed(folder, tmp_path):
    outside = (folder / "swept" / "units").rename(tmp_path / "units")
    (folder / "swept" / "units").symlink_to(outside, target_is_directory=True)
    assert list(unit_files(folder / "swept")) == []
    (folder / "swept" / "units").unlink()
    (folder / "swept" / "units").mkdir()
    for shelf in outside.iterdir():
        (folder / "swept" / "units" / shelf.name).symlink_to(shelf, target_is_directory=True)
    assert list(unit_files(folder / "swept")) == []
    assert links(opened(folder)[2]) == []


def test_many_values_and_units_are_named_by_their_number(folder):
    store = Store(folder / "swept")
    for seed in range(2, MOST_VALUES + 2):
        told = {"key": (key := key_of(seed)), "verb": "lens", "model": "m", "dtype": "fp32"}
        settings = {"relation": HOSTILE, "seed": seed}
        unit = {**told, "settings": settings, "left_out": "", "values": {"x": 1.0}}
        store.save(key, unit, None)
    context, result, page = opened(folder, number="x")
    _, units = answer(context, result, asked("x", "verb", "relation", {}, ["lens", HOSTILE]))
    title = units[0].children[0].children
    assert "lens" in title
    assert "\u202e" not in title
    page = texts(page)
    assert f"one of {MOST_VALUES + 2}" in page
    assert f"the first {MOST_UNITS} of them here" in page


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser(1280, 800) as driver:
        yield driver


def until(driver: Any, code: str, *given: Any) -> Any:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if found := driver.execute_script(code, *given):
            return found
        time.sleep(0.05)
    body = driver.execute_script("return document.body.innerText")
    raise AssertionError(f"not within 30 s: {code}\n{body[:800]}\n{driver.get_log('browser')}")


DRAWN = (
    "const p = document.querySelector('#sweep-picture .js-plotly-plot'); return p && p._fullData"
)


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_a_click_leads_from_a_cell_to_its_units_and_to_a_circuit(browser, folder, width, height):
    from selenium.webdriver import ActionChains

    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get_log("browser")
    with served(folder) as (url, ids):
        browser.get(f"{url}?view=sweep&r={ids['swept']}")
        until(browser, DRAWN)
        x, y = browser.execute_script(
            "const p = document.querySelector('#sweep-picture .js-plotly-plot');"
            "p.scrollIntoView({block: 'center'});"
            "const b = p.querySelector('.nsewdrag').getBoundingClientRect(), f = p._fullLayout;"
            "return [b.left + f.xaxis.l2p(1), b.top + f.yaxis.l2p(0)]"
        )
        chain = ActionChains(browser)
        chain.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        chain.w3c_actions.pointer_action.pause(0.2)
        chain.w3c_actions.pointer_action.click()
        chain.perform()
        said = "return document.querySelector('#sweep-units h2')?.innerText === arguments[0]"
        until(browser, said, "capital × exact")
        until(browser, "return location.search.includes('cell=capital~exact')")
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        browser.get(browser.current_url)  # the link says which cell
        until(browser, said, "capital × exact")
        until(
            browser, "const a = document.querySelector('#sweep-units a'); a && a.click(); return a"
        )
        until(browser, "return document.querySelector('#edges-table .ag-row')")
        browser.back()
        until(browser, said, "capital × exact")
    assert browser.get_log("browser") == []


@in_browser
def test_a_filter_narrows_the_matrix_and_stands_in_the_link(browser, folder):
    size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get_log("browser")
    with served(folder) as (url, ids):
        browser.get(f"{url}?view=sweep&r={ids['swept']}")
        until(browser, DRAWN)
        browser.execute_script(
            "dash_clientside.set_props({type: 'sweep-filter', name: 'relation'},"
            " {value: ['capital', 'language']})"
        )
        rows = "return document.querySelector('#sweep-picture .js-plotly-plot').data[0].y.length"
        until(browser, f"{rows} === 2")
        until(browser, "return location.search.includes('where=relation:capital~language')")
        browser.get(browser.current_url)
        until(browser, DRAWN)
        until(browser, f"{rows} === 2")
    assert browser.get_log("browser") == []


def test_a_malformed_callback_of_the_page_is_no_fault_of_ours(folder):
    context, result, _ = opened(folder)
    client = make_app(context).server.test_client()
    outputs = "..sweep-matrix.children...sweep-units.children.."
    body = {
        "output": outputs,
        "outputs": [
            {"id": "sweep-matrix", "property": "children"},
            {"id": "sweep-units", "property": "children"},
        ],
        "inputs": [
            {"id": "sweep-number", "property": "value", "value": 3},
            {"id": "sweep-rows", "property": "value", "value": "no such setting"},
            {"id": "sweep-columns", "property": "value", "value": None},
            [],
            {"id": "sweep-cell", "property": "data", "value": ["a"]},
        ],
        "state": [[], {"id": "subject", "property": "data", "value": {"r": result}}],
        "changedPropIds": ["sweep-rows.value"],
    }
    done = client.post("/_dash-update-component", json=body, base_url="http://127.0.0.1:8050/")
    assert done.status_code == 200
    body["state"][1]["value"]["r"] = "../etc"  # type: ignore[index]
    refused = client.post("/_dash-update-component", json=body, base_url="http://127.0.0.1:8050/")
    assert b"no such result" in refused.data
