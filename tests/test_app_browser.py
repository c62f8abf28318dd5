"""The app in a real browser, on real results of an embedded model.

One server and one browser serve all tests; every test ends with a look at the browser's log, which
must hold nothing, and at its requests, which must all be to the server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pytest
import torch
from selenium.common.exceptions import JavascriptException

from circuits.base.choices import TraceKind
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model, load
from circuits.model.wiring import Wiring
from locate.ask import ask, edit_fact, find_circuit
from locate.states.lens import lens_positions, logit_lens
from locate.states.tracing import trace
from tests.browser import open_browser, served, why_no_browser

MISSING = why_no_browser()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

PROMPT, SUBJECT, ANSWER = "The capital city of South Korea is called", "South Korea", "Seoul"
MODEL = "facts-gpt2"
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"
READY = """
const plot = document.querySelector('#picture .js-plotly-plot');
return !!(plot && plot.data && plot.data.length && document.querySelector('#count').textContent)
"""


@dataclass
class Page:
    """The browser on the app, with what the tests keep asking it."""

    driver: Any
    url: str
    ids: dict[str, str]

    def open(self, query: str = "", wait: str = READY) -> None:
        self.driver.get(self.url + query)
        self.until(wait)

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, code: str, seconds: float = 30) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(JavascriptException):  # what is looked at may not be there yet
                if found := self.js(code):
                    return found
            time.sleep(0.03)
        log = [line["message"][:300] for line in self.driver.get_log("browser")]
        raise AssertionError(
            f"not within {seconds} s: {code}\n{self.text('body')[:600]}\nlog: {log}"
        )

    def text(self, selector: str) -> str:
        return self.js(
            "return (document.querySelector(arguments[0])||{}).innerText || ''", selector
        )

    def set(self, id: str, **props: Any) -> None:
        self.js("dash_clientside.set_props(arguments[0], arguments[1])", id, props)

    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.driver.current_url).query)

    def edges_drawn(self) -> int:
        return self.js(
            "const names = new Set();"
            "for (const t of document.querySelector('#picture .js-plotly-plot').data)"
            "  if (t.meta && t.meta.part === 'handles')"
            "    t.customdata.forEach(n => n && names.add(n));"
            "return names.size"
        )

    def click_mark(self, name: str) -> None:
        """A real mouse click on the picture where a node or edge is."""
        x, y = self.js(
            """
const plot = document.querySelector('#picture .js-plotly-plot'), name = arguments[0];
const box = plot.querySelector('.nsewdrag').getBoundingClientRect(), full = plot._fullLayout;
for (const trace of plot.data) {
  const names = trace.customdata || [];
  const hits = [];
  for (let i = 0; i < names.length; i++) if (names[i] === name) hits.push(i);
  if (!hits.length) continue;
  const at = hits[Math.floor(hits.length / 2)];
  return [box.left + full.xaxis.l2p(trace.x[at]), box.top + full.yaxis.l2p(trace.y[at])];
}
return [-1, -1];
""",
            name,
        )
        assert x > 0, f"{name} is not drawn"
        self.click_at(x, y)

    def click_at(self, x: float, y: float) -> None:
        """A real mouse click at a place of the window."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.driver)
        chain.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        chain.w3c_actions.pointer_action.pause(0.15)
        chain.w3c_actions.pointer_action.click()
        chain.perform()


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model) -> Path:
    """Small real results of every kind, and what a careless or hostile world may add."""
    root = tmp_path_factory.mktemp("results")
    question = ask(model, PROMPT, SUBJECT, ANSWER)
    circuit = find_circuit(model, question)
    circuit.save(root / "circuit.kc.safetensors")
    other = find_circuit(model, ask(model, "The capital of Portugal is", "Portugal", "Lisbon"))
    other.save(root / "partners.kc.safetensors")  # as many as intervals need
    Comparison(circuit, other).save(root / "comparison.kc.safetensors")
    edit_fact(model, question, "Tokyo").rewiring.save(root / "rewiring.kc.safetensors")
    found = trace(model, PROMPT, SUBJECT, ANSWER, kinds=[TraceKind.MLP], window=1, samples=2)
    found.save(root / "trace.kc.safetensors")
    prompt = model.tokenizer.encode(PROMPT)
    labels = {"answer": model.tokenizer.first_token(PROMPT, ANSWER)}
    read = logit_lens(model, prompt, labels, lens_positions(prompt, SUBJECT))
    replace(read, prompt=replace(prompt, text=HOSTILE)).save(root / "lens.kc.safetensors")
    large_circuit().save(root / "large.kc.safetensors")
    deep_circuit().save(root / "deep.kc.safetensors")
    (root / "flow").mkdir()
    summary = {"analysis": "flow", "question": "Where?", "lead": "In layer 6.", "model": MODEL}
    (root / "flow" / "summary.json").write_text(json.dumps(summary))
    (root / "flow" / "report.html").write_text("<h1>A report</h1><script>parent.x = 1</script>")
    (root / "broken.kc.safetensors").write_bytes(b"no header, no tensors, nothing")
    return root


