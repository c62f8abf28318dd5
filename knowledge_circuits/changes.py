"""The verbs of the door that change a model, and compare it with what it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from circuits.base.errors import OptionError
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.run import EditOutcome
from circuits.graph.circuit import Circuit
from circuits.graph.comparison import Comparison
from circuits.model.model import Model
from knowledge_circuits.options import ONE_SIDE, split, takes
from knowledge_circuits.values import circuit_of, delta_of, is_path, loaded_model, texts_of
from locate.changes.rewired import Rewiring
from locate.compare import DRAWS
from locate.discovery import Discovery
from locate.edited import Edited
from locate.idle import EDITED_FACTS, REQUESTS_AS_THEY_ARE, STORED_CIRCUITS
from locate.options import Editing, Judging, Source, Unlearning
from locate.search import Search


@takes(Editing, Judging)
def edit(
    model: Model | str,
    what: Any,
    subject: str | None = None,
    target: str | None = None,
    ground_truth: str | None = None,
    relation: str | None = None,
    **options: Any,
) -> Edited:
    """Change what a model knows, and judge what that did; the model itself stays as it is.

    `what` is a prompt, with its `subject` and `target`; or an EditRequest, several, or the path of
    a file of them. `with edited.applied():` the model has the change.

    >>> model = load("facts-gpt2", device="cpu")
    >>> edited = edit(model, "The capital of {} is", subject="France", target="Rome")
    >>> with edited.applied():
    ...     model.ask("The capital of France is", k=1).tokens
    (' Rome',)
    """
    from circuits.edits.requests import read_requests, slotted
    from locate.edited import edit_facts

    _, (editing, judging), given = split(options, Editing, Judging)
    words = {"subject": subject, "target": target}
    if isinstance(what, str) and subject is not None and target is not None:
        template = slotted(what, subject)
        requests: Sequence[EditRequest] = [
            EditRequest(template, subject, target, ground_truth, relation)
        ]
    else:
        if isinstance(what, EditRequest):
            requests = [what]
        elif isinstance(what, list | tuple):
            requests = what
            if other := [each for each in what if not isinstance(each, EditRequest)]:
                raise OptionError(f"a list of edits holds EditRequests, not {other[0]!r:.40}")
        elif subject is None and target is None and is_path(what):
            requests = read_requests(what).requests
        else:
            raise OptionError("a prompt needs `subject` and `target`")
        given = given.also(**words, ground_truth=ground_truth, relation=relation)
        given.refuse(REQUESTS_AS_THEY_ARE)
    return edit_facts(loaded_model(model), requests, editing, judging)


@takes(Unlearning)
def unlearn(
    model: Model | str, forget: Any, retain: Any, held_out: Any = (), **options: Any
) -> EditOutcome:
    """Forget a set of texts or facts while keeping another; the outcome's `delta` is the change.

    A set is a list of texts, of dictionaries with `prompt` and `answer`, or the path of a file.

    >>> done = unlearn("facts-gpt2", ["The capital of France is Paris"],
    ...                ["The capital of Italy is Rome"], method="ga-gd", layers="2")
    >>> done.method
    'ga-gd'
    """
    from circuits.edits.methods.unlearn import unlearn as forget_set
    from locate.edit import named_layers

    chosen = split(options, Unlearning).chosen[0]
    return forget_set(
        loaded_model(model),
        texts_of(forget),
        texts_of(retain),
        chosen.method,
        layers=named_layers(chosen.layers),
        settings=chosen.settings or {},
        bos=chosen.bos,
        held_out=texts_of(held_out),
        seed=chosen.seed,
    )


_OF_AN_EDIT = {
    **ONE_SIDE,
    "faithfulness": None,
    "spans": None,
    "curve": False,
    "n_random": 0,
}
"""What is no option of a comparison: its circuits are of one size, and not measured."""


@takes(Search, Source, fixed=_OF_AN_EDIT, roles=True)
def compare(
    first: Any,
    second: Any,
    what: Any = None,
    draws: int = DRAWS,
    allow_mismatch: bool = False,
    **options: Any,
) -> Comparison | Rewiring:
    """Two circuits side by side, or a model's circuit before and after an edit.

    `first` and `second` are circuits (discoveries, files), or a model and an edit of it; then
    `what` says what to ask about, by default the edited facts. An edit that was made for other
    weights is refused unless `allow_mismatch`.

    >>> model = load("facts-gpt2", device="cpu")
    >>> few = {"n_pairs": 6, "resamples": 0, "roles": False}
    >>> left, right = (discover(model, name, **few)
    ...                for name in ("country_capital", "country_language"))
    >>> 0 < compare(left, right).jaccard < 1
    True
    """
    from circuits.graph.comparison import Comparison
    from locate.asked import examples_of
    from locate.compare import PARTNERS, about_a_relation, about_the_edit, compare_edit

    source, (search,), given = split(options, Source, Search, fixed=_OF_AN_EDIT, roles=True)
    given = given.also(
        draws=None if draws == DRAWS else draws, allow_mismatch=allow_mismatch or None
    )
    if not isinstance(second, Edited | EditOutcome | WeightDelta) and (
        what is None or isinstance(first, Circuit | Discovery)
    ):
        if not (isinstance(first, Circuit | Discovery) or is_path(first)):
            raise OptionError("give two circuits, or a model and an edit of it")
        given.also(what=what).refuse(STORED_CIRCUITS)
        return Comparison(circuit_of(first), circuit_of(second))
    given.refuse(*([EDITED_FACTS] if what is None else []))
    with loaded_model(first).alone() as loaded:
        delta = delta_of(second).fitted_to(loaded, allow_mismatch)
        if delta.fingerprint() in loaded.provenance.get("edits", ()):
            raise OptionError("this edit is in the model already; compare outside of its block")
        if what is None:
            asked = about_the_edit(loaded, delta, source.get("n_pairs") or PARTNERS, search.seed)
        else:
            examples = examples_of(loaded, what, search.batch_size, given=given, **source)
            asked = about_a_relation(examples)
        return compare_edit(loaded, delta, asked, search, draws)
