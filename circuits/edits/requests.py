"""Edit requests from files: the project's own JSONL and the public schemas.

One line of the project's format is an object with `prompt`, `subject` and `target`, and optionally
`ground_truth`, `relation`, `paraphrases` (prompts), `neighbours` (objects with `prompt` and
`answer`) and `probes` (objects with `kind`, `prompt`, `answers` and `name`). A prompt has `{}` in
the subject's place, or the subject once. Other keys are passed over. Public sets (CounterFact,
KnowEdit, zsRE, EasyEdit's) are read by `circuits.facts.loaders`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.records import MAX_BYTES, text_field
from circuits.base.writing import to_json
from circuits.edits.edit import EditRequest
from circuits.facts.facts import SLOT, Fact, Probe, ProbeKind, fill
from circuits.facts.loaders import LeftOut, Slips, list_facts, place_of, read_rows
from circuits.facts.schemas import Schema
from circuits.model.tokens import find_mentions

OWN_KEYS = frozenset({"prompt", "subject", "target"})


class Heading(StrEnum):
    """What a probe asks, beyond its kind; data sets' own headings are translated."""

    SEEN = "seen template"
    HELD_OUT = "held-out template"
    NEIGHBOUR = "neighbour"
    SAME_SUBJECT = "same subject"
    ALIAS = "alias"
    REVERSAL = "reversal"
    ONE_HOP = "one hop"
    MULTI_HOP = "multi-hop"
    SINGLE_HOP = "single hops"


_HEADINGS = {
    "neighborhood_prompts": Heading.NEIGHBOUR,
    "relation_specificity": Heading.SAME_SUBJECT,
    "subject_aliasing": Heading.ALIAS,
    "logical_generalization": Heading.REVERSAL,
    "reasoning": Heading.ONE_HOP,
}


def heading(probe: Probe) -> Heading | None:
    """What a probe asks, where its name tells."""
    name = probe.name.strip().lower()
    return _HEADINGS.get(name) or next((each for each in Heading if each == name), None)


@dataclass(frozen=True)
class RequestFile:
    """What was read, in the file's order, the rows that were left out, and the empty probes."""

    requests: tuple[EditRequest, ...]
    left_out: tuple[LeftOut, ...] = ()
    empty_probes: tuple[LeftOut, ...] = ()


def slotted(prompt: str, subject: str) -> str:
    """The prompt with `{}` in the subject's place; one that has a `{}` stays as it is.

    OptionError where the subject is absent or occurs several times.
    """
    if not isinstance(subject, str):
        raise OptionError(f"`subject` of an edit is a text, not {subject!r:.40}")
    if SLOT in prompt:
        return prompt
    mentions = find_mentions(prompt, subject)
    if len(mentions) != 1:
        found = "is not" if not mentions else f"occurs {len(mentions)} times"
        raise OptionError(
            f"subject {subject!r} {found} in the prompt {prompt!r}; write {SLOT} where it stands"
        )
    start, stop = mentions[0]
    return prompt[:start] + SLOT + prompt[stop:]


def request_of(fact: Fact) -> EditRequest:
    """The edit that a fact of a public set asks for; OptionError where it names no new object."""
    if fact.target is None or fact.template is None:
        raise OptionError(f"the fact about {fact.subject!r} names no target to edit it to")
    # Where a set lacks the true object its reader puts the new one there.
    known = fact.object if fact.object != fact.target else None
    relation = fact.relation if fact.relation != fact.template else None
    return EditRequest(fact.template, fact.subject, fact.target, known, relation, fact.probes)


def read_requests(
    source: str | Path,
    schema: Schema | str | None = None,
    max_bytes: int = MAX_BYTES,
    lenient: bool = False,
) -> RequestFile:
    """The requests of a file; FileFormatError names file and line of a row that is malformed.

    In the project's own format every row must be usable; rows of public sets whose subject does
    not stand exactly once in the prompt are left out and listed. With `lenient` malformed rows of
    either are.
    """
    path = Path(source).expanduser()
    own = _own_requests(path, max_bytes, lenient) if schema is None else None
    if own is not None:
        return own
    facts, slips = list_facts(source, schema, max_bytes, lenient)
    requests = []
    for fact in facts:
        try:
            requests.append(request_of(fact))
        except OptionError as error:
            raise FileFormatError(path, str(error)) from None
    return _read(path, requests, slips)