def large_circuit() -> Circuit:
    """2,000 edges of a model of GPT-2 small's size, with a hostile name."""
    wiring = Wiring(12, 12, 12)
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1.5, wiring.n_src))[wiring.edge_src]
    values = values * np.exp(rng.normal(0, 1.5, wiring.n_dst))[wiring.edge_dst]
    values = (values * rng.choice([-1.0, 1.0, 1.0], wiring.n_edges)).astype(np.float32)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[np.argsort(-np.abs(values))[:2000]] = True
    origin = {"model": "made up", "relation": HOSTILE}
    return Circuit(wiring, kept, EdgeScores(wiring, values), provenance=origin)


def deep_circuit() -> Circuit:
    """A circuit that has nodes in all of 30 layers, as SmolLM2's have."""
    wiring = Wiring(30, 9, 3)
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, wiring.n_edges).astype(np.float32)
    kept = np.zeros(wiring.n_edges, dtype=bool)
    kept[np.argsort(-np.abs(values))[:600]] = True
    return Circuit(wiring, kept, EdgeScores(wiring, values), provenance={"model": "deep"})


@pytest.fixture(scope="module")
def site(folder, model) -> Iterator[tuple[str, dict[str, str]]]:
    with served(folder, model) as (url, ids):
        yield url, dict(ids)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def page(browser, site) -> Iterator[Page]:
    url, ids = site
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    page = Page(browser, url, ids)
    yield page
    assert browser.get_log("browser") == []
    asked = {
        urlsplit(request["url"]).netloc
        for line in browser.get_log("performance")
        for message in [json.loads(line["message"])["message"]]
        if message["method"] == "Network.requestWillBeSent"
        for request in [message["params"]["request"]]
        if request["url"].startswith("http")
    }
    assert asked <= {urlsplit(url).netloc}


def test_the_first_view_is_a_real_circuit_and_is_quickly_there(page):
    page.open()
    start = time.monotonic()
    page.open()
    seconds = time.monotonic() - start
    assert page.edges_drawn() == 150
    assert page.text("h1").startswith(PROMPT)
    assert "150 of" in page.text("#count")
    assert seconds < 6, "2 s on a machine that has nothing else to do"


@pytest.mark.parametrize(
    ("name", "view", "sign"),
    [
        ("rewiring", "difference", "#followed .js-plotly-plot"),
        ("comparison", "difference", "#picture .js-plotly-plot .scatterlayer"),
        ("trace", "trace", "#plain-picture .heatmaplayer"),
        ("lens", "lens", "#plain-picture .scatterlayer"),
        ("large", "circuit", "#picture .scatterlayer"),
    ],
)
def test_every_view_opens_on_a_real_result_with_a_table_beside_it(page, name, view, sign):
    page.open(
        f"?view={view}&r={page.ids[name]}",
        f"return !!document.querySelector('{sign}') && document.querySelectorAll('.ag-row').length",
    )
    assert page.js("return document.querySelectorAll('.right .ag-row').length") > 1
    assert page.js("return document.querySelectorAll('img[src=x], h1 b').length") == 0


