"""One prompt, asked while one waits: its circuit, its answers with parts switched off, an edit.

1. *Ask*: a prompt with its subject and answer gets corrupted partners, the same words about other
   subjects of as many tokens (of the same relation where the atlas knows the fact).
2. *Find*: EAP-IG over these pairs, and the strongest edges as a circuit with intervals.
3. *Switch off*: edges, or everything that leaves a head or MLP, carry the corrupted prompt's
   values; what the model then says stands beside what it said.
4. *Edit*: one ROME edit, and what it does to the circuit.

Everything here takes a second or so on a small model. For a relation's circuit, with evaluation on
subjects that had no part in finding it, there is `kc discover`.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from circuits.base.choices import EditStatus
from circuits.base.display import Shown, Summary
from circuits.base.errors import NumericalError, OptionError, PromptError
from circuits.base.options import build
from circuits.base.progress import Stages, silent
from circuits.edits.edit import EditRequest, WeightDelta
from circuits.edits.methods.registry import EditMethod
from circuits.edits.methods.run import edit
from circuits.edits.requests import slotted
from circuits.facts.batches import batches
from circuits.facts.facts import SLOT, Fact, atlas, fill
from circuits.facts.pairs import PromptPair, TokenPair, encode_pair
from circuits.facts.spans import batch_places
from circuits.graph.circuit import Circuit
from circuits.graph.running import CircuitRunner
from circuits.model.holding import alone
from circuits.model.metrics import rank
from circuits.model.model import Model
from circuits.model.wiring import Wiring, node_kind
from locate.changes.rewired import Rewiring
from locate.changes.rewiring import rewiring
from locate.contrast import given_pair, is_word, no_rivals, said_next
from locate.discover import find
from locate.examples import Examples
from locate.heads.roles import roles_if_any
from locate.heads.weighted import head_pattern, read_sites
from locate.search import Search
from locate.states.attribution import WrittenTokens, written_tokens

PARTNERS = 8
RESAMPLES = 100
USUAL_EDGES = 200
CANDIDATES = 400


@dataclass(frozen=True)
class Question:
    """A prompt and its corrupted partners, as pairs; `relation` where the atlas knows the fact.

    `warnings` say where a contrast is no rival to the answer.
    """

    pairs: tuple[TokenPair, ...]
    relation: str | None
    warnings: tuple[str, ...] = ()

    @property
    def examples(self) -> Examples:
        """The pairs, to find a circuit on."""
        return Examples(self.relation or "one prompt", self.pairs)

    @property
    def prompt(self) -> str:
        """The clean prompt."""
        return self.pairs[0].text.clean

    @property
    def subject(self) -> str:
        """The subject, as it stands in the prompt."""
        return self.pairs[0].text.named_subject or ""

    @property
    def answer(self) -> str:
        """The answer, without leading space."""
        return self.pairs[0].text.answer


@dataclass(frozen=True)
class Answers:
    """The likeliest next tokens, first the likeliest, and where the asked-for answer stands.

    `place` is the answer's rank, 0 for the top.
    """

    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    place: int
    probability: float


@dataclass(frozen=True, eq=False)
class HeadView:
    """One head at the last token of one prompt.

    `attention` is its pattern by position, `weighted` the same times the norm of what is read
    there, both summing to 1; `pattern` is the attention of every position, one a row; `without` is
    what the model says when all edges from the head carry the corrupted prompt's values.
    """

    tokens: tuple[str, ...]
    attention: Float[np.ndarray, " pos"]
    weighted: Float[np.ndarray, " pos"]
    pattern: Float[np.ndarray, "query key"]
    written: WrittenTokens
    whole: Answers
    without: Answers


@dataclass(frozen=True, eq=False)
class EditTrial:
    """One edit: the change of weights, what it did to the circuit, the answers on both sides."""

    delta: WeightDelta
    rewiring: Rewiring
    before: Answers
    after: Answers


@dataclass(frozen=True, eq=False)
class Asked(Shown):
    """One prompt asked: its circuit, what the model says, and what it says without parts."""

    model: Model
    question: Question
    circuit: Circuit
    answers: Answers

    def without(self, *parts: str) -> Answers:
        """What the model says when these heads, MLPs and edges carry the corrupted prompt."""
        nodes = [part for part in parts if "->" not in part]
        edges = [part for part in parts if "->" in part]
        return answers(self.model, self.question, without(self.model, nodes, edges))

    def rows(self) -> list[dict[str, Any]]:
        """One record a kept edge, strongest first."""
        return self.circuit.rows()

    def summary(self) -> Summary:
        """The circuit's, with what the model says."""
        whole = self.circuit.summary()
        says = f"{self.answers.tokens[0].strip()} ({self.answers.probabilities[0]:.3f})"
        facts = {"prompt": self.question.prompt, "says": says, **whole.facts}
        return replace(whole, facts=facts)

    def plot(self, **options: Any) -> Any:
        """The circuit's picture."""
        return self.circuit.plot(**options)


