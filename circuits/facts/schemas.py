"""The schemas of public data sets: one record each becomes a `Fact`, or a whole `Relation`.

| schema | one record | relation |
|---|---|---|
| lre | name, prompt_templates, samples (Hernandez et al. 2024) | the record's name |
| counterfact | requested_rewrite, paraphrase_prompts... (Meng et al. 2022) | relation_id |
| edit-request | prompt, subject, ground_truth, target_new (EasyEdit) | the wording |
| knowedit | prompt, subject, target_new, portability... (Zhang et al. 2024) | the wording |
| zsre | subject, src, alt, answers, rephrase, loc, loc_ans (Mitchell et al. 2022) | the wording |
| cknowedit | prompt, target_old, target_new, rephrase... (Fang et al. 2025) | one for all |
| qaedit | subject, prompt, target, rephrase, locality list (Yang et al. 2025) | the wording |
| known-1000 | known_id, subject, attribute, prompt (Meng et al. 2022) | relation_id |
| plain | subject, object, prompt, optional relation, aliases | relation, else the wording |

"The wording" is the prompt with {} in the subject's place; a prompt may have that {} already.
A probe whose prompt or answer is empty is no fault of its row: `usable_probes` tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from circuits.base.choices import Choice
from circuits.base.errors import FileFormatError, PromptError
from circuits.base.records import given_text, text_field
from circuits.facts.facts import SLOT, Fact, Probe, ProbeKind, Relation
from circuits.model.tokens import find_mentions

Record = dict[str, Any]


class Place(NamedTuple):
    """Where a record stands, for messages."""

    path: str | Path
    line: int | None = None


class Schema(Choice):
    """How a file states its facts."""

    LRE = "lre"
    COUNTERFACT = "counterfact"
    EDIT_REQUEST = "edit-request"
    KNOWEDIT = "knowedit"
    ZSRE = "zsre"
    CKNOWEDIT = "cknowedit"
    QAEDIT = "qaedit"
    KNOWN_1000 = "known-1000"
    PLAIN = "plain"


def detect(record: Record, path: str | Path) -> Schema:
    """The schema whose keys a record has; FileFormatError where it has none's."""
    keys = record.keys()
    signs = {
        Schema.LRE: {"samples", "prompt_templates"},
        Schema.COUNTERFACT: {"requested_rewrite"},
        Schema.KNOWN_1000: {"known_id", "attribute"},
        Schema.ZSRE: {"subject", "src", "alt"},
        Schema.QAEDIT: {"subject", "prompt", "target", "rephrase"},
        Schema.PLAIN: {"subject", "object"},
    }
    for schema, sign in signs.items():
        if sign <= keys:
            return schema
    if {"subject", "target_new"} <= keys:
        by_probes = {"portability", "locality"} & keys
        return Schema.KNOWEDIT if by_probes else Schema.EDIT_REQUEST
    if {"prompt", "target_old", "target_new"} <= keys:
        return Schema.CKNOWEDIT
    raise FileFormatError(
        path,
        f"has no schema that is known here (keys {', '.join(sorted(keys)[:8]) or 'none'}); "
        "plain files need subject, object and prompt",
    )


def lre_relation(record: Record, at: Place) -> Relation:
    """One relation file of LRE; its zero-shot templates become the held-out ones."""
    name = text_field(record, "name", *at)
    properties = _mapping(record.get("properties") or {}, "properties", at)
    templates = _templates(record, "prompt_templates", at)
    others = _templates(record, "prompt_templates_zs", at)
    if not isinstance(record.get("samples"), list):
        raise FileFormatError(at.path, "'samples' must be a list", at.line)
    facts = []
    for number, each in enumerate(record["samples"], start=1):
        sample = _mapping(each, f"sample {number}", at)
        where = Place(f"{at.path} (sample {number})", at.line)
        subject, known = (text_field(sample, key, *where) for key in ("subject", "object"))
        facts.append(Fact(name, _unescape(subject), _unescape(known)))
    return Relation(
        name=name,
        category=str(properties.get("relation_type", "")),
        kind=str(properties.get("domain_name", "")),
        facts=tuple(facts),
        templates=templates,
        held_out=tuple(each for each in others if each not in templates),
    )


def _templates(record: Record, key: str, at: Place) -> tuple[str, ...]:
    values = record.get(key) or []
    if not isinstance(values, list):
        raise FileFormatError(at.path, f"{key!r} must be a list", at.line)
    for value in values:
        if not isinstance(value, str) or value.count(SLOT) != 1:
            reason = f"in {key!r}, {value!r} needs exactly one {SLOT}"
            raise FileFormatError(at.path, reason, at.line)
    return tuple(dict.fromkeys(value.strip() for value in values))