def test_the_edge_slider_and_the_threshold_change_picture_table_and_link(page):
    page.open(f"?view=circuit&r={page.ids['circuit']}")
    page.set("n", value=40)
    page.until("return document.querySelector('#count').textContent.startsWith('40 of')")
    assert page.edges_drawn() == 40
    page.until("return new URLSearchParams(location.search).get('n') === '40'")
    page.set("t", value=60)
    page.until("return !document.querySelector('#count').textContent.startsWith('40 of')")
    few = page.edges_drawn()
    assert 0 < few < 40
    threshold = float(page.until("return new URLSearchParams(location.search).get('t')"))
    assert threshold > 0
    assert page.text("#count").startswith(f"{few} of")


@pytest.mark.slow
def test_the_slider_answers_at_once_for_two_thousand_edges(page):
    page.open(f"?view=circuit&r={page.ids['large']}&n=2000")
    took, whole = page.driver.execute_async_script(
        """
const done = arguments[0], times = [], counts = [1990, 1980, 2000, 1200];
const plot = document.querySelector('#picture .js-plotly-plot');
function step(i) {
  if (i === counts.length) return redraw([]);
  const start = performance.now();
  plot.once('plotly_afterplot', () => requestAnimationFrame(() => requestAnimationFrame(() => {
    times.push(performance.now() - start);
    setTimeout(() => step(i + 1), 1500);  // the drawing that follows when the slider rests
  })));
  dash_clientside.set_props('n', {value: counts[i]});
}
function redraw(whole) {  // everything anew, by the library itself
  if (whole.length === 3) return done([times, whole]);
  const start = performance.now();
  Plotly.redraw(plot).then(() => requestAnimationFrame(() => requestAnimationFrame(() => {
    whole.push(performance.now() - start);
    redraw(whole);
  })));
}
step(0);
"""
    )
    assert page.edges_drawn() == 1200
    print("slider, 2,000 edges, ms:", [round(each) for each in (*took, *whole)])
    # The least of several, and against the same page: others on the machine slow both.
    assert min(took) < 3 * min(whole)


def test_a_click_on_a_node_shows_its_edges_and_its_reading_on_the_prompt(page):
    page.open(f"?view=circuit&r={page.ids['circuit']}")
    page.click_mark("a6.h1")
    page.until("return document.querySelector('#details h2').textContent === 'a6.h1'")
    details = page.text("#details")
    assert "Edges in:" in details
    assert "Edges out:" in details
    page.until("return document.querySelector('#live-reading').innerText.includes('probability')")
    reading = page.text("#live-reading")
    assert "Korea" in reading
    assert "→" in reading
    page.until("return new URLSearchParams(location.search).get('node') === 'a6.h1'")


def test_a_click_on_an_edge_shows_its_score_interval_and_stability(page):
    page.open(f"?view=circuit&r={page.ids['partners']}&n=30")
    page.click_mark("a6.h1->logits")
    page.until("return document.querySelector('#details h2').textContent.includes('->')")
    details = page.text("#details")
    for word in ("score", "95 % interval", "stability", "rank by |score|"):
        assert word in details


