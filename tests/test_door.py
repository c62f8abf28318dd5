"""The door `knowledge_circuits`: light, whole, documented, and clear about what hides it."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knowledge_circuits as kc
from circuits.base.choices import Metric
from circuits.base.errors import KnowledgeCircuitsError, OptionError
from circuits.base.options import meaning
from circuits.model.model import Model
from experiments.cli.main import main
from knowledge_circuits import _ACTS, _CHANGES, _LOOKS, _VERBS, parts, verbs
from knowledge_circuits.rooms import ROOMS
from locate.looks.comparing import edit_look
from locate.neurons.options import NeuronSearch
from locate.options import Editing, Evaluating, Judging, Source, Tracing, Unlearning
from locate.search import Search
from tests import results
from viz.app.inline import context_of
from viz.app.routes import page_of
from viz.app.state import ViewState
from viz.series import object_lines

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model() -> Model:
    return kc.load("facts-gpt2", device="cpu")


@pytest.fixture(autouse=True)
def _one_model(model: Model, monkeypatch: pytest.MonkeyPatch):
    """Examples load the same model again and again."""
    monkeypatch.setattr("circuits.model.model.load", lambda name, *rest, **more: model)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    lines = f"import sys; sys.path.append({str(ROOT)!r}); sys.path.insert(0, '')\n{code}"
    return subprocess.run(
        [sys.executable, "-c", lines], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*_VERBS, *_CHANGES, *_LOOKS, *_ACTS])
def test_the_example_of_every_verb_runs(name: str):
    verb = getattr(kc, name)
    assert verb.__doc__
    names = vars(verbs) | {each: getattr(kc, each) for each in kc.__all__}
    examples = doctest.DocTestFinder(recurse=False).find(verb, name, globs=names)
    assert name == "explore" or examples[0].examples
    results = [doctest.DocTestRunner(verbose=False).run(each) for each in examples]
    assert sum(each.failed for each in results) == 0


def test_every_name_of_the_door_is_there():
    assert set(kc.__all__) == set(dir(kc)) == set(kc._PLACES)
    assert all(getattr(kc, name) is not None for name in kc.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kc.nonsense


def test_importing_the_door_imports_nothing_else(tmp_path: Path):
    code = """
