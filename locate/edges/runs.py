"""The runs of a batch of pairs, from which edges get scores: what attribution by passes shares.

A method says which runs are made and by which rules gradients flow back; batches, a bound on their
memory, constants in place of a corrupted run, and the checks of what comes out are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.base.choices import Ablation
from circuits.base.errors import NumericalError, OptionError
from circuits.base.progress import Progress
from circuits.facts.batches import PairBatch, batches
from circuits.facts.pairs import TokenPair
from circuits.facts.spans import batch_places
from circuits.graph.ablation import SourceConstants, source_constants
from circuits.graph.scores import EdgeScores
from circuits.model.footprint import PLAIN as SHORT
from circuits.model.footprint import Footprint
from circuits.model.metrics import evaluate_metric
from circuits.model.model import Hook, Model, Prefix
from circuits.model.wiring import Wiring
from locate.edges.contracting import contract
from locate.edges.passes import InputGradients, SourceDifferences
from locate.edges.recording import Differences, Gradients
from locate.edges.room import Contraction, Room, Share, short_batch
from locate.edges.rules import PLAIN, BackwardRules
from locate.search import Scoring


def contract_runs(
    model: Model,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    passes: Callable[[Runs], None],
    *,
    score: Callable[[Runs], Float[np.ndarray, "pair edge"]] | None = None,
    rules: BackwardRules = PLAIN,
    mixed: bool = False,
    batch_size: int = 16,
    keep_pairs: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores of all edges, averaged over the pairs, from the runs that `passes` makes of a batch.

    The scores are `Runs.scores`, or what `score` makes of the runs. Gradients are by `rules`.
    Batches may have `mixed` lengths where all runs are made by `Runs.last_logits` and
    `Runs.backward`, which know where each prompt ends. For the rest see
    `locate.edges.eap.attribute`.
    """
    if not pairs:
        raise OptionError("there are no prompt pairs to score")
    wiring = scoring.wiring(model, pairs)
    shares = _shares(model, wiring, pairs, scoring, passes, rules, batch_size, keep_pairs)
    constants = None
    if scoring.ablation.is_constant:
        fewest = min(share.rows for share in shares.values())
        constants = source_constants(model, pairs, scoring.ablation, fewest)
    total = np.zeros(wiring.n_edges)
    per_pair = np.empty((len(pairs), wiring.n_edges), dtype=np.float32) if keep_pairs else None
    done = 0
    mixed = mixed and _bound(model, scoring) is None  # a bound says of each length how many fit
    sizes = batch_size if mixed else {length: share.rows for length, share in shares.items()}
    for batch in batches(pairs, sizes, model, mixed, whole=scoring.ablation.is_constant):
        share = shares[batch.clean.shape[1]]
        places = batch_places(pairs, batch, wiring.spans)
        runs = Runs.of(model, wiring, batch, scoring, constants, rules, share, places)
        passes(runs)
        if score is None:
            runs.prefix = None  # what the product needs is kept, and memory may be short
            scores = runs.scores()
        else:
            scores = score(runs)
        del runs
        _check_finite(model, scores, batch, pairs, wiring)
        total += scores.sum(0, dtype=np.float64)
        if per_pair is not None:
            per_pair[list(batch.index)] = scores
        done += len(batch)
        if progress is not None:
            progress(done, len(pairs))
    provenance = {**model.provenance, **scoring.record(), "pairs": len(pairs)}
    return EdgeScores(wiring, (total / len(pairs)).astype(np.float32), per_pair, provenance)