def test_escape_clears_and_the_table_selects_by_keyboard(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.open(f"?view=circuit&r={page.ids['circuit']}&node=m2")
    page.until("return document.querySelector('#details h2').textContent === 'm2'")
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    page.until("return document.querySelector('#details').innerText.includes('Summary')")
    page.until("return !new URLSearchParams(location.search).has('node')")
    page.until("return document.querySelector('#edges-table .ag-cell')")
    page.js("document.querySelector('#edges-table .ag-cell').focus()")
    ActionChains(page.driver).send_keys(Keys.ARROW_DOWN, Keys.SPACE).perform()
    page.until("return (document.querySelector('#details h2')||{}).textContent.includes('->')")


def test_search_and_filters_by_role_layer_and_line_narrow_what_is_shown(page):
    page.open(f"?view=circuit&r={page.ids['circuit']}")
    everything = page.edges_drawn()
    page.set("role", value=["mover"])
    page.until(f"return !document.querySelector('#count').textContent.startsWith('{everything} ')")
    by_role = page.edges_drawn()
    assert 0 < by_role < everything
    page.set("role", value=[])
    page.set("layers", value=[0, 2])
    page.until("return new URLSearchParams(location.search).get('layers') === '0-2'")
    assert 0 < page.edges_drawn() < everything
    page.set("layers", value=[0, 7])
    page.set("classes", value=["opposes"])
    page.until("return new URLSearchParams(location.search).get('hide') === 'supports'")
    assert 0 < page.edges_drawn() < everything
    page.set("classes", value=["opposes", "supports"])
    page.set("search", value="m2")
    page.until("return new URLSearchParams(location.search).get('q') === 'm2'")
    lit = page.js(
        "return document.querySelector('#picture .js-plotly-plot').layout.shapes"
        ".filter(s => s.path).map(s => s.opacity === 0.14)"
    )
    assert {True, False} == set(lit)


def test_a_group_of_nodes_is_named_drawn_and_kept_in_the_link(page):
    page.open(f"?view=circuit&r={page.ids['circuit']}&node=a6.h1")
    page.set("group-name", value="my <b>movers")
    page.js("document.querySelector('#pin').click()")
    page.until("return document.querySelector('#group-list').innerText.includes('my <b>movers')")
    page.until("return new URLSearchParams(location.search).get('groups') === 'my <b>movers:a6.h1'")
    page.driver.refresh()
    page.until(READY)
    page.until("return document.querySelector('#group-list').innerText.includes('a6.h1')")
    assert page.js(
        "return document.querySelector('#picture .js-plotly-plot').data"
        ".some(t => (t.text || []).includes('<b>my &lt;b&gt;movers</b>'))"
    )


def test_a_term_of_the_sentence_opens_its_note_by_click_and_key_one_at_a_time(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.open(f"?view=circuit&r={page.ids['partners']}&node=m2")
    page.until("return document.querySelector('#details h2').textContent === 'm2'")
    page.until("return document.querySelectorAll('details.term').length > 1")
    first, second = page.js("return [...document.querySelectorAll('details.term')].slice(0, 2)")
    height = page.js("return document.querySelector('.lead').clientHeight")
    first.find_element("tag name", "summary").click()
    page.until("return document.querySelector('details.term [role=note]').offsetHeight > 0")
    assert page.js("return document.querySelector('.lead').clientHeight") == height
    page.js("arguments[0].querySelector('summary').focus()", second)
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.until("return document.querySelectorAll('details.term[open]').length === 1")
    assert page.js("return arguments[0].open", second)
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    page.until("return !document.querySelector('details.term[open]')")
    assert page.text("#details h2") == "m2"  # Escape closed the note and no more


BOX = """
const plot = document.querySelector('#picture .js-plotly-plot');
return plot.layout.annotations.map(a => a.text).find(t => t.includes('movers')) || ''
"""


def collapsed(page: Page) -> str:
    """What stands above the box of the group of movers; empty where there is none."""
    return page.js(BOX)


def pressed(page: Page) -> str:
    """Whether the group's button says that it is collapsed."""
    return page.js(
        "return document.querySelector('#group-list [aria-pressed]').getAttribute('aria-pressed')"
    )


@pytest.mark.parametrize("name", ["circuit", "rewiring"])
def test_a_group_collapses_into_a_box_and_expands_by_click_and_key_and_the_link_keeps_it(
    page, name
):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    view = {"circuit": "circuit", "rewiring": "difference"}[name]
    page.open(f"?view={view}&r={page.ids[name]}&n=2000&groups=movers:a6.h1~a6.h2")
    page.until("return document.querySelector('#group-list button')")
    apart, count = page.edges_drawn(), page.text("#count")
    page.js("document.querySelector('#group-list button').click()")
    page.until(BOX)
    assert collapsed(page) == "<b>movers</b> ×2"
    page.until("return document.querySelector('#group-list button').textContent === 'Expand'")
    assert pressed(page) == "true"
    assert page.edges_drawn() < apart
    page.until("return new URLSearchParams(location.search).get('collapsed') === 'movers'")
    assert page.text("#count").split(" ")[0] == count.split(" ")[0]  # edges, not lines

    page.driver.refresh()
    page.until(READY)
    page.until(BOX)
    page.click_mark("group movers")
    page.until("return document.querySelector('#details h2').textContent === 'movers: 2 nodes'")
    assert "a6.h1, a6.h2" in page.text("#details")
    assert "Edges out:" in page.text("#details")
    ActionChains(page.driver).send_keys("g").perform()  # the group of what is selected
    page.until(f"return !(() => {{{BOX}}})()")
    page.until("return !new URLSearchParams(location.search).has('collapsed')")
    assert page.edges_drawn() == apart
    assert page.text("#count") == count

    page.until("return document.querySelector('#group-list button').textContent === 'Collapse'")
    page.js("document.querySelector('#group-list button').focus()")
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.until(BOX)
    page.js("document.querySelector('#group-list .icon').click()")  # a group that is gone
    page.until(f"return !(() => {{{BOX}}})()")


def test_a_box_that_is_switched_off_switches_off_its_nodes(page):
    page.open(
        f"?view=try&model={MODEL}&prompt={quote(PROMPT)}&subject={quote(SUBJECT)}&answer={ANSWER}"
        "&groups=movers:a6.h1~a6.h2&collapsed=movers",
        READY,
    )
    page.until(BOX)
    page.click_mark("group movers")
    page.until("return document.querySelector('#details h2').textContent.includes('movers')")
    page.js("document.querySelector('#off-toggle').click()")
    page.until("return new URLSearchParams(location.search).get('off') === 'a6.h1~a6.h2'")
    page.until("return document.querySelector('#answers').innerText.includes('off: a6.h1, a6.h2')")
    page.js("document.querySelector('#off-toggle').click()")
    page.until("return !new URLSearchParams(location.search).has('off')")


def test_a_deep_link_restores_the_view_and_back_and_forward_work(page):
    link = (
        f"?view=circuit&r={page.ids['circuit']}&n=60&t=0.05&node=m2&role=mover&layers=0-6"
        "&groups=late:a6.h1~a6.h2&hide=opposes"
    )
    page.open(link)
    page.until("return document.querySelector('#details h2').textContent === 'm2'")
    first, count = page.edges_drawn(), page.text("#count")
    page.until("return document.querySelector('#edges-table .ag-row')")
    assert page.query()["n"] == ["60"]
    page.js("document.querySelector('#nav-browse').click()")
    page.until("return document.querySelector('#results .ag-row')")
    page.driver.back()
    page.until(READY)
    assert (page.edges_drawn(), page.text("#count")) == (first, count)
    assert page.query()["groups"] == ["late:a6.h1~a6.h2"]


def test_browsing_searches_previews_and_opens_and_damage_is_shown(page):
    page.open("?view=browse", "return document.querySelectorAll('#results .ag-row').length > 5")
    page.set("result-search", value="partners")
    page.until(
        "return document.querySelectorAll('#results .ag-center-cols-container .ag-row').length"
        " === 1"
    )
    page.js("document.querySelector('#results .ag-row .ag-cell').click()")
    assert page.until("return document.querySelector('#preview .js-plotly-plot')") is not None
    page.set("result-search", value="broken")
    page.until(
        "return document.querySelectorAll('#results .ag-center-cols-container .ag-row').length"
        " === 1"
    )
    page.js("document.querySelector('#results .ag-row .ag-cell').click()")
    page.until("return document.querySelector('#preview').innerText.includes('not a safetensors')")
    page.set("result-search", value="comparison")
    page.until("return document.querySelector('#results .ag-row').innerText.includes('comparison')")
    page.js("document.querySelector('#results .ag-row .ag-cell').click()")
    page.until("return document.querySelector('#preview a').href.includes('difference')")
    page.js("document.querySelector('#preview a').click()")
    page.until(READY)
    assert "Jaccard" in page.text(".subtitle")


@pytest.mark.parametrize(
    "query",
    [
        "?view=circuit&r=..%2F..%2Fetc%2Fpasswd",
        "?view=circuit&r=%00",
        "?view=trace&r=/etc/passwd",
        "?n=abc&t=nan&layers=x&view=nowhere",
        "?r=" + quote(HOSTILE),
        "?" + "a=1&" * 300,
    ],
)
def test_hostile_links_give_a_page_and_the_app_lives_on(page, query):
    page.open(query, "return document.querySelector('.work, .cards') !== null")
    assert "root:" not in page.text("body")
    assert page.js("return document.querySelectorAll('img[src=x]').length") == 0
    page.open()
    assert page.edges_drawn() == 150


def test_a_corrupt_file_is_shown_as_such(page):
    page.open(f"?view=record&r={page.ids['broken']}", "return document.querySelector('.error')")
    assert "not a safetensors file" in page.text(".error")


@pytest.mark.slow
def test_live_a_circuit_is_found_parts_switched_off_and_a_fact_edited(page):
    words = f"&model={MODEL}&prompt={quote(PROMPT)}&subject={quote(SUBJECT)}&answer={ANSWER}"
    page.open(f"?view=try{words}")
    page.until("return document.querySelector('#answers').innerText.includes('Seoul')")
    start = time.monotonic()
    page.click_mark("a6.h1")
    page.until("return document.querySelector('#details h2').textContent === 'a6.h1'")
    page.js("document.querySelector('#off-toggle').click()")
    page.until("return document.querySelector('#answers').innerText.includes('With parts off')")
    page.until("return new URLSearchParams(location.search).get('off') === 'a6.h1'")
    print(f"switched off in {time.monotonic() - start:.1f} s")
    page.set("edit-target", value="Tokyo")
    start = time.monotonic()
    page.js("document.querySelector('#edit').click()")
    page.until(
        "return (document.querySelector('.answers')||{}).innerText.includes('After the edit')"
    )
    print(f"edited in {time.monotonic() - start:.1f} s")
    assert "Tokyo" in page.text(".answers")
    assert "kept" in page.text(".subtitle")
    link = page.driver.current_url
    page.driver.get("about:blank")
    page.driver.get(link)
    page.until(
        "return (document.querySelector('.answers')||{innerText: ''}).innerText.includes('Tokyo')"
    )


def test_live_mistakes_are_said_in_one_line(page):
    page.open()
    words = f"&model={MODEL}&prompt={quote(PROMPT)}&subject=Atlantis&answer={ANSWER}"
    page.open(f"?view=try{words}", "return document.querySelector('.error')")
    assert "Atlantis" in page.text(".error")


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1100, 700)])
def test_nothing_is_cut_off_at_usual_sizes(page, width, height):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.open(f"?view=circuit&r={page.ids['circuit']}")
    wide = page.js("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    box = page.js(
        "const b = document.querySelector('#picture').getBoundingClientRect();"
        "return [b.left, b.right, b.width]"
    )
    assert box[2] > 400