@alone
def ask_model(model: Model, prompt: str, subject: str, answer: str) -> Asked:
    """Ask, find the prompt's circuit and read the answers, in one go."""
    question = ask(model, prompt, subject, answer)
    return Asked(model, question, find_circuit(model, question), answers(model, question))


@alone
def ask(
    model: Model,
    prompt: str,
    subject: str,
    answer: str,
    seed: int = 0,
    *,
    against: str = "",
    foil: str = "",
) -> Question:
    """The prompt with up to `PARTNERS` corrupted partners, or with the one that is given.

    `against` is a corrupted prompt of as many tokens and `foil` its answer, by default what the
    model says to it, which also tells where a subject stands that has an ending or is named twice.
    PromptError where the subject does not stand in the prompt once, the answer cannot follow, no
    other subject has as many tokens, or the contrast given is none.
    """
    encoded = model.tokenizer.encode(prompt)
    model.tokenizer.first_token(prompt, answer)
    if against.strip():
        words = (prompt, subject, answer.strip(), against.strip(), foil.strip())
        pair = given_pair(model, *words)
        return Question((pair,), None, no_rivals(model, [pair], None))
    if foil.strip():
        raise PromptError("a foil is the answer to a corrupted prompt; give that prompt too")
    encoded.span_of(subject)
    template = slotted(prompt, subject)
    relation, facts = _candidates(subject, answer)
    random.Random(f"{seed}/{prompt}").shuffle(facts)
    length = len(encoded)
    texts: list[tuple[Fact, str]] = []
    for fact in facts[:CANDIDATES]:
        text = fill(template, fact.subject)
        try:
            if len(model.tokenizer.encode(text)) == length:
                texts.append((fact, text))
        except PromptError:
            continue
        if len(texts) == 4 * PARTNERS:
            break
    said = said_next(model, [text for _, text in texts])
    pairs: list[TokenPair] = []
    for (fact, text), word in zip(texts, said, strict=True):
        other = fact.object if relation is not None else word
        if not is_word(other):
            continue
        try:
            asked = PromptPair(prompt, text, answer.strip(), other, subject, relation)
            pairs.append(encode_pair(model.tokenizer, asked))
        except PromptError:  # a foil that begins like the answer, or is no text
            continue
        if len(pairs) == PARTNERS:
            break
    if len(pairs) < 2:
        raise PromptError(
            f"fewer than 2 other subjects of the atlas have as many tokens as {subject!r} and "
            "another answer; try a shorter subject or another prompt, or type the corrupted prompt"
        )
    return Question(tuple(pairs), relation, no_rivals(model, pairs, relation))


@alone
def find_circuit(
    model: Model,
    question: Question,
    n_edges: int = USUAL_EDGES,
    stages: Stages = silent,
    **scoring: Any,
) -> Circuit:
    """The prompt's circuit; of enough partners to resample, `low`, `high` and `inclusion` too.

    By EAP-IG unless `scoring` says otherwise. Heads are labelled where the partners allow it.
    """
    found = find(model, question.examples, _search(model, n_edges, **scoring), stages)
    about = {
        "relation": question.relation or "one prompt",
        "prompt": question.prompt,
        "subject": question.subject,
        "answer": question.answer,
    }
    return replace(
        found,
        roles=_roles(model, question),
        evidence={"pairs": [pair.text.as_dict() for pair in question.pairs]},
        provenance={**found.provenance, **about},
    )


