"""Options without effect are refused by a command and in Python, each in its caller's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import knowledge_circuits as kc
from circuits.base.errors import OptionError
from circuits.base.idle import Given, Idle
from circuits.base.options import build
from circuits.model.model import Model
from experiments.cli.console import VOICE, Console
from experiments.sweeps.spec import parse_spec
from locate.idle import UNASKED_FACTS
from locate.options import Source
from locate.search import Search
from tests import results
from tests.test_cli import refusal

CAPITALS, PROMPT = "country_capital", "The capital of France is"
SAYS = {"subject": "France", "answer": "Paris"}
ABOUT = ["--relation", CAPITALS, "--n-pairs", "4"]
OF_PROMPT = [PROMPT, "--answer", "Paris"]
CIRCUIT = "circuit.kc.safetensors"
FEW: dict[str, Any] = {"n_pairs": 4}
QUICK: dict[str, Any] = {**FEW, "resamples": 0, "roles": False, "n_random": 0, "edges": 50}
FLAGS = {
    "n_pairs": "--n-pairs",
    "templates": "--split",
    "wordings": "--template",
    "ranking": "--rank",
    "kinds": "--kind",
    "n": "--edges",
}
"""Flags that are not the option's own name."""


class Case(NamedTuple):
    """One option without effect: as Python says it, in Python and on the command line."""

    says: str
    python: Callable[[Any], Any]
    words: list[str] | None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", CIRCUIT, "--to", "csv", "--full-json"], "--full-json goes with --to eap"),
        *(
            (["sweep", verb, ".", *option], f"{option[0]} has no effect on `kc sweep {verb}`")
            for verb in ("status", "table")
            for option in (["--executor", "process"], ["--shard", "1/2"], ["--first", "3"])
        ),
        (["sweep", "status", ".", "--dry-run"], "--dry-run has no effect on"),
    ],
)
def test_what_a_command_does_not_read_is_refused(
    words: list[str], says: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    results.circuit().save(CIRCUIT)
    assert says in refusal(capsys, *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, a discovery, an edit, and the two in files."""
    folder = tmp_path_factory.mktemp("made")

    class Made:
        model: Model = kc.load("facts-gpt2", device="cpu")
        found = kc.discover(model, CAPITALS, **QUICK)
        pairs = tuple(pair.text for pair in found.examples.pairs)
        edited = results.delta()

    kc.save(Made.found.circuit, folder / "circuit.kc.safetensors")
    kc.save(Made.edited, folder / "edit.kc.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("circuits.model.model.load", lambda name, *rest, **more: Made.model)
        yield Made


def discover(**options: Any) -> Callable[[Any], Any]:
    return lambda made: kc.discover(made.model, CAPITALS, **options)


METHOD = "has no effect with `method`"
TWO = ["compare", "--before", CIRCUIT, "--after", CIRCUIT]
EDIT = ["compare", "--model", "facts-gpt2", "--edit", "edit.kc.safetensors"]
CASES = {
    "steps of a method without a path": Case(
        f"`steps` {METHOD} eap",
        discover(method="eap", steps=5),
        ["discover", *ABOUT, "--method", "eap", "--steps", "5"],
    ),
    "a rule of a method without a path": Case(
        f"`rule` {METHOD} eap-gp",
        discover(method="eap-gp", rule="left"),
        ["discover", *ABOUT, "--method", "eap-gp", "--rule", "left"],
    ),
    "steps of an ensemble whose members have no path": Case(
        f"`steps` {METHOD} ensemble of gim,relp",
        discover(method="ensemble", options={"of": ("gim", "relp")}, steps=3),
        None,
    ),
    "resamples of a method without scores of pairs": Case(
        f"`resamples` {METHOD} acdc",
        discover(method="acdc", resamples=20),
        ["discover", *ABOUT, "--method", "acdc", "--resamples", "20"],
    ),
    "a ranking of a method that selects": Case(
        f"`ranking` {METHOD} acdc",
        discover(method="acdc", ranking="signed"),
        ["discover", *ABOUT, "--method", "acdc", "--rank", "signed"],
    ),
    "steps of neurons": Case(
        f"`steps` {METHOD} eap",
        lambda made: kc.neurons(made.model, CAPITALS, method="eap", steps=5),
        ["neurons", *ABOUT, "--method", "eap", "--steps", "5"],
    ),
    "draws without tests": Case(
        "`draws` has no effect without `tests`",
        lambda made: kc.evaluate(made.model, made.found, CAPITALS, draws=100),
        ["evaluate", CIRCUIT, *ABOUT, "--draws", "100"],
    ),
    "templates of pairs": Case(
        "`templates` has no effect on prompt pairs, which are worded already",
        lambda made: kc.discover(made.model, made.pairs, templates="best"),
        ["discover", "--task", "ioi", "--split", "best"],
    ),
    "templates beside a wording": Case(
        "`templates` has no effect beside `wordings`",
        discover(templates="best", wordings=["The capital of {} is"]),
        ["discover", *ABOUT, "--split", "best", "--template", "The capital of {} is"],
    ),
    "what counts as known where nobody asks": Case(
        "`known` has no effect where the model is not asked what it knows",
        discover(known="top10", known_only=False),
        ["discover", *ABOUT, "--known", "top10", "--no-known-only"],
    ),
    "the best templates where nobody asks": Case(
        "`templates` has no effect where the model is not asked what it knows",
        discover(templates="best", known_only=False),
        ["discover", *ABOUT, "--split", "best", "--no-known-only"],
    ),
    "pairs of examples": Case(
        "`n_pairs` has no effect on examples that were made before",
        lambda made: kc.discover(made.model, made.found.examples, n_pairs=2),
        None,
    ),
    "demonstrations for a model that is not there": Case(
        "`shots` has no effect without `model`",
        lambda made: Given(["shots"]).refuse(UNASKED_FACTS),
        ["facts", CAPITALS, "--shots", "5"],
    ),
    "pairs of a traced prompt": Case(
        "`n_pairs` has no effect on a single prompt",
        lambda made: kc.trace(made.model, PROMPT, **SAYS, n_pairs=2),
        ["trace", *OF_PROMPT, "--subject", "France", "--n-pairs", "2"],
    ),
    "demonstrations of a traced prompt": Case(
        "`shots` has no effect on a single prompt",
        lambda made: kc.trace(made.model, PROMPT, **SAYS, shots=2),
        ["trace", *OF_PROMPT, "--subject", "France", "--shots", "2"],
    ),
    "a seed of a lens on a prompt": Case(
        "`seed` has no effect on a single prompt",
        lambda made: kc.lens(made.model, PROMPT, **SAYS, seed=1),
        ["lens", *OF_PROMPT, "--seed", "1"],
    ),
    "a window of single states": Case(
        "`window` has no effect on `kinds` resid, whose states are restored singly",
        lambda made: kc.trace(made.model, CAPITALS, **FEW, kinds="resid", window=2),
        ["trace", *ABOUT, "--kind", "resid", "--window", "2"],
    ),
    "noise on pairs that are patched": Case(
        "`noise` has no effect on pairs without a subject, which are patched",
        lambda made: kc.trace(made.model, "ioi", **FEW, known_only=False, noise=3.0),
        None,
    ),
    "a circuit on pairs without a subject": Case(
        "`circuit` has no effect on pairs without a subject",
        lambda made: kc.roles(made.model, "ioi", made.found, **FEW),
        ["roles", "--task", "ioi", "--n-pairs", "4", "--circuit", CIRCUIT],
    ),
    "how many edges where they are named": Case(
        "`n` has no effect on edges that are named",
        lambda made: kc.carriers(made.model, PROMPT, edges=[("1_2_3", "4_5_4")], n=20),
        ["carriers", "--prompt", PROMPT, "--edge", "1_2_3", "4_5_4", "--edges", "20"],
    ),
    "pairs of prompts as they are": Case(
        "`n_pairs` has no effect on prompts as they are",
        lambda made: kc.interchange(made.model, PROMPT, PROMPT, "m1", n_pairs=2),
        None,
    ),
    "a cache of moments that the method does not take": Case(
        f"`cache` {METHOD} ft",
        lambda made: kc.edit(made.model, PROMPT, "France", "Rome", method="ft", cache="kept"),
        [
            *("edit", "--prompt", PROMPT, "--subject", "France", "--target", "Rome"),
            *("--method", "ft", "--cache", "kept"),
        ],
    ),
    "a true object of requests that name it": Case(
        "`ground_truth` has no effect without `prompt`",
        lambda made: _refused_of_requests(made),
        ["edit", "--random", "2", "--ground-truth", "Paris"],
    ),
    "draws on two circuits": Case(
        "`draws` has no effect on two stored circuits",
        lambda made: kc.compare(made.found, made.found, draws=3),
        [*TWO, "--draws", "3"],
    ),
    "demonstrations on two circuits": Case(
        "`shots` has no effect on two stored circuits",
        lambda made: kc.compare(made.found, made.found, shots=3),
        [*TWO, "--shots", "3"],
    ),
    "BOS of the pairs about an edit": Case(
        "`bos` has no effect on the edited facts",
        lambda made: kc.compare(made.model, made.edited, bos=False),
        [*EDIT, "--no-bos"],
    ),
}


def _refused_of_requests(made: Any) -> None:
    """Python says it in other words, as there is no option `prompt`."""
    request = kc.EditRequest("The capital of {} is", "France", "Rome")
    with pytest.raises(OptionError, match=r"^`ground_truth` has no effect beside requests, which"):
        kc.edit(made.model, [request], ground_truth="Paris")
    raise OptionError("`ground_truth` has no effect without `prompt`")


@pytest.mark.parametrize("name", CASES)
def test_an_option_without_effect_is_refused_in_the_callers_words(
    name: str, made: Any, capsys: pytest.CaptureFixture[str]
):
    case = CASES[name]
    with pytest.raises(OptionError) as caught:
        case.python(made)
    assert str(caught.value) == case.says
    if case.words is not None:
        model = [] if case.words[0] in ("compare", "facts") else ["--model", "facts-gpt2"]
        said = refusal(capsys, *case.words, *model)
        assert said.removeprefix("kc: error: ").strip() == re.sub(
            r"`(\w+)`", lambda found: FLAGS.get(found[1], flag(found[1])), case.says
        )


def flag(name: str) -> str:
    """The flag of an option that has none of its own."""
    return "--" + name.replace("_", "-")


def test_what_is_given_counts_and_not_its_value():
    idle = Idle("in the cold", ("steps",))
    Given(["edges"]).refuse(idle)
    Given().also(steps=None).refuse(idle)
    for given in (Given(["steps"]), Given().also(steps=5)):
        with pytest.raises(OptionError, match=r"^`steps` has no effect in the cold$"):
            given.refuse(idle)


def test_an_option_with_effect_is_never_idle():
    for method in ("eap-ig", "eap-ig-activations", "ensemble"):
        Given(["steps", "rule", "resamples", "ranking"]).check(build(Search, {"method": method}))
    Given(["templates", "known"]).check(build(Source, {"relation": CAPITALS, "templates": "train"}))
    asked = {"relation": CAPITALS, "templates": "train", "known_only": False}
    Given(["templates"]).check(build(Source, asked))


def test_a_range_names_the_option_as_python_has_it(made: Any):
    with pytest.raises(OptionError, match=r"^n_pairs is at least 1, not 0$"):
        kc.discover(made.model, CAPITALS, n_pairs=0)


def test_hints_are_python_in_python_and_flags_in_a_command(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said, facts = "<|endoftext|>The capital of France is", tmp_path / "facts.csv"
    with pytest.raises(kc.KnowledgeCircuitsError, match=r"use `bos=False`$"):
        kc.lens(made.model, said, answer="Paris", bos=True)
    words = ["lens", said, "--answer", "Paris", "--bos", "--model", "facts-gpt2"]
    assert refusal(capsys, *words).endswith("use --no-bos")
    facts.write_text("subject,object,prompt\nFrance,Lima,The capital of {} is\n")
    with pytest.raises(kc.KnowledgeCircuitsError, match=r"`shots=5` shows .* `templates='best'`"):
        kc.discover(made.model, facts)
    told = refusal(capsys, "discover", "--facts", str(facts), "--model", "facts-gpt2")
    assert "--shots 5 shows" in told
    assert "--split best asks" in told


def test_a_commands_warnings_name_its_flags(capsys: pytest.CaptureFixture[str]):
    try:
        VOICE.flags = {"templates": "--split", "bos": "--bos"}
        Console(False).warn("`templates='best'`, `bos=False` or `other=1`")
        assert "warning: --split best, --no-bos or `other=1`" in capsys.readouterr().err
    finally:
        VOICE.set()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"verb": "discover", "method": "eap", "steps": 3}, f"`steps` {METHOD} eap"),
        ({"verb": "discover", "method": ["eap", "eap-ig"], "steps": 3}, ""),
        ({"verb": "discover", "method": ["eap", "relp"], "steps": [3, 5]}, f"`steps` {METHOD}"),
        ({"verb": "trace", "kinds": ["resid"], "window": 3}, "`window` has no effect on `kinds`"),
        ({"verb": "trace", "kinds": [["resid"], ["mlp"]], "window": 3}, ""),
        ({"verb": "trace", "kinds": ["mlp"], "window": 3}, ""),
        ({"verb": "edit", "random": 3, "draws": [20, 50]}, "`draws` has no effect without"),
        ({"verb": "edit", "random": 3, "draws": 20, "compare": [True, False]}, ""),
        ({"verb": "lens", "ablation": "mean"}, "lens has no option 'ablation'"),
        ({"verb": "roles", "ablation": "mean"}, ""),
    ],
)
def test_a_sweep_refuses_what_no_point_of_an_entrys_grid_reads(
    entry: dict[str, Any], reason: str
) -> None:
    spec = {"models": ["facts-gpt2"], "units": [{"relation": "country_capital", **entry}]}
    if not reason:
        assert parse_spec(spec).works
        return
    with pytest.raises(OptionError, match=re.escape(f"units, entry 1: {reason}")):
        parse_spec(spec)
