"""The facts in the prompt instead of an edit: what any edit has to do better than.

Every prompt of a request stands behind the new facts' statements, "The capital of France is Rome.",
in the unedited model (in-context editing; Zheng et al. 2023, "Can we edit factual knowledge by
in-context learning?", without their demonstrations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from circuits.edits.edit import EditRequest
from circuits.edits.judge.success import Judge, RequestScore

SEPARATOR = ". "


def in_context(judge: Judge) -> tuple[list[RequestScore], list[str]]:
    """The judge's requests, with the new facts of all of them before every prompt.

    A weight edit makes all of a case's requests, so that what follows from several can be said.
    Probes behind which they have no room are left out, and are what comes second; PromptError where
    a request's own prompt has none.
    """
    requests = judge.requests
    told = Judge(
        judge.model,
        [with_facts(each, requests) for each in requests],
        batch_size=judge.batch_size,
        extra_tokens=judge.extra_tokens,
    )
    return judge.scores_beside(told), told.left_out


def stated(told: Sequence[EditRequest]) -> str:
    """What the requests would write, each stated in its own wording, to stand before a prompt."""
    return "".join(f"{each.text} {each.target}{SEPARATOR}" for each in told)


def with_facts(request: EditRequest, told: Sequence[EditRequest]) -> EditRequest:
    """The request with new facts, each stated in its own wording, before all of its prompts."""
    front = stated(told)
    probes = tuple(replace(each, prompt=front + each.prompt) for each in request.probes)
    # The statements hold the subject too, so the request's own slot stays where it is.
    return replace(request, prompt=front + request.prompt, probes=probes)
