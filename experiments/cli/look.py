"""`kc trace`, `kc lens` and `kc roles`: looking into a model, one prompt or one relation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.base.choices import Ablation, TraceKind
from circuits.base.errors import OptionError
from circuits.base.idle import Given
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Like
from locate.idle import LENS_OF_A_PROMPT, PATCHED_TRACE, ROLES_BY_SPAN, TRACE_OF_A_PROMPT
from locate.options import Loading, Source, Tracing
from locate.search import Search

if TYPE_CHECKING:
    from circuits.model.model import Model
    from locate.states.trace_result import Trace

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
KnownFacts = Annotated[Source, Fixed("corrupt", hold_out=0.0, known_only=True)]
AnyFacts = Annotated[Source, Fixed("corrupt", "known_only", hold_out=0.0)]
"""All facts on one side, as nothing is fitted; of a pair file all lines by default."""


def trace(
    *,
    given: Given,
    prompt: Prompt = None,
    model: o.ModelName,
    subject: Subject = None,
    answer: Answer = None,
    source: KnownFacts,
    tracing: Tracing,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Causal tracing of a PROMPT, or (with --relation, --facts, --pairs) of known facts' average.

    Which state, restored, brings the answer back after the subject's noise.
    """
    console = Console(as_json)
    words = {"answer": answer, "subject": subject}
    _check_question(prompt, words, source, ("subject", "answer"))
    if prompt is not None:
        given.refuse(TRACE_OF_A_PROMPT)
    with console.working():
        from locate.looks import trace as looks
        from locate.looks.look import about
        from locate.states.trace_average import trace_facts
        from locate.states.tracing import trace as trace_prompt
        from locate.states.tracing import usual_window

        o.check_files(source if source.asks else None, out, names=looks.FILES)
        loaded = o.load_model(console, model, loading)
        window = tracing.window or usual_window(loaded.n_layers)
        kinds = tracing.kinds or tuple(TraceKind)
        options: dict[str, Any] = vars(replace(tracing, kinds=kinds, window=window))
        if source.asks:
            examples = o.pairs_of(console, loaded, o.limited(source))
            console.warn(*examples.notes)
            if examples.pairs[0].subject is None:
                given.refuse(PATCHED_TRACE)
            with console.stage("traces") as progress:
                average = trace_facts(loaded, examples.pairs, progress=progress, **options)
            look = looks.average_trace(about(average, examples))
        else:
            with console.stage("trace"):
                found = trace_prompt(
                    loaded, str(prompt), str(subject), str(answer), bos=source.bos, **options
                )
            look = looks.prompt_trace(found)
            _warn_of_another_answer(console, loaded, found)
        paths = look.write(out, looks.FILES)
    console.show(look, paths)


def lens(
    *,
    given: Given,
    prompt: Prompt = None,
    model: o.ModelName,
    answer: Answer = None,
    subject: Subject = None,
    foil: Foil = None,
    source: AnyFacts,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Logit lens of a PROMPT, or (with --relation, --facts, --pairs) its average over facts.

    Facts get direct logit attribution as well: what each head and MLP adds to the answer.
    """
    console = Console(as_json)
    words = {"answer": answer, "foil": foil, "subject": subject}
    _check_question(prompt, words, source, ("answer",))
    if prompt is not None:
        given.refuse(LENS_OF_A_PROMPT)
    with console.working():
        from locate.looks import lens as looks
        from locate.looks.look import about
        from locate.states.attribution import direct_logit_attribution
        from locate.states.lens import lens_on_prompt
        from locate.states.lens_average import average_lens

        o.check_files(source if source.asks else None, out, names=looks.FILES)
        loaded = o.load_model(console, model, loading)
        if source.asks:
            examples = o.pairs_of(console, loaded, o.limited(source), batch_size)
            console.warn(*examples.notes)
            with console.stage("lens"):
                average = average_lens(loaded, examples.pairs, batch_size=batch_size)
            with console.stage("attribution"):
                attribution = direct_logit_attribution(loaded, examples.pairs, batch_size)
            look = looks.average_lens(about(average, examples), about(attribution, examples))
        else:
            with console.stage("lens"):
                look = looks.prompt_lens(lens_on_prompt(loaded, str(prompt), words, source.bos))
        paths = look.write(out, looks.FILES)
    console.show(look, paths)


def roles(
    *,
    given: Given,
    model: o.ModelName,
    source: Annotated[Source, Fixed("corrupt", hold_out=0.0)],
    circuit: Circuit = None,
    ablation: Annotated[Ablation, Like(Search, "ablation")] = Ablation.ZERO,
    batch_size: Annotated[int, Like(Search, "batch_size")] = 16,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Mover, relation and mixture heads: what each attends to and writes, checked by ablation.

    Of pairs without a subject, heads by the spans that the pairs name.
    """
    console = Console(as_json)
    with console.working():
        from circuits.files.reading import read_circuit
        from locate.evaluate import looked_into
        from locate.heads.roles import head_roles
        from locate.heads.span_roles import span_roles
        from locate.looks import roles as looks
        from locate.looks.look import about

        stored = None if circuit is None else read_circuit(circuit)
        o.check_files(source, out, names=looks.FILES)
        loaded = o.load_model(console, model, loading)
        if stored is not None and circuit is not None:
            stored, bos = looked_into(stored, loaded, circuit, source.bos)
            source = replace(source, bos=bos)
        examples = o.pairs_of(console, loaded, o.limited(source), batch_size)
        console.warn(*examples.notes)
        with console.stage("roles"):
            if all(pair.subject is None for pair in examples.pairs):
                given.refuse(ROLES_BY_SPAN)
                by_span = span_roles(
                    loaded, examples.pairs, batch_size=batch_size, seed=source.seed
                )
                look = looks.roles_by_span(about(by_span, examples))
            else:
                report = head_roles(
                    loaded,
                    examples.pairs,
                    circuit=stored,
                    ablation=ablation,
                    batch_size=batch_size,
                    seed=source.seed,
                )
                shown = looks.on_prompts(loaded, report, examples.pairs)
                look = looks.roles(about(report, examples), shown)
        paths = look.write(out, looks.FILES)
    console.show(look, paths)


def _check_question(
    prompt: str | None,
    words: dict[str, str | None],
    source: Source,
    needed: tuple[str, ...],
) -> None:
    """A PROMPT with its words, or facts from somewhere; OptionError for both and for neither."""
    facts = "`relation`, `facts`"
    wanted = " and ".join(f"`{name}`" for name in needed)
    if prompt is not None:
        if source.asks:
            raise OptionError(f"a PROMPT cannot be combined with {facts} or `pairs`")
        if any(words[name] is None for name in needed):
            raise OptionError(f"a PROMPT needs {wanted}")
        return
    if not source.asks:
        raise OptionError(f"give a PROMPT with {wanted}, or one of {facts}, `pairs`")
    for name, word in words.items():
        if word is not None:
            raise OptionError(f"`{name}` goes with a PROMPT, not with {facts}, `pairs`")


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