def _search(model: Model, n_edges: int, **scoring: Any) -> Search:
    """A quarter of a small model's edges at most."""
    edges = min(n_edges, model.wiring().n_edges // 4)
    return build(Search, {"edges": edges, "resamples": RESAMPLES, **scoring})


@alone
@torch.no_grad()
def answers(
    model: Model, question: Question, kept: Circuit | None = None, top: int = 10
) -> Answers:
    """What the model says when only the edges of `kept` carry clean values; all by default."""
    pair = question.pairs[0]
    (batch,) = batches([pair], 1, model)
    if kept is None:
        logits = model.last_logits(batch.clean)
    else:
        places = batch_places([pair], batch, kept.wiring.spans)
        logits = CircuitRunner(model, batch, kept.wiring, spans=places).run(kept)
    return _answers(model, logits, pair.answer, top)


def without(
    model: Model,
    nodes: Collection[str] = (),
    edges: Collection[str] = (),
    wiring: Wiring | None = None,
) -> Circuit:
    """The whole model but these edges and all that leave these heads and MLPs.

    `wiring` is that which the edges are of, by default the model's own. OptionError for a name that
    this model does not have.
    """
    wiring = model.wiring() if wiring is None else wiring
    kept = np.ones(wiring.n_edges, dtype=bool)
    for node in nodes:
        if node not in wiring.src_names or node == "input":
            raise OptionError(f"{node!r} is no head or MLP of {model.name!r}")
        kept[wiring.edge_src == wiring.src_names.index(node)] = False
    for edge in edges:
        kept[wiring.edge_index(edge)] = False
    return Circuit(wiring, kept)


@alone
def head_view(model: Model, question: Question, head: str, top: int = 8) -> HeadView:
    """Where a head looks at the prompt's last token, what it writes, what its loss changes."""
    if node_kind(head) != "head" or head not in model.wiring().src_names:
        raise OptionError(f"{model.name!r} has no head {head!r}")
    layer, index = (int(part[1:]) for part in head.split("."))
    pair = question.pairs[0]
    tokens = torch.tensor([pair.clean.ids], device=model.device)
    attention, weighted = read_sites(model, tokens, [(layer, index)])[:, 0].numpy()
    return HeadView(
        tokens=pair.clean.tokens,
        attention=attention,
        weighted=weighted,
        pattern=head_pattern(model, tokens, layer, index).numpy(),
        written=written_tokens(model, pair.clean, [(layer, index)], top)[0],
        whole=answers(model, question),
        without=answers(model, question, without(model, [head])),
    )


@alone
def edit_fact(
    model: Model,
    question: Question,
    target: str,
    n_edges: int = USUAL_EDGES,
    stages: Stages = silent,
    **scoring: Any,
) -> EditTrial:
    """Make the model answer the prompt with `target` (ROME) and compare its circuit with before.

    NumericalError where the edit did not work, OptionError where nothing is to be done.
    """
    search = _search(model, n_edges, **scoring)
    start, stop = question.pairs[0].text.subject_places[0]
    request = EditRequest(
        question.prompt[:start] + SLOT + question.prompt[stop:],
        question.subject,
        target.strip(),
        ground_truth=question.answer,
        relation=question.relation,
    )
    with stages("second moments of a text, then the edit") as progress:
        outcome = edit(model, request, EditMethod.ROME, progress=progress)
    if outcome.delta is None:
        kind = NumericalError if outcome.status == EditStatus.DIVERGED else OptionError
        raise kind(f"no edit was made: {outcome.reason}")
    texts = [replace(pair.text, foil=request.target) for pair in question.pairs]
    pairs = [encode_pair(model.tokenizer, text) for text in texts]
    with stages("its circuit before and after") as progress:
        found = rewiring(
            model,
            outcome.delta,
            pairs,
            selector=search.selected,
            scoring=search,
            resamples=0,
            draws=0,
            roles=_roles(model, question),
            progress=progress,
        )
    before = answers(model, question)
    with outcome.delta.applied(model):
        after = answers(model, question)
    return EditTrial(outcome.delta, found, before, after)


def _candidates(subject: str, answer: str) -> tuple[str | None, list[Fact]]:
    """The relation that knows the fact and its other facts; else facts about alike subjects."""
    relations = atlas().values()
    about = [each for each in relations if subject in each.subjects()]
    for each in about:
        if answer.strip() in each.objects_of(subject):
            others = [f for f in each.facts if f.subject != subject and f.object != answer.strip()]
            return each.name, others
    kinds = {each.kind for each in about}
    facts = {
        fact.subject: fact
        for each in relations
        if not kinds or each.kind in kinds
        for fact in each.facts
        if fact.subject != subject
    }
    return None, list(facts.values())


def _roles(model: Model, question: Question) -> dict[str, str]:
    report, _ = roles_if_any(model, question.pairs, check=False, by_example=False)
    return {} if report is None else report.roles


def _answers(model: Model, logits: torch.Tensor, answer: int, top: int) -> Answers:
    shares = logits[0].float().softmax(-1)
    values, tokens = shares.topk(top)
    wanted = torch.tensor([answer], device=logits.device)
    return Answers(
        tokens=tuple(model.tokenizer.token_string(token) for token in tokens.tolist()),
        probabilities=tuple(values.tolist()),
        place=int(rank(logits.float(), wanted)[0]),
        probability=float(shares[answer]),
    )
