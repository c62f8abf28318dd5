"""What can be asked of the verbs of this room, as classes of options; imports no torch.

Command lines and help texts are made from these fields, and Python callers fill in the same ones.
An error names an option in backquotes, as `hold_out`, so that each door can use its own spelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.base.choices import (
    Ablation,
    Corruption,
    Known,
    Metric,
    NoiseUnit,
    Task,
    Templates,
    TraceKind,
    UnlearnMethod,
)
from circuits.base.errors import OptionError
from circuits.base.idle import Idle
from circuits.base.options import Options, option
from circuits.edits.methods.registry import EditMethod

MOST_SEEDS = 2**63 - 1
MOST_PAIRS = 1_000_000


@dataclass(frozen=True)
class Loading(Options):
    """Where and how precisely a model runs."""

    device: str | None = option(None, "cpu, cuda, cuda:N or mps; by default cuda, else cpu.")
    dtype: str = option("fp32", "fp32, bf16 or fp16.")
    device_map: str | None = option(
        None,
        "Where weights are: on the processor disk, or cpu=2GiB,disk, so much in memory and others "
        "in a file; for a GPU auto, or as cuda:0=20GiB,cuda:1=20GiB,cpu.",
        metavar="PLACES",
    )


@dataclass(frozen=True)
class Source(Options):
    """What to ask: a relation of the atlas, a fact file (or one relation of it), pairs, a task.

    `wordings` replace the relation's templates. `n_pairs` caps the pairs of each side. `hold_out`
    is the share of subjects that only evaluation sees; None is a half for facts and nothing for a
    pair file. `known_only` leaves out what the model does not know; None is yes for facts and no
    for a pair file, whose lines someone chose. `corrupt` says what corrupted prompts ask.
    """

    relation: str | None = option(
        None,
        "A relation of the atlas (`kc facts`), or of your own facts.",
        flags=("--relation", "-r"),
    )
    facts: str | None = option(
        None,
        "Facts: JSON, JSONL or CSV file, directory or hub data set (LRE, CounterFact, "
        "known_1000, KnowEdit, or lines with subject, object, prompt).",
    )
    pairs: Path | None = option(
        None,
        'JSONL with "clean", "corrupted", "answer", "foil" and optionally "subject", "relation", '
        '"answers", "foils", "spans", "exact"; EAP-IG\'s CSV; rows of MIB\'s tasks.',
    )
    task: Task | None = option(None, "A task that is no fact: who receives, a later year, ...")
    templates: Templates = option(
        Templates.USUAL,
        "Templates to ask in: three of the training ones, the first, or those that a language "
        "model (usual) or this one (best) answers best; an embedded model's usual ones are the "
        "first; train, ...",
        flags=("--split",),
    )
    wordings: tuple[str, ...] = option(
        (),
        "Ask in this wording instead, {} for the subject; repeatable.",
        flags=("--template",),
    )
    n_pairs: int | None = option(
        None, "At most so many pairs on each side.", low=1, high=MOST_PAIRS
    )
    hold_out: float | None = option(
        None,
        "Share of subjects kept for evaluation only; default 0.5, of pairs 0.",
        low=0.0,
        high=0.99,
    )
    known_only: bool | None = option(
        None, "Leave out what the model does not know; default: yes, of pairs no."
    )
    known: Known = option(
        Known.TOP1,
        "What counts as known: the best token of all (top1), one of the K best (topK), or the best "
        "of the relation's objects.",
    )
    shots: int = option(
        0, "Facts of the relation that stand answered before every question.", low=0, high=100
    )
    bos: bool | None = option(None, "Begin prompts with the BOS token; default: the model's.")
    chat: bool = option(
        False,
        "Ask through the model's chat template: the prompt begins its turn.",
        flags=("--chat",),
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)
    corrupt: Corruption = option(
        Corruption.SUBJECT, "Corrupted prompts: another subject, or another relation."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shots and (self.corrupt == Corruption.RELATION or self.chat):
            raise OptionError(
                "`shots` show one relation in plain prompts: they go neither with `corrupt` "
                "relation nor with `chat`"
            )
        if not self.worded:
            return
        name = "`pairs`" if self.task is None else "`task`"
        if self.shots:
            raise OptionError(f"`shots` are for facts; the prompts of {name} are worded already")
        if self.relation or self.facts or (self.pairs and self.task):
            others = "" if self.task is None else ", `pairs`"
            raise OptionError(f"{name} cannot be combined with `relation`, `facts`{others}")
        if self.wordings:
            raise OptionError(f"`wordings` are for facts; the prompts of {name} are worded already")
        if self.corrupt != Corruption.SUBJECT:
            raise OptionError(f"`corrupt` is for facts; the prompts of {name} are worded already")

    def idle(self) -> tuple[Idle, ...]:
        """Templates where there are none to choose among, `known` where nobody asks."""
        found = []
        if self.worded:
            found.append(Idle("on prompt pairs, which are worded already", ("templates",)))
        elif self.known_only is False:
            best = ("templates",) if self.templates == Templates.BEST else ()
            found.append(Idle("where the model is not asked what it knows", ("known", *best)))
        if self.wordings:
            found.append(Idle("beside `wordings`", ("templates",)))
        return tuple(found)

    @property
    def worded(self) -> bool:
        """Whether it is pairs as they are, of a file or of a task, and no facts."""
        return self.pairs is not None or self.task is not None

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask."""
        return bool(self.relation or self.facts or self.worded)

    @property
    def name(self) -> str:
        """What the pairs are about, for titles and provenance."""
        return self.relation or self.facts or str(self.task or self.pairs)


