"""The options that commands share. Imports no torch: help must be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click
import typer

from circuits.base.choices import (
    Ablation,
    Corruption,
    ExportFormat,
    KeyValue,
    Metric,
    Open,
    Ranking,
    Rule,
    Selection,
    Templates,
    TraceKind,
    UnlearnMethod,
)
from circuits.base.errors import OptionError
from locate.edges.locators import Locator

MOST_SEEDS = 2**63 - 1


def refuse_unused(context: typer.Context, why: str, *names: str) -> None:
    """OptionError where one of these parameters was given: it would have no effect, for `why`."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = next(p.opts[0] for p in context.command.params if p.name == name)
            raise OptionError(f"{flag} has no effect {why}")


def _folder(text: str) -> Path:
    """A path; an empty one would be the working folder, and is more likely an unset variable."""
    if not text.strip():
        raise typer.BadParameter("the path is empty")
    return Path(text)


class _Known(click.Choice):  # type: ignore[type-arg]
    """The names of an open choice."""

    def __init__(self, kind: type[Open]) -> None:
        super().__init__([each.value for each in kind])
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return self.kind.of(super().convert(value, param, ctx))


# --- the model -----------------------------------------------------------------------------------

ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="Embedded model (`kc models`), hub name or local directory."
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Ask this model which of the facts it knows."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:N or mps; by default the best there is."),
]
Dtype = Annotated[str, typer.Option("--dtype", help="fp32 or bf16.")]
Bos = Annotated[
    bool | None,
    typer.Option("--bos/--no-bos", help="Begin prompts with the BOS token; default: the model's."),
]

# --- the examples --------------------------------------------------------------------------------

RelationName = Annotated[
    str | None,
    typer.Option("--relation", "-r", help="A relation of the atlas (`kc facts`), or of --facts."),
]
FactSource = Annotated[
    str | None,
    typer.Option(
        "--facts",
        help="Facts: JSON, JSONL or CSV file, directory or hub data set (LRE, CounterFact, "
        "known_1000, KnowEdit, or lines with subject, object, prompt).",
    ),
]
PairFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        help='JSONL with "clean", "corrupted", "answer", "foil" and optionally "subject", '
        '"relation".',
    ),
]
NPairs = Annotated[
    int | None,
    typer.Option("--n-pairs", min=1, max=1_000_000, help="At most so many pairs on each side."),
]
Split = Annotated[
    Templates,
    typer.Option("--split", help="Templates to ask in: the first three training ones, train, ..."),
]
Corrupt = Annotated[
    Corruption,
    typer.Option("--corrupt", help="Corrupted prompts: another subject, or another relation."),
]
Wordings = Annotated[
    list[str] | None,
    typer.Option("--template", help="Ask in this wording instead, {} for the subject; repeatable."),
]
HoldOut = Annotated[
    float | None,
    typer.Option(
        "--hold-out",
        min=0.0,
        max=0.99,
        help="Share of subjects kept for evaluation only; default 0.5, for --pairs 0.",
    ),
]
KnownOnly = Annotated[
    bool | None,
    typer.Option(
        "--known-only/--no-known-only",
        help="Leave out what the model does not know; default: yes, for --pairs no.",
    ),
]

# --- the search ----------------------------------------------------------------------------------

LocatorChoice = Annotated[
    Locator, typer.Option("--method", click_type=_Known(Locator), help="How edges get scores.")
]
Steps = Annotated[
    int, typer.Option("--steps", min=1, max=1000, help="Integration steps of EAP-IG.")
]
RuleChoice = Annotated[Rule, typer.Option("--rule", help="Where in each step EAP-IG looks.")]
MetricChoice = Annotated[
    Metric,
    typer.Option("--metric", click_type=_Known(Metric), help="What counts as recalling the fact."),
]
OptionalMetric = Annotated[
    Metric | None,
    typer.Option(
        "--metric", click_type=_Known(Metric), help="Default: what the circuit was found with."
    ),
]
AblationChoice = Annotated[Ablation, typer.Option("--ablation", help="What replaces a cut edge.")]
OptionalAblation = Annotated[
    Ablation | None, typer.Option("--ablation", help="Default: what the circuit was found with.")
]
Edges = Annotated[
    int | None,
    typer.Option(
        "--edges", "-n", min=1, help="Edges to select; default 200, at most a tenth of all."
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0.0, help="Select edges whose score is at least this (ACDC: tau)."
    ),
]
Select = Annotated[
    Selection,
    typer.Option(
        "--select", help="The best edges, or the best from the logits backwards (greedy)."
    ),
]
Rank = Annotated[
    Ranking,
    typer.Option("--rank", help="Rank edges by |score|, or by score (supporting ones first)."),
]
Kv = Annotated[
    KeyValue,
    typer.Option("--kv", help="One key and value input a key-value head, or one a query head."),
]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples", min=0, max=100_000, help="Resamples for inclusion frequencies; 0: off."
    ),
]
NRandom = Annotated[
    int, typer.Option("--random", min=0, max=1000, help="Random circuits to compare with.")
]
Minimality = Annotated[
    bool,
    typer.Option("--minimality", help="What is lost without each single edge; one run an edge."),
]
Curve = Annotated[
    bool, typer.Option("--curve/--no-curve", help="Faithfulness of ten sizes, with CPR and CMD.")
]
Roles = Annotated[
    bool, typer.Option("--roles/--no-roles", help="Label mover, relation and mixture heads.")
]
FullJson = Annotated[
    bool, typer.Option("--full-json", help="All edges in circuit.json, however many.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, max=1_000_000, help="Pairs a pass.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=MOST_SEEDS, help="Seed of every random choice.")
]
AllowMismatch = Annotated[
    bool,
    typer.Option(
        "--allow-mismatch", help="Evaluate with another tokenizer or BOS choice; recorded."
    ),
]

