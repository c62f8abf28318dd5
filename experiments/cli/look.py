"""`kc trace`, `kc lens` and `kc roles`: looking into a model, one prompt or one relation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from circuits.base.choices import Ablation
from circuits.base.errors import OptionError
from circuits.base.idle import Given
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Like
from locate.idle import LENS_OF_A_PROMPT, PATCHED_TRACE, TRACE_OF_A_PROMPT
from locate.options import Loading, Source, Tracing
from locate.search import Search

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

        o.check_files(source if source.asks else None, out, names=looks.FILES)
        loaded = o.asked_model(console, model, loading, source.bos)
        options = tracing.asked(loaded.n_layers)
        if source.asks:
            asked = o.limited(source)
            examples = o.pairs_of(console, loaded, asked, tracing.pairs_a_pass)
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
        loaded = o.asked_model(console, model, loading, source.bos)
        if source.asks:
            examples = o.pairs_of(console, loaded, o.limited(source), batch_size)
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
        from locate.heads.role_report import RoleReport
        from locate.looks import roles as looks
        from locate.roles import roles_of

        stored = None if circuit is None else read_circuit(circuit)
        o.check_files(source, out, names=looks.FILES)
        loaded = o.load_model(console, model, loading)
        if stored is not None and circuit is not None:
            stored, bos = looked_into(stored, loaded, circuit, source.bos)
            source = replace(source, bos=bos)
        o.note_bos(console, loaded.tokenizer.use_bos(source.bos))
        examples = o.pairs_of(console, loaded, o.limited(source), batch_size)
        with console.stage("roles"):
            found = roles_of(
                loaded,
                examples,
                stored,
                ablation,
                batch_size=batch_size,
                seed=source.seed,
                given=given,
            )
            shown = None
            if isinstance(found, RoleReport):
                shown = looks.on_prompts(loaded, found, examples.pairs)
        look = looks.roles(found, shown)
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