@dataclass(frozen=True)
class Evaluating(Options):
    """How a stored circuit is measured; metric and ablation are its own unless given."""

    metric: Metric | None = option(None, "Default: what the circuit was found with.")
    ablation: Ablation | None = option(None, "Default: what the circuit was found with.")
    n_random: int = option(
        5, "Random circuits to compare with.", low=0, high=1000, flags=("--random",)
    )
    minimality: bool = option(
        False, "What is lost without each single edge; one run an edge.", flags=("--minimality",)
    )
    others: bool = option(
        False,
        "Ask only about subjects that had no part in finding the circuit; with tests always.",
        flags=("--others",),
    )
    tests: bool = option(
        False,
        "Test at a level of 5 %: as good as the model, nothing left outside, no idle edge, better "
        "than random circuits.",
        flags=("--tests",),
    )
    draws: int = option(100, "Random circuits and edges that the tests draw.", low=29, high=100_000)
    allow_mismatch: bool = option(
        False,
        "Evaluate with another tokenizer or BOS choice; recorded.",
        flags=("--allow-mismatch",),
    )
    batch_size: int = option(
        16, "Pairs a pass.", low=1, high=MOST_PAIRS, flags=("--batch-size", "-b")
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)

    def idle(self) -> tuple[Idle, ...]:
        """Draws without tests."""
        return () if self.tests else (Idle("without `tests`", ("draws",)),)


@dataclass(frozen=True)
class Batched(Options):
    """How many pairs are run at once."""

    batch_size: int = option(
        16, "Pairs a pass.", low=1, high=MOST_PAIRS, flags=("--batch-size", "-b")
    )


@dataclass(frozen=True)
class Tracing(Options):
    """How facts are traced; no `kinds` means all, no `window` a fifth of the layers."""

    kinds: tuple[TraceKind, ...] = option(
        (), "State to restore; repeatable, default all three.", flags=("--kind",)
    )
    window: int | None = option(
        None,
        "Layers restored together (mlp, attn); by default a fifth, as 10 of GPT-2 XL's 48.",
        low=1,
        high=10_000,
    )
    noise: float = option(3.0, "In standard deviations of the embeddings.", low=0.0, high=1e6)
    noise_unit: NoiseUnit = option(
        NoiseUnit.MATRIX, "Of the whole embedding matrix, or of the subjects' embeddings."
    )
    samples: int = option(10, "Draws of the noise.", low=1, high=100_000)
    batch_size: int = option(
        256,
        "Runs a pass: a state restored with a draw of the noise is one.",
        low=1,
        high=MOST_PAIRS,
        flags=("--batch-size", "-b"),
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)

    @property
    def pairs_a_pass(self) -> int:
        """Of facts that are asked before they are traced."""
        return min(16, self.batch_size)

    def asked(self, n_layers: int) -> dict[str, Any]:
        """The arguments of `locate.states`' functions, for a model of so many layers."""
        from locate.states.tracing import usual_window

        found = {**vars(self), "max_rows": self.batch_size}
        found |= {"kinds": self.kinds or tuple(TraceKind)}
        found |= {"window": self.window or usual_window(n_layers)}
        del found["batch_size"]
        return found

    def idle(self) -> tuple[Idle, ...]:
        """The window of states that are restored singly."""
        alone = self.kinds == (TraceKind.RESID,)
        return (Idle("on `kinds` resid, whose states are restored singly", ("window",)),) * alone


