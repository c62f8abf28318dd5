"""Published forms of JSON: valid, complete, true of what is printed; errors are objects too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from circuits.base.errors import OptionError
from circuits.base.stamps import VERSION, stamped
from circuits.files.schemas import schema, schemas
from experiments.cli.main import main
from tests.forms import check_form

ROOT = Path(__file__).parent.parent
NAMES = sorted(schemas())
ROOMS = ("circuits", "locate", "experiments")


@pytest.mark.parametrize("name", NAMES)
def test_a_form_is_a_valid_schema_and_names_itself(name: str) -> None:
    form = schema(name)
    Draft202012Validator.check_schema(form)
    assert form["properties"]["schema"]["const"] == name
    assert form["properties"]["schema_version"]["const"] == VERSION
    assert {"schema", "schema_version"} <= set(form["required"])


def test_every_form_that_is_written_is_published_and_no_other() -> None:
    written: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            written |= set(re.findall(r'(?:stamped|_look|\bLook)\(\s*"([a-z-]+)"', text))
    assert written == set(NAMES)


def test_the_page_on_files_lists_every_form() -> None:
    page = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    section = page.partition("## JSON\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", section, re.MULTILINE))
    assert {name: text.replace("`", "") for name, text in rows.items()} == schemas()


def test_an_object_of_no_form_or_another_is_found_out() -> None:
    with pytest.raises(OptionError, match="did you mean discover"):
        check_form(stamped("discovr", {}))
    with pytest.raises(AssertionError, match="required"):
        check_form(stamped("discover", {}, "Said."))
    with pytest.raises(AssertionError, match="export at file: 3 is not of type 'string'"):
        check_form(stamped("export", {"file": 3, "format": "csv", "files": []}, "Said."))


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (["show", "nowhere.kc.safetensors"], "FileFormatError", 2),
        (["discover", "--nonsense"], "OptionError", 2),
        (["evaluate"], "OptionError", 2),
        (
            ["trace", "Hello", "-m", "nothing-there", "-s", "Hello", "-a", "x"],
            "ModelNotFoundError",
            3,
        ),
    ],
)
def test_a_mistake_with_json_is_one_object(
    arguments: list[str], kind: str, code: int, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    check_form(told)
    assert told["error"]["kind"] == kind
    assert told["error"]["exit_code"] == code
    assert captured.err.strip() == f"kc: error: {told['error']['message']}"
    assert main(arguments) == code
    assert capsys.readouterr().out == ""


def test_kc_schema_prints_what_is_published(capsys) -> None:
    assert main(["schema", "discover"]) == 0
    assert json.loads(capsys.readouterr().out) == schema("discover")
    assert main(["schema", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schemas"] == schemas()
    assert main(["schema", "discovr"]) == 2
    assert "did you mean discover?" in capsys.readouterr().err


def test_the_log_has_every_line_with_its_time_and_the_way_it_ended(tmp_path, capsys) -> None:
    log = tmp_path / "kc.log"
    assert main(["show", "nowhere.json", "--log", str(log), "-q"]) == 2
    assert main([f"--log={log}", "models"]) == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    stamps = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
    assert lines == stamps
    assert sum(line.endswith(("exit code 2", "exit code 0")) for line in lines) == 2
    assert any("kc: error: nowhere.json" in line for line in lines)
    assert any("models that have a name here" in line for line in lines)
    capsys.readouterr()
    assert main(["models", "--log"]) == 2
    assert "--log needs a file" in capsys.readouterr().err
    assert main(["models", "--log", str(tmp_path / "no" / "log")]) == 4
    assert main(["models", "-q", "-v"]) == 2


def test_progress_is_told_with_its_time_and_quiet_tells_none(capsys) -> None:
    from experiments.cli.console import VOICE, Console

    for quiet, verbose, lines in ((False, False, 2), (True, False, 1), (False, True, 3)):
        VOICE.set(quiet, verbose)
        try:
            console = Console(as_json=False)
            with console.stage("scores") as progress:
                progress(32, 32)
            console.warn("few facts")
        finally:
            VOICE.set()
        told = capsys.readouterr().err.splitlines()
        assert len(told) == lines, told
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
        assert all(re.match(stamp, line) for line in told)
        assert re.fullmatch(stamp + "kc: warning: few facts", told[-1])
