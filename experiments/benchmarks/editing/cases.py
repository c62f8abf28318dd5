"""Cases of the editing benchmarks: one or several requests that are made together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.records import read_json, read_jsonl, text_field
from circuits.edits.edit import EditRequest
from circuits.edits.requests import Heading, read_requests, slotted
from circuits.facts.facts import Probe, ProbeKind
from circuits.facts.loaders import LeftOut
from experiments.benchmarks.base import Cases


@dataclass(frozen=True)
class Case:
    """Requests that are made together; what judges them is in their probes."""

    requests: tuple[EditRequest, ...]


def single_edits(path: Path) -> Cases:
    """One request a row, in any schema that `read_requests` tells by its keys."""
    found = read_requests(path, lenient=True)
    return Cases(tuple(Case((request,)) for request in found.requests), found.left_out)


def mquake(path: Path) -> Cases:
    """MQuAKE (Zhong et al. 2023): rewrites that are made together, and questions over several hops.

    The questions judge the first rewrite, each with `new_answer` and its aliases; `new_single_hops`
    are its single hops after the edit.
    """
    rows = read_jsonl(path) if path.suffix == ".jsonl" else [*enumerate(_list(path), start=1)]
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for number, record in rows:
        try:
            cases.append(_mquake_case(record, path))
        except (FileFormatError, OptionError) as error:
            left_out.append(LeftOut(str(path), number, str(error).split(": ", 1)[-1]))
    if not cases:
        reason = left_out[0].reason if left_out else "the file is empty"
        raise FileFormatError(path, f"holds no usable case: {reason}")
    return Cases(tuple(cases), tuple(left_out))


def _list(path: Path) -> Sequence[Any]:
    content = read_json(path)
    if not isinstance(content, list):
        raise FileFormatError(path, "must be a list of cases")
    return content


def _mquake_case(record: Any, path: Path) -> Case:
    if not isinstance(record, dict):
        raise FileFormatError(path, "a case must be an object")
    rewrites = record.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites:
        raise FileFormatError(path, "'requested_rewrite' must be a list with an object")
    answers = (text_field(record, "new_answer", path), *_texts(record, "new_answer_alias", path))
    probes = [
        Probe(ProbeKind.PORTABILITY, question, answers, Heading.MULTI_HOP)
        for question in _texts(record, "questions", path)
    ]
    for hop in record.get("new_single_hops") or []:
        if not isinstance(hop, dict):
            raise FileFormatError(path, "'new_single_hops' must hold objects")
        known = (text_field(hop, "answer", path), *_texts(hop, "answer_alias", path))
        question = text_field(hop, "question", path)
        probes.append(Probe(ProbeKind.PORTABILITY, question, known, Heading.SINGLE_HOP))
    if not probes:
        raise FileFormatError(path, "'questions' has no question")
    requests = [_rewrite(each, path) for each in rewrites]
    first = requests[0]
    return Case((EditRequest(**{**vars(first), "probes": tuple(probes)}), *requests[1:]))


def _rewrite(record: Any, path: Path) -> EditRequest:
    if not isinstance(record, dict):
        raise FileFormatError(path, "'requested_rewrite' must hold objects")
    subject, prompt = (text_field(record, name, path) for name in ("subject", "prompt"))
    new, true = (_object(record, name, path) for name in ("target_new", "target_true"))
    relation = record.get("relation_id")
    return EditRequest(slotted(prompt, subject), subject, new, true, relation)


def _object(record: Mapping[str, Any], name: str, path: Path) -> str:
    value = record.get(name)
    return (
        text_field(value, "str", path)
        if isinstance(value, dict)
        else text_field(dict(record), name, path)
    )


def _texts(record: Mapping[str, Any], name: str, path: Path) -> list[str]:
    value = record.get(name) or []
    if not isinstance(value, list):
        raise FileFormatError(path, f"{name!r} must be a list of texts")
    return [text_field({name: each}, name, path) for each in value if each != ""]
