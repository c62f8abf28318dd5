"""Cases of the editing benchmarks: one or several requests that are made together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from circuits.base.errors import FileFormatError, OptionError
from circuits.base.records import given_text, text_field
from circuits.edits.edit import EditRequest
from circuits.edits.requests import Heading, read_requests, slotted
from circuits.facts.facts import Probe, ProbeKind
from circuits.facts.loaders import LeftOut, Slips, read_rows
from circuits.facts.schemas import usable_probes
from experiments.benchmarks.base import Cases
from experiments.benchmarks.knowledge import Truth


@dataclass(frozen=True)
class Case:
    """Requests that are made together; what judges them is in their probes."""

    requests: tuple[EditRequest, ...]

    @property
    def truths(self) -> list[Truth]:
        """What is true before the edits, as far as the file says it."""
        return [(each.text, (each.ground_truth,)) for each in self.requests if each.ground_truth]


def single_edits(path: Path) -> Cases:
    """One request a row, in any schema that `read_requests` tells by its keys."""
    found = read_requests(path, lenient=True)
    cases = tuple(Case((request,)) for request in found.requests)
    return Cases(cases, found.left_out, found.empty_probes)


def mquake(path: Path) -> Cases:
    """MQuAKE (Zhong et al. 2023): rewrites that are made together, and questions over several hops.

    The questions judge the first rewrite, each with `new_answer` and its aliases; `new_single_hops`
    are its single hops after the edit.
    """
    slips = Slips()
    rows, _ = read_rows(path, slips=slips)
    cases: list[Case] = []
    for number, record in rows:
        try:
            case, lacking = _mquake_case(record, path)
        except (FileFormatError, OptionError) as error:
            reason = error.reason if isinstance(error, FileFormatError) else str(error)
            slips.rows.append(LeftOut(str(path), number, reason))
        else:
            cases.append(case)
            slips.probes.extend(LeftOut(str(path), number, each) for each in lacking)
    slips.rows.sort(key=attrgetter("row"))
    if not cases:
        reason = slips.rows[0].reason if slips.rows else "the file is empty"
        raise FileFormatError(path, f"holds no usable case: {reason}")
    return Cases(tuple(cases), tuple(slips.rows), tuple(slips.probes))


def _mquake_case(record: dict[str, Any], path: Path) -> tuple[Case, list[str]]:
    """A case, and what those of its questions lack that ask nothing."""
    rewrites = record.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites:
        raise FileFormatError(path, "'requested_rewrite' must be a list with an object")
    aliases = filter(None, _texts(record, "new_answer_alias", path))
    answers = (text_field(record, "new_answer", path), *aliases)
    probes = [
        Probe(ProbeKind.PORTABILITY, question, answers, Heading.MULTI_HOP)
        for question in _texts(record, "questions", path)
    ]
    for hop in record.get("new_single_hops") or []:
        if not isinstance(hop, dict):
            raise FileFormatError(path, "'new_single_hops' must hold objects")
        known = (given_text(hop, "answer", path), *_texts(hop, "answer_alias", path))
        question = given_text(hop, "question", path)
        named = tuple(each for each in known if each)
        probes.append(Probe(ProbeKind.PORTABILITY, question, named, Heading.SINGLE_HOP))
    asked, lacking = usable_probes(probes)
    if not asked:
        raise FileFormatError(path, "'questions' has no question")
    requests = [_rewrite(each, path) for each in rewrites]
    return Case((replace(requests[0], probes=asked), *requests[1:])), lacking


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
    """The texts of a list, empty ones too."""
    value = record.get(name) or []
    if not isinstance(value, list):
        raise FileFormatError(path, f"{name!r} must be a list of texts")
    return [given_text({name: each}, name, path) for each in value]
