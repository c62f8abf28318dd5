"""Laws of the static page: whole, alone, harmless, and saying what its numbers say."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import knowledge_circuits as kc
from circuits.base.errors import OptionError
from experiments.cli.main import main
from tests import results
from tests.browser import open_browser, why_no_browser
from viz.page import write
from viz.page.document import document
from viz.page.results import section, sections

KINDS = {**results.STORED}
EVIDENCE = {
    "pairs": [
        {
            "clean": "The capital of France is",
            "answer": "Paris",
            "corrupted": "Of Peru",
            "foil": "Lima",
        }
    ],
    "held_out": {
        "faithfulness": {"value": 0.9, "low": 0.85, "high": 0.95},
        "random_faithfulness": {"value": 0.0, "low": -0.0001, "high": 0.01},
        "n_pairs": 12,
    },
}


class Elements(HTMLParser):
    """Every element's name and attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text.append(data)


def page_of(*given: object, cdn: bool = True) -> str:
    """A page without plotly.js in it, which every page holds all the same."""
    found = sections(list(given))
    return document(found, found[0].title, cdn=cdn)


def data_of(page: str) -> list[dict]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    return json.loads(block[1])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.slow
def test_a_page_of_every_kind_runs_no_script_but_its_own(name: str):
    page = page_of(KINDS[name]())
    elements = Elements(page)
    plain = page_of(results.circuit())
    scripts = [each for each in elements.found if each[0] == "script"]
    assert scripts == [each for each in Elements(plain).found if each[0] == "script"]
    assert not any(key.startswith("on") for _, attributes in elements.found for key in attributes)
    assert "\x00" not in page
    assert "\u202e" not in page
    assert not any(
        "alert(" in each for each in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    )


@pytest.mark.parametrize("cdn", [False, True])
def test_a_page_asks_for_nothing_but_plotly_where_that_is_wanted(cdn: bool, tmp_path: Path):
    write(results.circuit(), tmp_path / "x.html", cdn=cdn)
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    elements = Elements(page).found
    sources = [a["src"] for _, a in elements if a.get("src")]
    assert [tag for tag, a in elements if tag == "link"] == []
    assert len(sources) == cdn
    if cdn:
        [script] = [a for tag, a in elements if tag == "script" and "src" in a]
        assert str(script["integrity"]).startswith("sha256-")
        assert len(page) < 400_000
    else:
        assert len(page) > 3_000_000
    [policy] = [a["content"] for tag, a in elements if tag == "meta" and "http-equiv" in a]
    assert str(policy).startswith("default-src 'none'")
    assert ("https:" in str(policy)) == cdn


def test_the_table_of_a_circuit_holds_every_edge_and_the_picture_all_that_is_drawn():
    circuit = results.circuit()
    page = page_of(circuit)
    picked = [a["data-pick"] for _, a in Elements(page).found if "data-pick" in a]
    assert sorted(picked) == sorted(circuit.edge_names())
    [part] = data_of(page)
    assert set(part["graph"]["scene"]["edges"]["name"]) <= set(picked)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_page_begins_with_the_sentence_that_the_result_begins_with(name: str):
    found = KINDS[name]()
    assert section(found).lead == found.says() != ""
    assert page_of(found).count('class="lead"') == 1


def test_numbers_and_their_control_stand_below_with_what_was_asked():
    found = section(replace(results.circuit(), evidence=EVIDENCE))
    assert found.asked == "“The capital of France is” → Paris, against “Of Peru” → Lima"
    assert found.facts["faithfulness"] == "0.900 [0.850, 0.950] (12 pairs)"
    assert found.facts["random circuits"] == "0.000 [0.000, 0.010]"
    assert section(results.circuit()).asked == ""