# --- one prompt ----------------------------------------------------------------------------------

Kinds = Annotated[
    list[TraceKind] | None,
    typer.Option("--kind", help="State to restore; repeatable, default all three."),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=1,
        max=10_000,
        help="Layers restored together (mlp, attn); by default a fifth, as 10 of GPT-2 XL's 48.",
    ),
]
Noise = Annotated[
    float,
    typer.Option("--noise", min=0.0, max=1e6, help="In standard deviations of the embedding."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, max=100_000, help="Draws of the noise.")]

# --- edits ---------------------------------------------------------------------------------------

EditMethodName = Annotated[
    str,
    typer.Option(
        "--method",
        help="rome, rome-original, memit, alphaedit, ft, ft-l, dinm, dinm-easyedit or "
        "easyedit:NAME (with EASYEDIT_HOME).",
    ),
]
EditPrompt = Annotated[
    str | None,
    typer.Option("--prompt", "-p", help="A prompt with {} (or the subject) that the target ends."),
]
EditSubject = Annotated[str | None, typer.Option("--subject", "-s", help="The subject.")]
EditTarget = Annotated[
    str | None, typer.Option("--target", "-t", help="What the model is to say, no leading space.")
]
GroundTruth = Annotated[
    str | None, typer.Option("--ground-truth", help="What it should have said before.")
]
RequestsFile = Annotated[
    str | None,
    typer.Option(
        "--requests",
        help="Edit requests: the project's JSONL, CounterFact, KnowEdit, zsRE or EasyEdit.",
    ),
]
RandomEdits = Annotated[
    int | None,
    typer.Option("--random", min=1, max=100_000, help="So many random edits of the atlas."),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers", help="5, 3-5 or auto (by causal tracing); default: the method's for the model."
    ),
]
MomentsSource = Annotated[
    str | None,
    typer.Option(
        "--moments",
        help="Second moments: a file of them, a text to collect them from, or identity; default: "
        "the atlas's sentences, for embedded models.",
    ),
]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Where collected second moments are kept.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another hyperparameter than the method's, as value.clamp=3; repeatable.",
    ),
]
EasyEditFile = Annotated[
    Path | None, typer.Option("--hparams", help="YAML of an EasyEdit method's hyperparameters.")
]
Sequential = Annotated[
    bool | None,
    typer.Option(
        "--sequential/--each",
        help="One edit after the other, or each by itself; default: all at once, ROME each.",
    ),
]
FluencyTokens = Annotated[
    int,
    typer.Option("--fluency", min=0, max=2000, help="Tokens to sample for fluency; 0: none."),
]
DriftText = Annotated[
    Path | None,
    typer.Option("--text", help="Text to follow perplexity on; default: the atlas's sentences."),
]
SaveModel = Annotated[
    Path | None,
    typer.Option(
        "--save-model",
        metavar="PATH",
        parser=_folder,
        help="Folder for the edited model, as transformers loads it.",
    ),
]
UnlearnName = Annotated[UnlearnMethod, typer.Option("--method", help="How the set is unlearned.")]
ForgetFile = Annotated[
    Path, typer.Option("--forget", help="JSONL or JSON: text, or prompt and answer.")
]
RetainFile = Annotated[Path, typer.Option("--retain", help="The same, of what is to stay.")]
HeldOutFile = Annotated[
    Path | None,
    typer.Option("--held-out", help="The same, of what should stay too but is only scored."),
]
BeforeCircuit = Annotated[
    Path | None, typer.Option("--before", help="A stored circuit of the model before.")
]
AfterCircuit = Annotated[Path | None, typer.Option("--after", help="A stored circuit after.")]
ComparedModel = Annotated[
    str | None, typer.Option("--model", "-m", help="The model that --edit changes.")
]
EditFile = Annotated[
    Path | None, typer.Option("--edit", help="An edit.kc.safetensors, to compare the model with.")
]
Draws = Annotated[
    int,
    typer.Option(
        "--draws", min=0, max=1000, help="Random edge sets in the causal check; 0: no check."
    ),
]

# --- files and printing --------------------------------------------------------------------------

CircuitFile = Annotated[Path, typer.Argument(help="A .kc.safetensors or EAP-IG .json file.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="PATH", parser=_folder, help="Folder for the results."),
]
OutFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="PATH", parser=_folder, help="File to write.")
]
Format = Annotated[ExportFormat, typer.Option("--to", help="Format to write.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")
]