def _read(path: Path, requests: Sequence[EditRequest], slips: Slips) -> RequestFile:
    if not requests:
        reason = slips.rows[0].reason if slips.rows else "the file is empty"
        raise FileFormatError(path, f"holds no usable edit requests: {reason}")
    return RequestFile(tuple(requests), tuple(slips.rows), tuple(slips.probes))


def as_jsonl(requests: Iterable[EditRequest]) -> str:
    """The requests as lines of the project's format; reading them gives them back."""
    return "".join(to_json(as_dict(request)) + "\n" for request in requests)


def as_dict(request: EditRequest, probes: bool = True) -> dict[str, Any]:
    """A request as plain JSON values; `probes` do not enter an edit, only its judgement."""
    record = {"prompt": request.prompt, "subject": request.subject, "target": request.target}
    optional = {"ground_truth": request.ground_truth, "relation": request.relation}
    record |= {name: value for name, value in optional.items() if value is not None}
    asked = [
        {"kind": str(p.kind), "prompt": p.prompt, "answers": list(p.answers), "name": p.name}
        for p in request.probes
    ]
    return {**record, "probes": asked} if asked and probes else record


# --- one row -------------------------------------------------------------------------------------


def _own_requests(path: Path, max_bytes: int, lenient: bool) -> RequestFile | None:
    """The requests of a file in the project's format; None for any other file."""
    if path.suffix not in (".json", ".jsonl") or not path.exists():
        return None
    slips = Slips()
    rows, has_lines = read_rows(path, max_bytes, slips)
    keys = rows[0][1].keys() if rows else set()
    if rows and (not keys >= OWN_KEYS or "rephrase" in keys):  # QAEdit has our keys and one more
        return None
    requests = []
    for number, record in rows:
        try:
            requests.append(_own(record, path, number))
        except FileFormatError as error:
            slips.rows.append(LeftOut(str(path), number, error.reason))
    slips.rows.sort(key=attrgetter("row"))
    if slips.rows and not lenient:
        first = slips.rows[0]
        at = place_of(path, first.row, has_lines)
        raise FileFormatError(at.path, first.reason, at.line)
    return _read(path, requests, slips)


def _own(record: dict[str, Any], path: Path, line: int) -> EditRequest:
    prompt, subject, target = (
        text_field(record, name, path, line) for name in ("prompt", "subject", "target")
    )
    optional = {
        name: text_field(record, name, path, line)
        for name in ("ground_truth", "relation")
        if record.get(name) is not None
    }
    try:
        template = slotted(prompt, subject)
        probes = tuple(_own_probes(record, subject, target, path, line))
        return EditRequest(template, subject, target, **optional, probes=probes)
    except OptionError as error:
        raise FileFormatError(path, str(error), line) from None


def _own_probes(
    record: dict[str, Any], subject: str, target: str, path: Path, line: int | None
) -> Iterator[Probe]:
    for prompt in _texts(record.get("paraphrases"), "paraphrases", path, line):
        filled = fill(prompt, subject) if SLOT in prompt else prompt
        yield Probe(ProbeKind.PARAPHRASE, filled, (target,))
    for each in _objects(record.get("neighbours"), "neighbours", path, line):
        answers = _answers(each, path, line)
        prompt = text_field(each, "prompt", path, line)
        yield Probe(ProbeKind.LOCALITY, prompt, answers, Heading.NEIGHBOUR)
    for each in _objects(record.get("probes"), "probes", path, line):
        kind = text_field(each, "kind", path, line)
        if kind not in list(ProbeKind):
            raise FileFormatError(
                path, f"kind {kind!r} of a probe is none of {', '.join(ProbeKind)}", line
            )
        name = each.get("name") or ""
        if not isinstance(name, str):
            raise FileFormatError(path, "'name' of a probe must be text", line)
        prompt = text_field(each, "prompt", path, line)
        yield Probe(ProbeKind(kind), prompt, _answers(each, path, line), name)


def _answers(record: dict[str, Any], path: Path, line: int | None) -> tuple[str, ...]:
    if "answers" in record:
        return tuple(_texts(record["answers"], "answers", path, line))
    return (text_field(record, "answer", path, line),) if "answer" in record else ()


def _texts(value: Any, name: str, path: Path, line: int | None) -> Sequence[str]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise FileFormatError(path, f"{name!r} must be a list of texts", line)
    return [text_field({name: each}, name, path, line) for each in value]


def _objects(value: Any, name: str, path: Path, line: int | None) -> Sequence[dict[str, Any]]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise FileFormatError(path, f"{name!r} must be a list of objects", line)
    return value
