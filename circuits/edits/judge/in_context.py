"""The fact in the prompt instead of an edit: what any edit has to do better than.

Every prompt of a request stands behind the new fact's statement, "The capital of France is Rome.",
in the unedited model (in-context editing; Zheng et al. 2023, "Can we edit factual knowledge by
in-context learning?", without their demonstrations).
"""

from __future__ import annotations

from dataclasses import replace

from circuits.edits.edit import EditRequest
from circuits.edits.judge.success import Judge, RequestScore

SEPARATOR = ". "


def in_context(judge: Judge) -> list[RequestScore]:
    """The judge's requests, with each one's new fact before all of its prompts.

    Probes behind which it has no room are left out; PromptError where the request's own prompt has
    none.
    """
    told = Judge(
        judge.model, [with_fact(each) for each in judge.requests], extra_tokens=judge.extra_tokens
    )
    return judge.scores_beside(told)


def with_fact(request: EditRequest) -> EditRequest:
    """The request with its new fact, stated in its own wording, before all of its prompts."""
    front = f"{request.text} {request.target}{SEPARATOR}"
    probes = tuple(replace(each, prompt=front + each.prompt) for each in request.probes)
    # The statement holds the subject too, so the request's own slot stays where it is.
    return replace(request, prompt=front + request.prompt, probes=probes)