def test_everything_that_can_be_used_has_a_name(page):
    page.open(f"?view=circuit&r={page.ids['circuit']}&node=a6.h1")
    nameless = page.js(
        """
return [...document.querySelectorAll('button, a, input, [role=img]')].filter(e => {
  if (e.closest('.ag-root-wrapper, [hidden], [aria-hidden=true]')) return false;
  const label = e.labels && [...e.labels].map(l => l.textContent).join('');
  return !(e.textContent.trim() || e.getAttribute('aria-label') || label || e.title ||
           e.getAttribute('aria-labelledby'));
}).map(e => e.outerHTML.slice(0, 200))
"""
    )
    assert nameless == []


ENTER = """
const field = document.querySelector(arguments[0]);
field.focus();
if (arguments[1]) {
  const value = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value');
  value.set.call(field, arguments[1]);
  field.dispatchEvent(new Event('input', {bubbles: true}));
}
field.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}));
"""


def test_enter_in_the_search_selects_and_in_the_list_opens(page):
    page.open(f"?view=circuit&r={page.ids['circuit']}&node=m2")
    page.until("return document.querySelector('#details h2').textContent === 'm2'")
    page.js(ENTER, "#search", "a6.h1")
    page.until("return document.querySelector('#details h2').textContent === 'a6.h1'")
    page.until("return new URLSearchParams(location.search).get('node') === 'a6.h1'")
    page.open("?view=browse&q=deep", "return document.querySelectorAll('#results .ag-row').length")
    page.until(
        "return document.querySelectorAll('#results .ag-center-cols-container .ag-row').length"
        " === 1"
    )
    page.js(ENTER, "#result-search", "")
    page.until(READY)
    assert page.query()["r"] == [page.ids["deep"]]