def _mapping(value: Any, name: str, at: Place) -> Record:
    if not isinstance(value, dict):
        raise FileFormatError(at.path, f"{name!r} must be an object", at.line)
    return value


def _unescape(text: str) -> str:
    """Mend what LRE escaped twice, as in `Bogot\\u00e1`."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)


def _counterfact(record: Record, at: Place) -> Fact:
    rewrite = _mapping(record.get("requested_rewrite"), "requested_rewrite", at)
    true, new = _answer(rewrite, "target_true", at), _answer(rewrite, "target_new", at)
    probes = [
        *_probes(record, "paraphrase_prompts", ProbeKind.PARAPHRASE, new, at),
        *_probes(record, "neighborhood_prompts", ProbeKind.LOCALITY, true, at),
        *_probes(record, "attribute_prompts", ProbeKind.LOCALITY, new, at),
    ]
    return Fact(
        relation=text_field(rewrite, "relation_id", *at),
        subject=text_field(rewrite, "subject", *at),
        object=true,
        template=_wording(rewrite, "prompt", at),
        target=new,
        probes=tuple(probes),
    )


def _edit_request(record: Record, at: Place) -> Fact:
    true = "target_true" if "target_true" in record else "ground_truth"
    template = _wording(record, "base_prompt" if "base_prompt" in record else "prompt", at)
    target = text_field(record, "target_new", *at)
    probes = [*_probes(record, "rephrase_prompt", ProbeKind.PARAPHRASE, target, at)]
    if record.get("locality_prompt"):
        answer = given_text(record, "locality_ground_truth", *at)
        probes += _probes(record, "locality_prompt", ProbeKind.LOCALITY, answer, at)
    subject = text_field(record, "subject", *at)
    known = _answer(record, true, at) if record.get(true) else target
    return Fact(template, subject, known, template, target, tuple(probes))


def _qaedit(record: Record, at: Place) -> Fact:
    """A question and its answer; what the model says now is not in the file."""
    template, target = _wording(record, "prompt", at), _answer(record, "target", at)
    probes = [*_probes(record, "rephrase", ProbeKind.PARAPHRASE, target, at)]
    for each in _listed(record.get("locality"), "locality", at):
        other = _mapping(each, "locality", at)
        answers = tuple(_flatten(other.get("loc_ans")))
        probes.append(Probe(ProbeKind.LOCALITY, given_text(other, "loc", *at), answers, "loc"))
    return Fact(
        template, text_field(record, "subject", *at), target, template, target, tuple(probes)
    )


def _knowedit(record: Record, at: Place) -> Fact:
    template = _wording(record, "prompt", at)
    target = _answer(record, "target_new", at)
    # Some releases lack the true object; then the requested one is all there is to ask for.
    known = _answer(record, "ground_truth", at) if record.get("ground_truth") else target
    probes = [*_probes(record, "rephrase", ProbeKind.PARAPHRASE, target, at)]
    probes += _probes(record, "rephrase_prompt", ProbeKind.PARAPHRASE, target, at)
    for kind in (ProbeKind.PORTABILITY, ProbeKind.LOCALITY):
        headings = record.get(kind.value)
        headings = {} if headings in (None, [], "") else _mapping(headings, kind.value, at)
        for heading, prompts in headings.items():
            for each in _listed(prompts, heading, at):
                probe = _mapping(each, heading, at)
                answers = tuple(_flatten(probe.get("ground_truth")))
                probes.append(Probe(kind, given_text(probe, "prompt", *at), answers, heading))
    subject = text_field(record, "subject", *at)
    return Fact(template, subject, known, template, target, tuple(probes))


def _cknowedit(record: Record, at: Place) -> Fact:
    """A prompt that names no subject: all of it stands for one, as in EasyEdit's reader.

    `target_old` is what some model said wrongly, and is not read: the new answer is the true one.
    """
    target = _answer(record, "target_new", at)
    probes = [*_probes(record, "rephrase", ProbeKind.PARAPHRASE, target, at)]
    for kind in (ProbeKind.PORTABILITY, ProbeKind.LOCALITY):
        for each in _listed(record.get(kind.value), kind.value, at):
            probe = _mapping(each, kind.value, at)
            answers = tuple(_flatten(probe.get("answer")))
            probes.append(Probe(kind, given_text(probe, "prompt", *at), answers, kind.value))
    subject = text_field(record, "prompt", *at)
    return Fact("cknowedit", subject, target, SLOT, target, tuple(probes))


def _zsre(record: Record, at: Place) -> Fact:
    template, target = _wording(record, "src", at), text_field(record, "alt", *at)
    probes = [*_probes(record, "rephrase", ProbeKind.PARAPHRASE, target, at)]
    if record.get("loc"):
        prompt = given_text(record, "loc", *at).removeprefix("nq question: ")
        answers = tuple(_flatten(record.get("loc_ans")))[:1]
        probes.append(Probe(ProbeKind.LOCALITY, prompt, answers, "loc"))
    subject = text_field(record, "subject", *at)
    true = _answer(record, "answers" if "answers" in record else "pred", at)
    return Fact(template, subject, true, template, target, tuple(probes))


def _known_1000(record: Record, at: Place) -> Fact:
    # The set's own `template` often lacks the last word of `prompt`, so the prompt decides.
    return Fact(
        relation=text_field(record, "relation_id", *at),
        subject=text_field(record, "subject", *at),
        object=text_field(record, "attribute", *at),
        template=_wording(record, "prompt", at),
    )


def _plain(record: Record, at: Place) -> Fact:
    template = _wording(record, "prompt", at)
    named = record.get("relation") not in (None, "")
    return Fact(
        relation=text_field(record, "relation", *at) if named else template,
        subject=text_field(record, "subject", *at),
        object=text_field(record, "object", *at),
        template=template,
        aliases=_aliases(record, at),
    )


def _aliases(record: Record, at: Place) -> tuple[str, ...]:
    """Other accepted answers: a list, or one text with | between them, as in a CSV file."""
    value = record.get("aliases")
    listed = value.split("|") if isinstance(value, str) else _listed(value, "aliases", at)
    texts = [text for text in listed if not isinstance(text, str) or text.strip()]
    return tuple(dict.fromkeys(text_field({"aliases": text}, "aliases", *at) for text in texts))


READERS: dict[Schema, Callable[[Record, Place], Fact]] = {
    Schema.COUNTERFACT: _counterfact,
    Schema.EDIT_REQUEST: _edit_request,
    Schema.KNOWEDIT: _knowedit,
    Schema.ZSRE: _zsre,
    Schema.CKNOWEDIT: _cknowedit,
    Schema.QAEDIT: _qaedit,
    Schema.KNOWN_1000: _known_1000,
    Schema.PLAIN: _plain,
}


def _wording(record: Record, key: str, at: Place) -> str:
    """The prompt with {} for the subject; PromptError unless the subject stands there once."""
    prompt, subject = text_field(record, key, *at), text_field(record, "subject", *at)
    slots = prompt.count(SLOT)
    if slots == 1:
        return prompt
    if slots > 1:
        raise PromptError(f"prompt has {slots} slots {SLOT}")
    mentions = find_mentions(prompt, subject)
    if len(mentions) != 1:
        raise PromptError(
            "subject is not in the prompt" if not mentions else "subject occurs twice"
        )
    start, stop = mentions[0]
    return prompt[:start] + SLOT + prompt[stop:]


def _answer(record: Record, key: str, at: Place) -> str:
    """A text, as itself, as `{"str": text}` or as the first of a list of aliases."""
    value = record.get(key)
    if isinstance(value, dict):
        return text_field(value, "str", *at)
    if isinstance(value, list):
        value = next(iter(_flatten(value)), None)
    return text_field(record if value is None else {key: value}, key, *at)


def usable_probes(probes: Iterable[Probe]) -> tuple[tuple[Probe, ...], list[str]]:
    """The probes that ask something, and of each other one what it lacks.

    Locality needs no answer: what the model said before is one.
    """
    found, lacking = [], []
    for each in probes:
        named = f"a prompt of {str(each.name or each.kind)!r}"
        if not each.prompt:
            lacking.append(f"{named} is empty")
        elif not each.answers and each.kind != ProbeKind.LOCALITY:
            lacking.append(f"{named} has no answer")
        else:
            found.append(each)
    return tuple(found), lacking


def _probes(record: Record, key: str, kind: ProbeKind, answer: str, at: Place) -> Iterator[Probe]:
    """A probe for each prompt under a key, empty ones too; the key may be absent or empty."""
    for prompt in _listed(record.get(key), key, at):
        if not isinstance(prompt, str):
            raise FileFormatError(at.path, f"{key!r} must be text or a list of texts", at.line)
        text = given_text({key: prompt}, key, *at)
        yield Probe(kind, text, (answer,) if answer else (), key)


def _listed(value: Any, key: str, at: Place) -> list[Any]:
    """The values of a list or the one text; none where there is nothing."""
    if value is None or value == "":
        return []
    if not isinstance(value, str | list):
        raise FileFormatError(at.path, f"{key!r} must be a list, not {value!r:.40}", at.line)
    return [value] if isinstance(value, str) else value


def _flatten(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, list):
        for item in value:
            yield from _flatten(item)
