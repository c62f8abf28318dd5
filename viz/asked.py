"""What a model was asked and what an edit was to change, in words: for paper, page and app.

Text is as files have it: who shows it makes it visible (`circuits.base.display.visible`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuits.base.display import token_name
from circuits.edits.provenance import forgotten, requested, requests_of

if TYPE_CHECKING:
    from circuits.graph.circuit import Circuit

METRICS = {
    "logit-diff": "logit difference",
    "prob-diff": "probability difference",
    "log-prob": "log-probability",
    "answer-log-prob": "log-probability of the whole answer",
    "kl": "KL divergence",
}
LONGEST = 90
"""Characters of a prompt that are shown."""
LONGEST_WORD = 18
PUNCTUATION = ".,:;!?\"'"


def metric_name(metric: str) -> str:
    """A metric in words; the user's own by its name."""
    return METRICS.get(metric, metric)


def question(result: Any) -> str:
    """`“The capital of France is” → Paris, against Japan → Tokyo, and 29 more pairs`.

    Of a circuit the first pair that found it, of two circuits that of the one before, of one prompt
    that prompt, of an edit the first prompt that it was to change. Empty where the result does not
    say what was asked.
    """
    kind = getattr(result, "KIND", "")
    if kind == "comparison":
        return question(result.before)
    if kind == "rewiring":
        return question(result.comparison) or _first(_wanted(result.provenance.get("edit")))
    if kind == "trace":
        return contrast({"clean": result.prompt, "answer": result.answer})
    if kind == "weight-delta":
        return _first(_wanted(result.provenance))
    return _first(pairs_of(result), "pair") if kind == "circuit" else ""


def pairs_of(circuit: Circuit, name: str = "pairs") -> list[Mapping[str, Any]]:
    """The records of prompt pairs in a circuit's evidence that have a prompt and its answer.

    `name` is "pairs", those that found it, or "held_out_pairs", those that tested it.
    """
    stored = circuit.evidence.get(name)
    return [
        each
        for each in (stored if isinstance(stored, list | tuple) else ())
        if isinstance(each, Mapping) and all(_is_text(each.get(key)) for key in ("clean", "answer"))
    ]


def contrast(pair: Mapping[str, Any]) -> str:
    """A prompt with its answer, and what it is set against with the foil, where that is known.

    Of a corrupted prompt that differs in a few words only these are named; what stands before the
    question, as examples in the prompt, is left out.
    """
    start = pair["start"] if isinstance(pair.get("start"), int) else 0
    clean = str(pair["clean"])[start:].strip()
    asked = f"“{cut(clean)}” → {_word(pair['answer'])}"
    if not (_is_text(pair.get("corrupted")) and _is_text(pair.get("foil"))):
        return asked
    corrupted = str(pair["corrupted"])[start:].strip()
    other = differing(clean, corrupted) or f"“{cut(corrupted)}”"
    return f"{asked}, against {other} → {_word(pair['foil'])}"


def differing(clean: str, corrupted: str) -> str:
    """The words of a corrupted prompt that the clean one does not have in their place."""
    before, after = clean.split(), corrupted.split()
    room = min(len(before), len(after))
    front = next((i for i in range(room) if before[i] != after[i]), room)
    room -= front
    back = next((i for i in range(room) if before[-1 - i] != after[-1 - i]), room)
    words = " ".join(after[front : len(after) - back]).strip(PUNCTUATION)
    return words if words and (front or back) else ""


def cut(text: str) -> str:
    """A prompt: its end, which says what is asked, where all of it is too long."""
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]


def _first(pairs: Sequence[Mapping[str, Any]], what: str = "prompt") -> str:
    """The first contrast and how many more there are."""
    if not pairs:
        return ""
    more = len(pairs) - 1
    return contrast(pairs[0]) + (f", and {more:,} more {what}{'s' * (more > 1)}" if more else "")


def _wanted(provenance: Any) -> list[dict[str, Any]]:
    """Prompts and what an edit was to have them answered with, or texts that were to go."""
    requests = [
        {"clean": requested(each), "answer": each.get("target", each.get("target_new"))}
        for each in requests_of(provenance)
    ]
    texts = [
        {"clean": each.get("text"), "answer": each.get("answer")} for each in forgotten(provenance)
    ]
    return [each for each in requests or texts if all(map(_is_text, each.values()))]


def _word(text: Any) -> str:
    name = token_name(str(text).strip())
    return name if len(name) <= LONGEST_WORD else name[: LONGEST_WORD - 1] + "…"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