@dataclass(eq=False)
class Recorded:
    """A batch's runs from position `shared` on, and what is to be kept of them."""

    model: Model
    scoring: Scoring
    batch: PairBatch
    shared: int
    prefix: Prefix | None
    differences: Differences
    gradients: Gradients
    constants: SourceConstants | None

    def see_corrupted(self) -> None:
        """Complete the differences with what replaces the clean values."""
        with torch.no_grad():
            self.last_logits(self.corrupted, self.differences.hooks(-1))

    @property
    def clean(self) -> Tensor:
        """Tokens of the clean prompts."""
        return self.batch.clean[:, self.shared :]

    @property
    def corrupted(self) -> Tensor:
        """Tokens of the corrupted prompts."""
        return self.batch.corrupted[:, self.shared :]

    def last_logits(
        self, tokens: Int[Tensor, "batch pos"], hooks: Iterable[Hook] = ()
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits after the batch's prompts, of which these are the tokens from `shared` on."""
        ends = self.batch.ends_from(self.shared)
        return self.model.last_logits(tokens, hooks, self.prefix, ends)

    def backward(
        self,
        clean_logits: Tensor | None,
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
        extra_hooks: list[Hook] | None = None,
    ) -> None:
        """A run of the clean prompts and back, from the metric, which these logits may decide."""
        self.gradients.run(
            self.clean,
            self.metric(clean_logits),
            embedding,
            self.prefix,
            extra_hooks,
            ends=self.batch.ends_from(self.shared),
        )

    def metric(self, clean_logits: Tensor | None) -> Callable[[Tensor], Tensor]:
        """The metric of a run's logits."""
        name, batch = self.scoring.metric, self.batch
        sides = batch.wanted, batch.unwanted
        return lambda logits: evaluate_metric(name, logits, *sides, clean_logits)


@dataclass(eq=False)
class Runs(Recorded):
    """A batch's runs, of which is kept what edges get scores from."""

    differences: SourceDifferences
    gradients: InputGradients
    wiring: Wiring
    share: Share
    spans: Int[np.ndarray, "pair pos"] | None = None
    """Which span each position is in, from `shared` on; None where they are not told apart."""

    @classmethod
    def of(
        cls,
        model: Model,
        wiring: Wiring,
        batch: PairBatch,
        scoring: Scoring,
        constants: SourceConstants | None,
        rules: BackwardRules = PLAIN,
        share: Share | None = None,
        spans: Int[np.ndarray, "pair pos"] | None = None,
    ) -> Runs:
        """No run made yet; positions before the first difference are computed here, once."""
        share = share or Share(len(batch))
        shared = 0 if constants is not None else batch.first_difference
        return cls(
            model=model,
            scoring=scoring,
            batch=batch,
            shared=shared,
            prefix=model.share_prefix(batch.clean[:, :shared]),
            differences=SourceDifferences(model),
            gradients=InputGradients(model, wiring, rules, recompute=share.recompute),
            constants=constants,
            wiring=wiring,
            share=share,
            spans=None if spans is None else spans[:, shared:],
        )

    def scores(self, gradients: InputGradients | None = None) -> Float[np.ndarray, "pair edge"]:
        """Each pair's scores, from the mean of these gradients or of those of the runs."""
        gradients = gradients or self.gradients
        n_examples = len(self.batch)
        asked = self.wiring, self.differences, gradients, n_examples, self.share, self.spans
        matrix = contract(*asked)
        return self.wiring.from_matrix(matrix.cpu().numpy()) / gradients.n_runs

    def see_corrupted(self) -> None:
        """Complete the differences with what replaces the clean outputs."""
        if self.constants is not None:
            self.differences.subtract(self.constants)
            return
        super().see_corrupted()


def no_passes(runs: Runs) -> None:
    """For methods whose `score` makes its runs itself."""


def at_clean(runs: Recorded) -> None:
    """EAP: the gradient at the clean run."""
    runs.backward(None, extra_hooks=runs.differences.hooks(1))
    runs.see_corrupted()


def along_the_path(runs: Recorded) -> None:
    """EAP-IG: the gradient at points between the corrupted and the clean embedding."""
    model, scoring, constants = runs.model, runs.scoring, runs.constants
    differences = runs.differences
    with torch.no_grad():
        clean_logits = runs.last_logits(runs.clean, differences.hooks(1))
        end = model.embed(runs.clean)
        start = model.embed(runs.corrupted) if constants is None else constants.embedding
    pending = differences.hooks(-1) if constants is None else []
    for point in scoring.rule.points(scoring.steps):
        embedding = torch.lerp(start.expand_as(end), end, point)
        hooks, pending = (pending, []) if point == 0.0 else ([], pending)
        runs.backward(clean_logits, embedding, hooks)
    if pending or constants is not None:  # no integration point was the corrupted run itself
        runs.see_corrupted()


def _shares(
    model: Model,
    wiring: Wiring,
    pairs: Sequence[TokenPair],
    scoring: Scoring,
    passes: Callable[[Runs], None],
    rules: BackwardRules,
    batch_size: int,
    keep_pairs: bool,
) -> dict[int, Share]:
    """How the pairs of each length are taken; without a bound in batches of the size asked for."""
    bound = _bound(model, scoring)
    if bound is None:
        return {len(pair.clean): Share(batch_size) for pair in pairs}
    constant, one = scoring.ablation.is_constant, replace(scoring, steps=1)
    constants = source_constants(model, pairs, Ablation.ZERO) if constant else None

    def made(asked: PairBatch, recompute: bool) -> tuple[SourceDifferences, InputGradients]:
        share = Share(len(asked), recompute)
        runs = Runs.of(model, wiring, asked, one, constants, rules, share)
        passes(runs)
        return runs.differences, runs.gradients

    def watch(rows: int, positions: int, prefix: int, recompute: bool) -> Footprint:
        asked = short_batch(model, pairs[0], rows, positions, prefix)
        with Footprint() as seen:
            held = made(asked, recompute)
        del held
        return seen

    n_positions = SHORT[0][0]
    asked = short_batch(model, pairs[0], 1, n_positions, 0)
    kept = made(asked, recompute=False)
    with Footprint() as seen:
        spans = np.arange(n_positions)[None] % wiring.n_spans if wiring.spans else None
        contract(wiring, *kept, 1, Share(1), spans)
    contraction = Contraction.of(model, wiring, seen.peak, n_positions)
    results = wiring.n_edges * (3 * 8 + 4 * len(pairs) * keep_pairs)
    kind = rules, one.method, one.rule, one.metric, one.kv, constant, asked.wanted.shape
    further = scoring.steps - 1 if "steps" in scoring.method.uses else 0
    added = kept[1].later_bytes(further)
    room = Room(model, kind, bound, results, watch, contraction, added)
    return room.shares(pairs, min(batch_size, len(pairs)), sharing=not constant)


def _bound(model: Model, scoring: Scoring) -> int | None:
    """Bytes that scoring takes beside the model; None where nothing bounds them."""
    if scoring.memory is not None:
        return int(scoring.memory)
    return model.memory if scoring.method.bounded else None


def _check_finite(
    model: Model,
    scores: Float[np.ndarray, "pair edge"],
    batch: PairBatch,
    pairs: Sequence[TokenPair],
    wiring: Wiring,
) -> None:
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        row, edge = bad[0]
        prompt = pairs[batch.index[row]].text.clean
        raise NumericalError(
            f"the score of {wiring.edge_name(int(edge))} is not a finite number for the prompt "
            f"{prompt!r}; {model.why_not_finite()}"
        )