before = set(sys.modules)
import knowledge_circuits
heavy = {"torch", "numpy", "circuits", "locate", "viz", "experiments"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "knowledge_circuits", "no-verb"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "kc: error: No such command 'no-verb'.\n"
    assert not done.stdout


@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
@pytest.mark.parametrize("name", ROOMS)
def test_a_module_that_hides_ours_is_named_in_one_line(name: str, form: str, tmp_path: Path):
    path = tmp_path / form.format(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError('this is run by nobody')\n")
    done = run("import knowledge_circuits as kc; kc.relations()", tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert str(path.resolve()) in last
    assert f"hides the package {name!r}" in last
    assert "run by nobody" not in done.stderr


def test_a_folder_without_an_init_hides_nothing(tmp_path: Path):
    for name in ROOMS:
        (tmp_path / name).mkdir()
    done = run("import knowledge_circuits as kc; assert kc.relations()", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_fact_that_stands_alone_is_refused_with_what_it_lacks(model: Model, tmp_path: Path):
    line = {
        "relation": "c",
        "subject": "France",
        "object": "Paris",
        "prompt": "The capital of {} is",
    }
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(KnowledgeCircuitsError, match="needs another known one of its relation"):
        kc.discover(model, path, **QUIET)


def test_an_unknown_option_is_named_with_the_nearest_one(model: Model):
    with pytest.raises(OptionError, match="did you mean n_pairs"):
        kc.discover(model, "country_capital", n_pair=3)
    with pytest.raises(OptionError, match="metric"):
        kc.discover(model, "country_capital", metric="nonsense")


def test_a_verbs_signature_names_all_its_options():
    names = set(inspect.signature(kc.discover).parameters)
    assert {"n_pairs", "method", "metric", "ablation", "edges", "templates", "hold_out"} <= names
    assert not {"options", "limit", "pairs"} & names - {"options"}


@pytest.mark.parametrize(
    "verb", [kc.trace, kc.lens, kc.attribution, kc.roles, kc.heads, kc.evaluate, kc.compare]
)
def test_what_tests_nothing_holds_nothing_out_and_says_so(verb: Any, model: Model):
    taken = inspect.signature(verb).parameters
    assert "n_pairs" in taken
    assert "hold_out" not in taken
    assert "hold_out (" not in verb.__doc__
    more = ["a6.h1"] if verb in (kc.heads, kc.evaluate, kc.compare) else []
    with pytest.raises(OptionError, match="there is no option 'hold_out'"):
        verb(model, "country_capital", *more, hold_out=0.5)
    assert inspect.signature(kc.trace).parameters["known_only"].default is True


def test_the_page_of_the_door_names_every_option_that_a_command_spells_otherwise():
    page = (ROOT / "docs" / "reference" / "door.md").read_text()
    rows = re.findall(r"^\| `(--[a-z-]+)`.* \| .*`(\w+)`.* \|$", page, re.MULTILINE)
    for kind in (Source, Search, Evaluating, Tracing, Editing, Judging, Unlearning, NeuronSearch):
        for each in fields(kind):
            usual = f"--{each.name.replace('_', '-')}"
            spelled = [flag.split("/")[0] for flag in meaning(each).flags if flag[:2] == "--"]
            if spelled and spelled[0] != usual:
                assert (spelled[0], each.name) in rows


@pytest.mark.slow
def test_a_discovery_shows_tables_and_stores_the_files_of_the_command(model: Model, tmp_path: Path):
    found = kc.discover(model, "country_capital", n_pairs=8, resamples=10)
    table = found.to_pandas()
    assert len(table) == found.circuit.n_edges
    assert {"edge", "score", "inclusion"} <= set(table)
    assert "faithfulness" in str(found)
    names = {path.name for path in found.save(tmp_path)}
    assert {"circuit.kc.safetensors", "circuit.svg", "pairs.jsonl", "summary.json"} <= names
    assert kc.open(tmp_path / "circuit.kc.safetensors") == found.circuit


def test_a_model_says_its_likeliest_tokens_and_goes_on(model: Model):
    said = model.ask("The capital of France is", k=3)
    assert list(said.to_pandas()["probability"]) == sorted(said.probabilities, reverse=True)
    assert model.generate("The capital of France is", 3).startswith(" Paris")


FEW = {"n_pairs": 4}
QUIET = {**FEW, "resamples": 0, "roles": False}
CAPITALS = ["--relation", "country_capital", "--n-pairs", "4"]
EDIT = {"subject": "France", "target": "Rome", "ground_truth": "Paris"}
PROMPT, SAYS = "The capital of France is", {"subject": "France", "answer": "Paris"}
WORDS = ["--subject", "France", "--answer", "Paris"]


def _edited(model: Model) -> Any:
    return kc.edit(model, "The capital of {} is", **EDIT, relation="country_capital")


SAVED = {
    "discover": (
        lambda model: [kc.discover(model, "country_capital", **QUIET)],
        [*CAPITALS, "--resamples", "0", "--no-roles"],
    ),
    "evaluate": (
        lambda model: [kc.evaluate(model, "found.kc.safetensors", "country_capital", **FEW)],
        ["found.kc.safetensors", *CAPITALS],
    ),
    "trace": (
        lambda model: [kc.trace(model, "country_capital", samples=1, **FEW)],
        [*CAPITALS, "--samples", "1"],
    ),
    "trace one prompt": (
        lambda model: [kc.trace(model, PROMPT, **SAYS, samples=1)],
        [PROMPT, *WORDS, "--samples", "1"],
    ),
    "lens": (
        lambda model: [each(model, "country_capital", **FEW) for each in (kc.lens, kc.attribution)],
        CAPITALS,
    ),
    "lens one prompt": (lambda model: [kc.lens(model, PROMPT, **SAYS)], [PROMPT, *WORDS]),
    "carriers": (
        lambda model: [kc.carriers(model, PROMPT, into="6_545_5", n=2)],
        ["--prompt", PROMPT, "--into", "6_545_5", "-n", "2"],
    ),
    "roles": (
        lambda model: [
            found := kc.roles(model, "country_capital", **FEW),
            kc.heads(model, "country_capital", found, **FEW),
        ],
        CAPITALS,
    ),
    "edit": (
        lambda model: [_edited(model)],
        [
            *("--prompt", "The capital of {} is", "--relation", "country_capital"),
            *(
                word
                for name, value in EDIT.items()
                for word in (f"--{name.replace('_', '-')}", value)
            ),
        ],
    ),
    "compare": (
        lambda model: [kc.compare(model, _edited(model), draws=0, **QUIET)],
        [
            *("--edit", "edit/edit.kc.safetensors", "--draws", "0", "--n-pairs", "4"),
            *("--resamples", "0", "--no-roles"),
        ],
    ),
    "compare two files": (
        lambda model: [kc.compare("found.kc.safetensors", "found.kc.safetensors")],
        ["--before", "found.kc.safetensors", "--after", "found.kc.safetensors"],
    ),
}
"""By command: what the door's verbs give, and the words of the command that gives the same."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVED)
def test_what_is_saved_from_python_are_the_files_of_the_command(
    name: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    if name in ("evaluate", "compare two files"):
        found = kc.discover(model, "country_capital", **QUIET)
        kc.save(found.circuit, "found.kc.safetensors")
    if name == "compare":
        _edited(model).save("edit")
    make, words = SAVED[name]
    saved = [
        path for each in make(model) for path in kc.save(each, f"python/{type(each).__name__}")
    ]
    asked = [] if name == "compare two files" else ["--model", model.name]
    assert main([name.split()[0], *words, *asked, "--out", "command"]) == 0
    assert {path.name for path in saved} == {path.name for path in Path("command").iterdir()}
    [summary] = [path for path in saved if path.name == "summary.json"][:1]
    stated = json.loads(Path("command/summary.json").read_text())
    assert set(json.loads(summary.read_text())) <= set(stated)


@pytest.mark.parametrize("name", sorted({*results.STORED, "users"}))
def test_every_stored_result_is_explored_and_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    if name == "users":
        with pytest.raises(OptionError, match="no page"):
            kc.explore(3)
        return
    found = results.STORED[name]()
    _, entry, _ = page_of(context_of(found), ViewState(), "", {})
    assert entry is not None
    assert entry.live
    found.save(tmp_path / "a.kc.safetensors")
    assert main(["show", str(tmp_path), "--edges", "2"]) == 0
    said = "edges, " if name == "circuit" else found.summary().title.split()[0]
    assert said in capsys.readouterr().out


def test_a_path_without_a_kind_is_refused_in_one_line(model: Model, tmp_path: Path):
    with pytest.raises(OptionError, match="no folder"):
        kc.save(3, tmp_path / "x")
    with pytest.raises(OptionError, match="leave the suffix out"):
        kc.save(_edited(model), tmp_path / "x.kc.safetensors")
    with pytest.raises(OptionError, match=r"no picture 'nonsense'.*circuit, layers"):
        kc.plot(results.circuit(), "nonsense")


def test_show_of_a_folder_without_results_names_the_report_that_is_there(tmp_path: Path, capsys):
    assert main(["show", str(tmp_path)]) == 2
    assert "report" not in capsys.readouterr().err
    (tmp_path / "report.html").write_text("found")
    assert main(["show", str(tmp_path)]) == 2
    assert f"what it found is in {tmp_path / 'report.html'}" in capsys.readouterr().err


def test_everything_that_a_user_adds_is_built_from_names_that_are_there():
    assert all(getattr(parts, name) is not None for name in parts.PLACES)
    assert dir(parts) == sorted(parts.PLACES)


IMPORTS = {
    "knowledge_circuits",
    "numpy",
    "pandas",
    "torch",
    "plotly",
    "networkx",
    "dataclasses",
    "IPython",
}


def _python() -> dict[str, str]:
    """The notebooks, and the Python of the pages that users read."""
    found = {path.name: path.read_text() for path in (ROOT / "notebooks").glob("*.py")}
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs" / "tasks").glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
    ]
    for page in pages:
        code = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        found |= {f"{page.name} {place}": each for place, each in enumerate(code)}
    return found


@pytest.mark.parametrize(("place", "code"), _python().items(), ids=_python())
def test_what_users_read_imports_the_door_alone(place: str, code: str):
    tops = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(str(node.module).partition(".")[0])
    assert tops <= IMPORTS | sys.stdlib_module_names


def test_several_answers_hit_by_any_of_them_in_any_order(model: Model):
    quick = {"method": "eap", "resamples": 0, "roles": False, "n_random": 0, "edges": 200}
    found = []
    for answers in (("Paris", "zebra"), ("zebra", "Paris")):
        pair = kc.PromptPair(
            "The capital of France is",
            "The capital of Japan is",
            answers[0],
            "Tokyo",
            answers=answers,
        )
        found.append(kc.discover(model, [pair], **quick).evaluation)
    assert found[0].hit_at_10 == found[1].hit_at_10
    assert found[0].hit_at_10["model"].value == 1


def test_a_traces_unit_of_noise_is_the_asked_one(model: Model):
    text = ("The capital of France is", "France", "Paris")
    found = [
        kc.trace(model, *text, samples=1, kinds=["resid"], noise_unit=u)
        for u in ("matrix", "subjects")
    ]
    assert [each.provenance["noise_unit"] for each in found] == ["matrix", "subjects"]
    assert found[0].p_corrupted != found[1].p_corrupted


def test_an_edit_that_is_in_place_is_not_compared_with_itself_made_twice(model: Model):
    edit = kc.edit(
        model, "The capital of {} is", subject="France", target="Rome", moments="identity"
    )
    with edit.applied(), pytest.raises(OptionError, match="in the model already"):
        kc.compare(model, edit)


def test_what_is_made_of_other_things_is_refused_in_one_line(tmp_path: Path):
    """Outside of these tests nothing checks types, so this runs by itself."""
    code = """
import knowledge_circuits as kc
from circuits.base.errors import OptionError

def refused(make, words):
    try:
        make()
    except OptionError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

given = {"clean": "a b", "corrupted": "a c", "answer": "Paris", "foil": "Rome"}
for change, words in (
    ({"answer": None}, "`answer` of a pair is a text, not None"),
    ({"answers": ["Rome", "Paris"]}, "`answer` of a pair is the first of its `answers`"),
    ({"spans": {"place": 3}}, "a span is its name, text and mention's number"),
):
    refused(lambda: kc.PromptPair(**{**given, **change}), words)
for name in ("subject", "object"):
    fact = {"relation": "r", "subject": "a", "object": "b", name: float("nan")}
    refused(lambda: kc.Fact(**fact), f"`{name}` of a fact is a text, not nan")
for what in (None, 3, object()):
    refused(lambda: kc.lens(what, "The capital of France is", answer="Paris"), "a model is what")

pair = kc.PromptPair("a b", "a c", "x", "y", answers=["x", "z"], spans={"S": ["b", 1], "T": "a"})
assert pair.answers == ("x", "z")
assert pair.spans == (("S", "b", 1), ("T", "a", 0))
assert hash(pair) == hash(kc.PromptPair(**vars(pair)))
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("relation", [None, "country_currency"])
@pytest.mark.slow
def test_a_comparison_on_a_relation_speaks_of_no_old_and_new_object(
    model: Model, tmp_path: Path, relation: str | None
):
    """Its pairs ask about other subjects too, and their foils are nobody's target."""
    found = kc.compare(model, _edited(model), relation, draws=0, **QUIET)
    found.save(tmp_path / "found.kc.safetensors")
    found = kc.open(tmp_path / "found.kc.safetensors")
    look = edit_look(found)
    titles = [(table.title, table.header) for table in look.tables]
    told = f"{look.says} {found.summary()} {look.lines} {titles}"
    assert ("old object" in told, "new object" in told) == (not relation, not relation)
    assert ("the answer against the foil of country_currency" in told) == bool(relation)
    assert ("answer before" in told) == bool(relation)
    drawn = {name for side in object_lines(found).ranks.values() for name in side}
    old = "answer" if relation else "old object"
    assert {f"{old}, before", f"{old}, after"} < drawn
    assert len(drawn) == 4


@pytest.mark.parametrize("name", ["curve", "n_random", "spans", "faithfulness"])
def test_a_comparison_offers_no_option_that_it_would_refuse(name: str):
    assert name not in inspect.signature(kc.compare).parameters
    with pytest.raises(OptionError, match=f"no option '{name}'"):
        kc.compare("facts-gpt2", results.delta(), **{name: 1})


@pytest.mark.parametrize("verb", [kc.lens, kc.attribution, kc.roles])
@pytest.mark.slow
def test_looks_take_as_many_pairs_a_pass_as_their_command(verb: Any, model: Model):
    one, all_ = (verb(model, "country_capital", **FEW, batch_size=size) for size in (1, 4))
    for name, value in one.arrays().items():
        if value.dtype.kind == "f":
            assert np.allclose(value, all_.arrays()[name], atol=1e-4), name
    with pytest.raises(OptionError, match="batch_size"):
        verb(model, "country_capital", batch_size=0)


def test_numpys_numbers_are_numbers(model: Model):
    quick = {"method": "eap", "resamples": np.int64(0), "roles": False, "n_random": 0}
    found = kc.discover(model, "country_capital", n_pairs=np.int32(4), edges=np.int64(50), **quick)
    assert found.circuit.n_edges <= 50
    with kc.patched(model, "m2", to=0, at=np.array([1, 2])):
        patched = model.patching.patches[0].at
    assert patched == (1, 2)


def test_a_circuit_of_the_bare_model_is_not_silently_measured_in_a_patched_one(model: Model):
    quick = {"method": "eap", "resamples": 0, "roles": False, "n_random": 0, "edges": 50}
    asked = {"n_pairs": 4, "n_random": 0, "known_only": False}
    bare = kc.discover(model, "country_capital", n_pairs=4, **quick)
    assert not kc.evaluate(model, bare, "country_capital", **asked).warnings
    with kc.patched(model, "m2", to=0):
        (told,) = kc.evaluate(model, bare, "country_capital", **asked).warnings
        assert "found without patches, and is looked at in a patched model (m2" in told
        within = kc.discover(model, "country_capital", n_pairs=4, known_only=False, **quick)
        assert not kc.evaluate(model, within, "country_capital", **asked).warnings
    (told,) = kc.evaluate(model, within, "country_capital", **asked).warnings
    assert "found in a patched model (m2" in told
    assert "looked at without patches" in told


def test_a_cell_that_is_run_again_has_its_new_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Metric, "_known", dict(Metric._known))
    cell = """
@kc.metric
def again(logits, answer, foil):
    return {} * logits.gather(-1, answer[..., None])[..., 0]
"""
    space = {"kc": kc, "__name__": "__main__"}
    for factor in (1, 2):
        exec(cell.format(factor), space)
        assert Metric.of("again").load() is space["again"]
    with pytest.raises(OptionError, match="already"):
        exec(cell.format(3), {"kc": kc, "__name__": "elsewhere"})


@pytest.mark.parametrize("known_only", [True, False])
def test_what_is_said_of_unknown_answers_is_what_was_done_with_them(model: Model, known_only: bool):
    other = "The capital of Japan is"
    pairs = [
        kc.PromptPair("The capital of France is", other, "Paris", "Tokyo", "France"),
        kc.PromptPair("The capital of Italy is", other, "Madrid", "Tokyo", "Italy"),
    ]
    quick = {"method": "eap", "resamples": 0, "roles": False, "n_random": 0, "edges": 60}
    found = kc.discover(model, pairs, known_only=known_only, **quick)
    (note,) = [each for each in found.examples.notes if "recalls 1 of the 2 answers" in each]
    assert ("the others are left out" in note) == known_only
    assert len(found.pairs) == 2 - known_only


WRONG = """
import knowledge_circuits as kc
model = kc.load("facts-gpt2", device="cpu")
prompt, capitals = "The capital of France is", "country_capital"
circuit = kc.Circuit.empty(model.wiring())
calls = [
    (lambda: kc.edit(model, prompt, "France", 5), "`target` of an edit is a text, not 5"),
    (lambda: kc.edit(model, prompt, 5, "Rome"), "`subject` of an edit is a text, not 5"),
    (lambda: kc.edit(model, ["x"]), "a list of edits holds EditRequests, not 'x'"),
    (lambda: kc.unlearn(model, [3], ["a b"]), "a text is a string, or a dictionary with"),
    (lambda: kc.unlearn(model, 3, ["a b"]), "texts are a list, or the path of a file, not 3"),
    (lambda: kc.heads(model, capitals, 3), "`which` are names of heads, as a6.h1, not 3"),
    (lambda: kc.heads(model, capitals, ["a6.h1"], n_prompts=0), "`n_prompts` is at least 1"),
    (lambda: kc.carriers(model, prompt, into="6_200_4", n=0), "at least 1 edge, not 0"),
    (
        lambda: kc.interchange(model, prompt, "The capital of Japan is", "m1", resamples=-1),
        "`resamples` is at least 0, not -1",
    ),
    (lambda: circuit.as_model("facts-gpt2"), "a model is what `load` gives, not a str"),
    (lambda: kc.push(circuit, "someone/x"), "`save` the Circuit, and push its path"),
    (lambda: kc.metric("logit-diff"), "what is added is a function, not 'logit-diff'"),
]
for call, words in calls:
    try:
        call()
    except kc.OptionError as error:
        assert words in str(error), (words, str(error))
    else:
        raise AssertionError(words)
"""


@pytest.mark.slow
def test_what_is_of_no_use_is_refused_in_one_line(tmp_path: Path):
    done = run(WRONG, tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_analysis_takes_the_wordings_that_its_pairs_are_asked_in(tmp_path: Path) -> None:
    options = {"relations": ["country_capital"], "draws": 2}
    done = kc.run("flow", out=tmp_path, templates="held-out", **options)
    assert done.provenance["templates"] == "held-out"
    with pytest.raises(OptionError, match="templates"):
        kc.run("flow", out=tmp_path, templates="loudest", **options)