def test_a_page_says_what_an_edit_was_to_change():
    request = {"prompt": "{} is in", "subject": "Rome", "ground_truth": "Italy", "target": "Peru"}
    edit = {"requests": [request, request]}
    made = results.rewiring()
    told = replace(made, provenance={**made.provenance, "edit": {"sum": [edit]}})
    for found in (section(replace(results.delta(), provenance=edit)), section(told)):
        assert found.title == "Rome: Italy → Peru and 1 more"
        assert found.asked == "“Rome is in” → Peru, and 1 more prompt"
    listed = section(results.delta()).listings  # its summary's table has the same rows
    assert [each.title for each in listed] == ["All numbers"]
    texts = {"forget": [{"text": "The capital of France is", "answer": "Paris"}]}
    unlearned = section(replace(results.delta(), provenance=texts))
    assert unlearned.title == "forget The capital of France is → Paris"
    assert unlearned.asked == "“The capital of France is” → Paris"


def test_a_folder_is_one_page_and_one_without_results_none(tmp_path: Path):
    with pytest.raises(OptionError, match="no stored result"):
        write(tmp_path, tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []
    results.circuit().save(tmp_path / "b.kc.safetensors")
    results.circuit(1).save(tmp_path / "a.kc.safetensors")
    results.trace().save(tmp_path / "trace.kc.safetensors")
    write(tmp_path, tmp_path / "x.html", cdn=True)
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert len(data_of(page)) == 3
    assert {part.title for part in sections(tmp_path)} >= {  # told apart by their files' names
        f"{section(results.circuit()).title} ({name})" for name in "ab"
    }


def test_what_has_no_page_is_refused_and_nothing_is_written(tmp_path: Path):
    for nothing in (3, [], "absent.kc.safetensors"):
        with pytest.raises(kc.KnowledgeCircuitsError):
            write(nothing, tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_results_save_themselves_as_a_page(tmp_path: Path):
    results.trace().save(tmp_path / "trace.html")
    results.circuit().save(tmp_path / "circuit.html")
    assert kc.save([results.circuit(), results.lens()], tmp_path / "both.html") == [
        tmp_path / "both.html"
    ]
    for name, n in (("trace", 1), ("circuit", 1), ("both", 2)):
        assert len(data_of((tmp_path / f"{name}.html").read_text(encoding="utf-8"))) == n


def test_the_command_writes_a_page_and_names_what_does_not_fit(tmp_path: Path, capsys):
    stored = tmp_path / "circuit.kc.safetensors"
    results.circuit().save(stored)
    assert main(["export", str(stored), "--to", "html", "--cdn"]) == 0
    assert capsys.readouterr().out.strip().endswith(f"{tmp_path / 'circuit.html'}.")
    assert main(["export", str(tmp_path), "--to", "html", "--out", str(tmp_path / "all.html")]) == 0
    assert main(["export", str(stored), "--to", "dot", "--cdn"]) == 2
    assert "--cdn goes with --to html alone" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "none"), "--to", "html"]) == 2
    assert not (tmp_path / "none.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "there is one")
@pytest.mark.parametrize("width", [1440, 390])
def test_a_page_works_from_a_disk_without_a_network(width: int, tmp_path: Path):
    circuit = replace(results.circuit(), evidence=EVIDENCE)
    everything = [circuit, results.rewiring(), results.trace(), results.lens(), results.roles()]
    everything += [results.STORED["curves"](), results.delta(), results.STORED["heads"]()]
    write(everything, tmp_path / "x.html")
    with open_browser(width, 900) as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        driver.get((tmp_path / "x.html").as_uri())
        end = time.monotonic() + 60  # a busy machine takes its time
        while driver.execute_script("return document.body.dataset.ready") != "yes":
            assert time.monotonic() < end
            time.sleep(0.1)
        drawn = "return document.querySelectorAll('.picture .main-svg, .view .main-svg').length"
        assert driver.execute_script(drawn) >= 7
        edge = circuit.edge_names()[0]
        row = f"tr[data-pick={json.dumps(edge)}]"
        driver.execute_script(f"document.querySelector({row!r}).click()")
        told = driver.execute_script("return document.querySelector('.details').textContent")
        assert edge in told
        driver.execute_script(
            "const t = document.querySelector('.t'); t.value = 100;"
            "t.dispatchEvent(new Event('input'))"
        )
        count = driver.execute_script("return document.querySelector('.count').textContent")
        assert count.startswith("1 of ")  # at the largest |score| the strongest edge is left
        across = driver.execute_script("return document.documentElement.scrollWidth")
        assert across <= width
        assert driver.get_log("browser") == []
