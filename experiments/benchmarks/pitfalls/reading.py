"""What the files of both benchmarks have in common: rows of JSON, labels in them, paraphrases.

A row that cannot be used is left out with its reason; a file that is none of the benchmark's is a
FileFormatError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.records import read_json, text_field
from circuits.edits.edit import EditRequest
from circuits.facts.facts import SLOT, fill, named_once
from circuits.facts.loaders import LeftOut
from experiments.benchmarks.base import Cases

PROMPTS = "*_prompts.json"
"""Files of paraphrases: prompts by relation id."""
Case = TypeVar("Case")
Record = Mapping[str, Any]
Paraphrases = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Question:
    """A fact as it is asked: the edit's prompt first, then its paraphrases, each with one `{}`."""

    prompts: tuple[str, ...]
    subject: str
    object: str

    def request(self, before: str | None = None, relation: str | None = None) -> EditRequest:
        """The edit that makes a model say the object, in the first prompt."""
        return EditRequest(self.prompts[0], self.subject, self.object, before, relation)


@dataclass(frozen=True)
class Relation:
    """A relation as a row has it, with the paraphrases of the file beside it."""

    name: str
    prompt: str
    paraphrases: tuple[str, ...] = ()

    def asked(self, subject: str, answer: str) -> Question:
        """The relation of a subject; paraphrases that name it themselves are not asked.

        PromptError where the prompt itself does.
        """
        if not named_once(self.prompt, subject):
            raise PromptError(
                f"the subject {subject!r} does not stand once in {fill(self.prompt, subject)!r}"
            )
        usable = [each for each in self.paraphrases if named_once(each, subject)]
        return Question((self.prompt, *usable), subject, answer)


def read_cases(
    path: Path, key: str, schema: str, make: Callable[[Record, Paraphrases, Path], Case]
) -> Cases:
    """The cases of a file, or of every file of a folder that holds no paraphrases.

    `make` turns a row into a case, or raises PromptError or OptionError. No row of a file having
    `key` is a FileFormatError that names the `schema`.
    """
    path = Path(path).expanduser()
    folder = path if path.is_dir() else path.parent
    files = [path]
    if path.is_dir():
        files = sorted(set(path.glob("*.json")) - set(path.glob(PROMPTS)))
        if not files:
            raise FileFormatError(path, f"holds no .json file of {schema}")
    items: list[Any] = []
    left_out: list[LeftOut] = []
    rows = {file: _rows(file, key, schema) for file in files}
    paraphrases = _paraphrases(folder, left_out)
    for file, records in rows.items():
        for number, record in enumerate(records, start=1):
            try:
                items.append(make(record, paraphrases, file))
            except (PromptError, OptionError) as error:
                left_out.append(LeftOut(str(file), number, str(error)))
    return Cases(tuple(items), tuple(left_out))


def relation_of(record: Record, place: str, paraphrases: Paraphrases) -> Relation:
    """The relation of an edit or triple that stands at `place`; PromptError where it is none."""
    name = text_at(record, place, "relation", "id")
    prompt = text_at(record, place, "relation", "prompt")
    if prompt.count(SLOT) != 1:
        raise PromptError(f"{place} needs exactly one {SLOT} in its prompt {prompt!r:.80}")
    return Relation(name, prompt, paraphrases.get(name, ()))


def label_at(record: Record, place: str, key: str) -> str:
    """The label of a subject or an object; PromptError where there is none."""
    return text_at(record, place, key, "label")


def text_at(record: Any, place: str, key: str, inner: str) -> str:
    """`record[key][inner]`, stripped; PromptError, with the place, where it is no text."""
    held = mapping_at(record, place, key)
    try:
        return text_field(dict(held), inner, f"{place}.{key}")
    except FileFormatError as error:
        raise PromptError(str(error)) from None


def mapping_at(record: Any, place: str, key: Any) -> Record:
    """An object within a record, or a list's item; PromptError where there is none."""
    try:
        held = record[key]
    except (KeyError, IndexError, TypeError):
        raise PromptError(f"{place} lacks {key!r}") from None
    if not isinstance(held, Mapping):
        raise PromptError(f"{place}.{key} must be a JSON object")
    return held


def list_at(record: Record, key: str, length: int = 0) -> list[Any]:
    """A list of at least so many items; PromptError where there is none."""
    held = record.get(key)
    if not isinstance(held, list) or len(held) < length:
        raise PromptError(f"needs a list {key!r} of at least {length}")
    return held


def changed_object(old: str, new: str, place: str) -> None:
    """PromptError where an edit changes nothing."""
    if old == new:
        raise PromptError(f"{place}: the new object {new!r} is the old one")


def _rows(file: Path, key: str, schema: str) -> list[Record]:
    content = read_json(file)
    if not isinstance(content, list) or not content:
        raise FileFormatError(file, "must be a JSON list with a case or more")
    for number, row in enumerate(content, start=1):
        if not isinstance(row, dict):
            raise FileFormatError(file, f"row {number} must be a JSON object")
    if not any(key in row for row in content):
        raise FileFormatError(file, f"row 1 has no {key!r}, so this is no file of {schema}")
    return content


def _paraphrases(folder: Path, left_out: list[LeftOut]) -> dict[str, tuple[str, ...]]:
    """Prompts by relation id, as the files have them; a white space at the end is dropped."""
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(folder.glob(PROMPTS)):
        content = read_json(file)
        if not isinstance(content, dict):
            raise FileFormatError(file, "must be a JSON object of prompts by relation id")
        for number, (relation, prompts) in enumerate(content.items(), start=1):
            if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
                raise FileFormatError(file, f"row {number}: {relation!r:.80} must list prompts")
            for prompt in prompts:
                if prompt.count(SLOT) != 1:
                    reason = f"{relation}: a paraphrase needs exactly one {SLOT}: {prompt!r:.80}"
                    left_out.append(LeftOut(str(file), number, reason))
            usable = tuple(prompt.rstrip() for prompt in prompts if prompt.count(SLOT) == 1)
            found[relation] = found.get(relation, ()) + usable
    return found