def test_thirty_layers_fit_the_window_and_zoom_and_come_back(page):
    # A window in which names have not their full size from the start.
    size = {"width": 1280, "height": 760, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open(f"?view=circuit&r={page.ids['deep']}")
        low, high = page.js(
            "const box = document.querySelector('#picture').getBoundingClientRect();"
            "return [box.bottom, innerHeight]"
        )
        assert low <= high
        span = (
            "const plot = document.querySelector('#picture .js-plotly-plot');"
            "const range = plot._fullLayout.yaxis.range; return range[1] - range[0]"
        )
        whole = page.js(span)
        sizes = (
            "const plot = document.querySelector('#picture .js-plotly-plot');"
            "const drawn = plot.data.filter(t => t.meta && t.meta.part === 'labels')"
            ".flatMap(t => t.textfont.size)"
            ".reduce((all, size) => all + size, 0); "
        )
        # What the window leaves room for is drawn once the picture is there.
        page.until(f"{sizes} return !!plot.kcDraw && Math.abs(drawn - plot.kcSize) < 1")
        small = page.js(f"{sizes} return drawn")
        for _ in range(3):
            page.js("document.querySelector('#zoom-in').click()")
        near = page.js(span)
        assert near == pytest.approx(whole / 1.4**3, rel=0.01)
        page.until(f"{sizes} return drawn > {small}")
        page.js("document.querySelector('#zoom-fit').click()")
        assert page.js(span) == pytest.approx(whole, rel=0.001)
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("name", ["circuit", "rewiring", "trace"])
def test_a_narrow_window_stacks_and_cuts_nothing_off(page, name):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        view = {"circuit": "circuit", "rewiring": "difference", "trace": "trace"}[name]
        page.open(f"?view={view}&r={page.ids[name]}", "return document.querySelector('h1')")
        wide, title, picture = page.js(
            "const box = (s) => document.querySelector(s).getBoundingClientRect();"
            "return [document.documentElement.scrollWidth, box('h1').width,"
            " box('.picture-pane .graph').width]"
        )
        assert wide <= 390
        assert title > 300
        assert picture > 300
        order = page.js(
            "return ['.centre', '.right'].map(s => document.querySelector(s)"
            ".getBoundingClientRect().top)"
        )
        assert order[0] < order[1], "what was found comes first"
    finally:
        size = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_a_click_on_a_cell_of_the_lens_grid_lists_its_words(page):
    words = f"&model={MODEL}&prompt={quote(PROMPT)}&subject={quote(SUBJECT)}&answer={ANSWER}"
    page.open(
        f"?view=try&look=lens{words}",
        "return document.querySelector('#lens-grid .heatmaplayer') &&"
        " document.querySelector('#projection .bar-row')",
    )
    before = page.text("#projection")
    assert ANSWER in before
    x, y = page.js(
        "const plot = document.querySelector('#lens-grid .js-plotly-plot');"
        "const full = plot._fullLayout;"
        "const box = plot.querySelector('.nsewdrag').getBoundingClientRect();"
        "return [box.left + full.xaxis.l2p(1), box.top + full.yaxis.l2p(0)]"
    )
    page.click_at(x, y)
    page.until("return document.querySelector('#projection h2').textContent.includes('embedding')")
    page.until("return new URLSearchParams(location.search).get('place') === '0:1'")


def test_a_report_is_shown_in_a_frame_and_runs_nothing(page):
    page.open("?view=browse&q=flow", "return document.querySelector('#results .ag-row')")
    page.js(ENTER, "#result-search", "")
    page.until("return document.querySelector('iframe.report')")
    assert "In layer 6." in page.text(".lead")
    page.driver.switch_to.frame(page.driver.find_element("css selector", "iframe.report"))
    assert page.text("h1") == "A report"
    page.driver.switch_to.default_content()
    assert page.js("return window.x === undefined")
    page.driver.get_log("browser")  # the frame's policy says what it has blocked
