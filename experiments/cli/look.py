"""`kc trace`, `kc lens` and `kc roles`: looking into a model, one prompt or one relation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.choices import Ablation, Templates
from circuits.base.errors import OptionError
from experiments.cli import options as o
from experiments.cli.console import Console

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.examples import Examples, Source
    from locate.states.tracing import Trace

Prompt = Annotated[
    str | None, typer.Argument(help="A prompt that the answer continues.", metavar="PROMPT")
]
Subject = Annotated[
    str | None, typer.Option("--subject", "-s", help="The subject, as in the prompt.")
]
Answer = Annotated[
    str | None, typer.Option("--answer", "-a", help="The answer, without leading space.")
]
Foil = Annotated[str | None, typer.Option("--foil", help="A wrong answer to follow as well.")]
Circuit = Annotated[
    Path | None, typer.Option("--circuit", help="Label the heads of this stored circuit only.")
]


USUAL_FACTS = 32
"""Facts looked at where --n-pairs is not given."""
ABOUT_FACTS = ("n_pairs", "split")
"""Options that choose among facts."""


def trace(
    context: typer.Context,
    model: o.ModelName,
    prompt: Prompt = None,
    subject: Subject = None,
    answer: Answer = None,
    relation: o.RelationName = None,
    facts: o.FactSource = None,
    pairs: o.PairFile = None,
    n_pairs: o.NPairs = None,
    split: o.Split = Templates.FIRST,
    kind: o.Kinds = None,
    window: o.Window = None,
    noise: o.Noise = 3.0,
    samples: o.Samples = 10,
    bos: o.Bos = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Causal tracing of a PROMPT, or (with --relation, --facts, --pairs) of known facts' average.

    Which state, restored, brings the answer back after the subject's noise.
    """
    console = Console(as_json)
    _check_question(prompt, {"--answer": answer, "--subject": subject}, relation, facts, pairs)
    if prompt is not None:
        o.refuse_unused(context, "on a single PROMPT", *ABOUT_FACTS)
    with console.working():
        from circuits.base.choices import TraceKind
        from experiments.cli import look_trace
        from locate.states.trace_average import trace_facts
        from locate.states.tracing import trace as trace_prompt
        from locate.states.tracing import usual_window

        source = None
        if prompt is None:
            source = _source(relation, facts, pairs, split, n_pairs, True, bos, seed)
        _check_files(source, out)
        loaded = _load(console, model, device, dtype)
        options: dict[str, Any] = {
            "kinds": tuple(kind or TraceKind),
            "window": window or usual_window(loaded.n_layers),
            "noise": noise,
            "samples": samples,
            "seed": seed,
        }
        if source is None:
            with console.stage("trace"):
                found = trace_prompt(
                    loaded, str(prompt), str(subject), str(answer), bos=bos, **options
                )
            look = look_trace.prompt_trace(found)
            _warn_of_another_answer(console, loaded, found)
        else:
            examples = _collect(console, loaded, source)
            with console.stage("traces") as progress:
                average = trace_facts(loaded, examples.pairs, progress=progress, **options)
            look = look_trace.average_trace(average, examples)
        paths = look.write(out, look_trace.FILES)
    look.show(console, paths)


