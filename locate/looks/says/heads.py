"""What heads do: sentences on roles and on heads read on single prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuits.base.intervals import FEWEST, enough
from locate.looks.says.words import (
    and_so_on,
    count,
    figure,
    figures,
    percent,
    prompt,
    quoted,
    sentence,
)

if TYPE_CHECKING:
    from locate.heads.heads_on_prompts import HeadsOnPrompts, PromptHeads
    from locate.heads.role_report import RoleReport
    from locate.heads.span_roles import SpanRoles


def roles(found: RoleReport) -> str:
    """How many heads have which role, the first of them, and how silencing judged the labels."""
    n = count(len(found.heads), "head")
    if not found.heads:
        return sentence("no head was looked at")
    first = found.heads[0]
    if not found.labelled:
        return sentence(
            f"no evidence of a mover, relation or mixture head: none of {n} meets the criterion; "
            f"{first.name} comes nearest with {percent(first.score)} of all heads' work"
        )
    labels = [str(head.role) for head in found.labelled]
    counted = [f"{labels.count(each)} {each}" for each in dict.fromkeys(labels)]
    text = (
        f"{len(labels)} of {n} have a role ({and_so_on(counted)}), {first.name} first with "
        f"{percent(first.score)} of all heads' work as a {first.role}"
    )
    checks = [str(head.check.verdict) for head in found.labelled if head.check is not None]
    if found.provenance.get("prompts") == 1:
        return sentence(f"{text}; this is of a single prompt, and was not checked")
    if not checks:
        return sentence(f"{text}; silencing did not check that")
    right, wrong = checks.count("confirmed"), checks.count("contrary")
    on = found.provenance.get("checked_on")
    where = f" on {on}" if isinstance(on, str) else ""
    beside = f"as many heads without a role of the same or the nearest layers{where}"
    text += f"; silencing, against {beside}, confirms {right} of {len(checks)}"
    return sentence(text + (f" and says the contrary of {wrong}" if wrong else ""))


def span_roles(found: SpanRoles) -> str:
    """The same of heads by the spans of a task."""
    n = count(len(found.heads), "head")
    if not found.labelled:
        first = found.heads[0]
        return sentence(
            f"no evidence of a head with a role: none of {n} meets the criterion; {first.name} "
            f"comes nearest with {percent(abs(first.share))} of all heads' logits for the answer"
        )
    first, median = found.labelled[0], float(np.median([each.gain.value for each in found.heads]))
    return sentence(
        f"{len(found.labelled)} of {n} have a role; {first.name}, {first.role}, writes "
        f"{figures(first.gain)} logits for the answer against the foil, the median head "
        f"{figure(median)}; silencing did not check that"
    )


def prompt_heads(found: PromptHeads) -> str:
    """Of one prompt: how many of its heads raise the answer most."""
    return _on([found])


def heads_on_prompts(found: HeadsOnPrompts) -> str:
    """Of several prompts: the same of all heads on all prompts, and the first prompt's example."""
    return _on(found.prompts)


def _on(prompts: Sequence[PromptHeads]) -> str:
    if not any(each.heads for each in prompts):
        return sentence("no head was read on any prompt")
    holds = [
        [each.answer_token in [word for word, _ in raised] for raised in each.raised]
        for each in prompts
    ]
    all_of, said = sum(map(len, holds)), sum(map(sum, holds))
    n_words = max(len(raised) for each in prompts for raised in each.raised)
    asked = prompt(prompts[0].prompt) if len(prompts) == 1 else count(len(prompts), "prompt")
    text = f"on {asked} the answer is among the {n_words} tokens that a head raises most in {said} "
    text += f"of {count(all_of, 'case')} of a head and a prompt"
    for each, row in zip(prompts, holds, strict=True):
        if any(row):
            at = row.index(True)
            seen = quoted(each.tokens[int(each.weighted[at].argmax())])
            text += f", as in {each.heads[at]}, which looks at {seen} and raises "
            text += quoted(each.answer_token)
            break
    few = "" if enough(len(prompts)) else f"; fewer than {FEWEST} prompts say nothing of others"
    return sentence(text + few)