@dataclass(frozen=True)
class Wish(Options):
    """What is to be edited: one request, a file of them, or random ones of the atlas."""

    prompt: str | None = option(
        None, "A prompt with {} (or the subject) that the target ends.", flags=("--prompt", "-p")
    )
    subject: str | None = option(None, "The subject.", flags=("--subject", "-s"))
    target: str | None = option(
        None, "What the model is to say, no leading space.", flags=("--target", "-t")
    )
    ground_truth: str | None = option(None, "What it should have said before.")
    requests: str | None = option(
        None, "Edit requests: the project's JSONL, CounterFact, KnowEdit, zsRE or EasyEdit."
    )
    random: int | None = option(None, "So many random edits of the atlas.", low=1, high=100_000)
    relation: str | None = option(
        None, "A relation of the atlas (`kc facts`).", flags=("--relation", "-r")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        words = {"prompt": self.prompt, "subject": self.subject, "target": self.target}
        ways = [any(words.values()), self.requests is not None, self.random is not None]
        if sum(ways) != 1:
            raise OptionError(
                "say what to edit: `prompt`, `subject` and `target`, or `requests`, or `random`"
            )
        if self.relation is not None and self.requests is not None:
            raise OptionError(
                "`relation` goes with `prompt` or `random`; a file names its relations"
            )
        missing = [f"`{name}`" for name, value in words.items() if not value]
        if ways[0] and missing:
            raise OptionError(
                f"{' and '.join(missing)} missing: an edit needs `prompt`, `subject` and `target`"
            )

    def idle(self) -> tuple[Idle, ...]:
        """The true object of a request that names it itself."""
        return () if self.prompt else (Idle("without `prompt`", ("ground_truth",)),)


@dataclass(frozen=True)
class Editing(Options):
    """How edits are made: the method with its choices, and what each request is made on."""

    method: EditMethod = option(
        EditMethod.ROME, "How edits are made; or easyedit:NAME (with EASYEDIT_HOME)."
    )
    layers: str | None = option(
        None,
        "5, 3-5, auto (by causal tracing) or circuit (where the fact's circuit writes); default: "
        "the method's for the model.",
    )
    moments: str | None = option(
        None,
        "Second moments: a file of them (also .npz as published), a text to collect them from, or "
        "identity; default: the text that ships.",
    )
    hparams: Path | None = option(None, "YAML or JSON of an EasyEdit method's hyperparameters.")
    settings: Any = option(
        None,
        "Another hyperparameter than the method's, as value.clamp=3; repeatable.",
        flags=("--set",),
        metavar="NAME=VALUE",
    )
    cache: Path | None = option(None, "Where collected second moments are kept.")
    sequential: bool | None = option(
        None,
        "One edit after the other, or each by itself; default: all at once, ROME each.",
        flags=("--sequential/--each",),
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)

    def idle(self) -> tuple[Idle, ...]:
        """The cache of second moments that the method does not take."""
        takes = self.method.needs_moments or self.method.may_want_moments
        return () if takes else (Idle(f"with `method` {self.method}", ("cache",)),)


@dataclass(frozen=True)
class Judging(Options):
    """How edits are judged: what is measured beside success, locality and portability."""

    fluency: int = option(
        0, "Tokens of the text for fluency, prompt included; 0: none.", low=0, high=2000
    )
    text: Path | None = option(
        None, "Text to follow perplexity on; default: the text that ships for the model."
    )
    bos: bool | None = option(None, "Begin prompts with the BOS token; default: the model's.")
    batch_size: int = option(
        64, "Pairs a pass.", low=1, high=MOST_PAIRS, flags=("--batch-size", "-b")
    )
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)


@dataclass(frozen=True)
class Unlearning(Options):
    """How a set is unlearned."""

    method: UnlearnMethod = option(UnlearnMethod.GA_GD, "How the set is unlearned.")
    layers: str | None = option(
        None, "5 or 3-5: the layers that change; default: the method's for the model."
    )
    settings: Any = option(
        None,
        "Another hyperparameter than the method's, as learning_rate=1e-4; repeatable.",
        flags=("--set",),
        metavar="NAME=VALUE",
    )
    bos: bool | None = option(None, "Begin texts with the BOS token; default: the model's.")
    seed: int = option(0, "Seed of every random choice.", low=0, high=MOST_SEEDS)