def lens(
    context: typer.Context,
    model: o.ModelName,
    prompt: Prompt = None,
    answer: Answer = None,
    subject: Subject = None,
    foil: Foil = None,
    relation: o.RelationName = None,
    facts: o.FactSource = None,
    pairs: o.PairFile = None,
    n_pairs: o.NPairs = None,
    split: o.Split = Templates.FIRST,
    bos: o.Bos = None,
    batch_size: o.BatchSize = 16,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Logit lens of a PROMPT, or (with --relation, --facts, --pairs) its average over facts.

    Facts get direct logit attribution as well: what each head and MLP adds to the answer.
    """
    console = Console(as_json)
    words = {"--answer": answer, "--subject": subject, "--foil": foil}
    _check_question(prompt, words, relation, facts, pairs, needed=("--answer",))
    if prompt is not None:
        o.refuse_unused(context, "on a single PROMPT", *ABOUT_FACTS)
    with console.working():
        from experiments.cli import look_lens
        from locate.states.lens import direct_logit_attribution
        from locate.states.lens_average import average_lens

        source = None
        if prompt is None:
            source = _source(relation, facts, pairs, split, n_pairs, None, bos, seed)
        _check_files(source, out)
        loaded = _load(console, model, device, dtype)
        if source is None:
            followed = {"answer": answer, "foil": foil, "subject": subject}
            with console.stage("lens"):
                look = look_lens.prompt_lens(loaded, str(prompt), followed, bos)
        else:
            examples = _collect(console, loaded, source, batch_size)
            with console.stage("lens"):
                average = average_lens(loaded, examples.pairs, batch_size=batch_size)
            with console.stage("attribution"):
                attribution = direct_logit_attribution(loaded, examples.pairs, batch_size)
            look = look_lens.relation_lens(average, attribution, examples)
        paths = look.write(out, look_lens.FILES)
    look.show(console, paths)


def roles(
    model: o.ModelName,
    relation: o.RelationName = None,
    facts: o.FactSource = None,
    pairs: o.PairFile = None,
    circuit: Circuit = None,
    ablation: o.AblationChoice = Ablation.ZERO,
    n_pairs: o.NPairs = None,
    split: o.Split = Templates.FIRST,
    known_only: o.KnownOnly = None,
    bos: o.Bos = None,
    batch_size: o.BatchSize = 16,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Mover, relation and mixture heads: what each attends to and writes, checked by ablation."""
    console = Console(as_json)
    with console.working():
        from experiments.cli import look_roles
        from locate.evaluate import fitted, read_circuit
        from locate.heads.roles import head_roles

        source = _source(relation, facts, pairs, split, n_pairs, known_only, bos, seed)
        stored = None if circuit is None else read_circuit(circuit)
        _check_files(source, out)
        loaded = _load(console, model, device, dtype)
        if stored is not None and circuit is not None:
            stored = fitted(stored, loaded, circuit)
        examples = _collect(console, loaded, source, batch_size)
        with console.stage("roles"):
            report = head_roles(
                loaded,
                examples.pairs,
                circuit=stored,
                ablation=ablation,
                batch_size=batch_size,
                seed=seed,
            )
        look = look_roles.roles(report, examples, look_roles.on_prompts(loaded, report, examples))
        paths = look.write(out, look_roles.FILES)
    look.show(console, paths)


def _check_question(
    prompt: str | None,
    words: dict[str, str | None],
    relation: str | None,
    facts: str | None,
    pairs: Path | None,
    needed: tuple[str, ...] = ("--subject", "--answer"),
) -> None:
    """A PROMPT with its words, or facts from somewhere; OptionError for both and for neither."""
    asked = relation is not None or facts is not None or pairs is not None
    if prompt is not None and asked:
        raise OptionError("a PROMPT cannot be combined with --relation, --facts or --pairs")
    wanted = " and ".join(needed)
    if prompt is None and not asked:
        raise OptionError(f"give a PROMPT with {wanted}, or one of --relation, --facts, --pairs")
    given = [name for name, word in words.items() if word is not None]
    if prompt is None and given:
        raise OptionError(f"{given[0]} goes with a PROMPT, not with --relation, --facts, --pairs")
    if prompt is not None and any(words[name] is None for name in needed):
        raise OptionError(f"a PROMPT needs {wanted}")


def _source(
    relation: str | None,
    facts: str | None,
    pairs: Path | None,
    split: Templates,
    n_pairs: int | None,
    known_only: bool | None,
    bos: bool | None,
    seed: int,
) -> Source:
    """All facts on one side, as nothing is fitted; of a pair file all lines by default."""
    from locate.examples import Source

    return Source(
        relation,
        facts,
        pairs,
        split,
        limit=USUAL_FACTS if n_pairs is None and pairs is None else n_pairs,
        hold_out=0.0,
        known_only=known_only,
        bos=bos,
        seed=seed,
    )


def _warn_of_another_answer(console: Console, model: Model, found: Trace) -> None:
    """A word where the traced answer is not what the model says: its effects are no recall."""
    import torch

    prompt = model.tokenizer.encode(found.prompt, found.provenance["bos"])
    with torch.no_grad():
        logits = model.last_logits(torch.tensor([prompt.ids], device=model.device))
    said = int(logits.argmax())
    if said != found.answer_token:
        token = model.tokenizer.token_string(said)
        console.warn(
            f"{model.name!r} does not answer {found.answer!r} here (p {found.p_clean:.4f}) but "
            f"{token!r}; what is traced is no recall"
        )


def _check_files(source: Source | None, out: Path | None) -> None:
    """Find mistakes in files and folders before a model is loaded."""
    from circuits.base.origin import check_writable
    from locate.examples import check_readable

    if out is not None:
        check_writable(out, [source.facts, source.pairs] if source is not None else [])
    if source is not None:
        check_readable(source)


def _collect(console: Console, model: Model, source: Source, batch_size: int = 16) -> Examples:
    from locate.examples import collect

    with console.stage("facts"):
        examples = collect(model, source, batch_size)
    for note in examples.notes:
        console.warn(note)
    return examples


def _load(console: Console, name: str, device: str | None, dtype: str) -> Model:
    from circuits.model.model import load

    with console.stage("model"):
        return load(name, device=device, dtype=dtype)
