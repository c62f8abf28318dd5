"""`kc edit`, `kc unlearn` and `kc compare`: edits made, judged and looked into."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from circuits.base.choices import Sign
from circuits.base.errors import OptionError, StoreError
from circuits.base.idle import Given
from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Starts
from locate.idle import EDIT_OF_A_MODEL, EDITED_FACTS, STORED_CIRCUITS
from locate.options import Editing, Judging, Loading, Source, Unlearning, Wish
from locate.search import Search

if TYPE_CHECKING:
    from circuits.edits.edit import EditRequest, WeightDelta
    from circuits.model.model import Model
    from locate.compare import BothSides
    from locate.looks.look import Look

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
OtherWeights = Annotated[
    bool,
    typer.Option("--allow-mismatch", help="An edit that was made for other weights; recorded."),
]
Draws = Annotated[
    int,
    typer.Option(
        "--draws", min=0, max=1000, help="Random edge sets in the causal check; 0: no check."
    ),
]


def edit(
    *,
    model: o.ModelName,
    wish: Wish,
    editing: Editing,
    judging: Judging,
    loading: Loading,
    out: o.Out = None,
    save_model: o.SaveModel = None,
    as_json: o.AsJson = False,
) -> None:
    """Edit facts, and measure whether the edit worked and what it cost."""
    console = Console(as_json)
    with console.working():
        from circuits.edits.judge.counterfactuals import atlas_requests
        from circuits.edits.parts.corpus import read_corpus
        from locate.edit import Mode, mode_for, worst
        from locate.edited import checked_method, edit_facts
        from locate.looks.edits import edit_look, owned_in

        method = checked_method(editing)
        if judging.text is not None:
            read_corpus(judging.text)
        asked = _requests(wish)
        _check_other(save_model, model)
        o.check_files(None, save_model, inputs=[wish.requests])
        o.check_files(None, out, inputs=[wish.requests], names=owned_in(out))
        loaded = o.asked_model(console, model, loading, judging.bos)
        if wish.random is not None:
            names = None if wish.relation is None else [wish.relation]
            asked = atlas_requests(wish.random, editing.seed, names, loaded.tokenizer)
        each = mode_for(method, len(asked), editing.sequential) == Mode.EACH
        if save_model is not None and each and len(asked) > 1:
            raise OptionError("`save_model` writes one model: use it with `sequential`")
        edited = edit_facts(loaded, asked, editing, judging, console.stage)
        look = edit_look(edited)
    _finish(console, look, out, owned_in(out))
    if save_model is not None and edited.delta is not None:
        _fill_in_model(edited.delta, loaded, save_model)
    if (error := worst(edited.run)) is not None:
        raise error


def unlearn(
    *,
    model: o.ModelName,
    forget: ForgetFile,
    retain: RetainFile,
    held_out: HeldOutFile = None,
    unlearning: Unlearning,
    loading: Loading,
    out: o.Out = None,
    save_model: o.SaveModel = None,
    as_json: o.AsJson = False,
) -> None:
    """Unlearn a set of texts or facts while keeping another."""
    console = Console(as_json)
    with console.working():
        from circuits.base.choices import EditStatus
        from circuits.base.errors import NumericalError
        from circuits.edits.judge.success import norm_growth
        from circuits.edits.methods.unlearn import unlearn as forget_set
        from circuits.edits.parts.examples import read_examples
        from locate.edit import named_layers
        from locate.looks.edits import owned_in, unlearn_look

        chosen = named_layers(unlearning.layers)
        sets = read_examples(forget), read_examples(retain)
        kept = read_examples(held_out) if held_out is not None else ()
        _check_other(save_model, model)
        o.check_files(None, save_model, inputs=[forget, retain, held_out])
        names = owned_in(out)
        o.check_files(None, out, inputs=[forget, retain, held_out], names=names)
        loaded = o.asked_model(console, model, loading, unlearning.bos)
        with console.stage("unlearning") as progress:
            outcome = forget_set(
                loaded,
                *sets,
                unlearning.method,
                layers=chosen,
                settings=unlearning.settings or {},
                bos=unlearning.bos,
                held_out=kept,
                seed=unlearning.seed,
                progress=progress,
            )
        growth = norm_growth(loaded, outcome.delta) if outcome.delta is not None else {}
        look = unlearn_look(outcome, loaded.name, unlearning.seed, growth)
    _finish(console, look, out, owned_in(out))
    if save_model is not None and outcome.delta is not None:
        _fill_in_model(outcome.delta, loaded, save_model)
    if outcome.status == EditStatus.DIVERGED:
        raise NumericalError(f"diverged: {outcome.reason}; the weights are as they were")


def compare(
    *,
    given: Given,
    before: BeforeCircuit = None,
    after: AfterCircuit = None,
    model: ComparedModel = None,
    edit: EditFile = None,
    source: Annotated[
        Source, Fixed("facts", "pairs", "task", "wordings", "known_only", "corrupt", hold_out=0.0)
    ],
    search: Annotated[
        Search,
        Fixed("rule", "ablation", "threshold", "faithfulness", "n_random", "curve", "spans"),
        Starts(roles=True),
    ],
    draws: Draws = 20,
    sign: o.SignOfScores = Sign.UNKNOWN,
    allow_mismatch: OtherWeights = False,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare two stored circuits, or a model's circuit before and after an edit.

    With --relation the pairs ask for that relation; without, for the facts that were edited.
    """
    console = Console(as_json)
    files, edited = (before, after), (model, edit)
    if any(files) == any(edited) or not (all(files) or all(edited)):
        raise OptionError("give `before` and `after` circuits, or `model` and `edit`")
    if all(files):
        given.refuse(STORED_CIRCUITS)
    else:
        given.refuse(EDIT_OF_A_MODEL, *([EDITED_FACTS] if source.relation is None else []))
    with console.working():
        from locate.looks import comparing

        o.check_files(None, out, inputs=[before, after, edit], names=comparing.FILES)
        if before is not None and after is not None:
            from circuits.files.reading import both_signed
            from circuits.graph.comparison import Comparison

            first, second = both_signed((before, after), sign)
            both = Comparison(first, second)
            look = comparing.circuits_look(both, (before, after))
        else:
            from circuits.edits.edit import WeightDelta
            from circuits.facts.facts import relation as known_relation
            from locate.compare import compare_edit

            delta = WeightDelta.load(str(edit))
            if source.relation is not None:
                known_relation(source.relation)
            loaded = o.load_model(console, str(model), loading)
            delta = delta.fitted_to(loaded, allow_mismatch)
            with console.stage("pairs"):
                asked = _sides(loaded, delta, source, search.batch_size)
            o.note_bos(console, asked.before[0].clean.bos)
            with console.stage("circuits") as progress:
                found = compare_edit(loaded, delta, asked, search, draws, progress)
            look = comparing.edit_look(found)
    _finish(console, look, out, comparing.FILES)


def _sides(model: Model, delta: WeightDelta, source: Source, batch_size: int) -> BothSides:
    from locate.compare import PARTNERS, about_a_relation, about_the_edit
    from locate.examples import collect

    if source.relation is None:
        return about_the_edit(model, delta, source.n_pairs or PARTNERS, source.seed)
    return about_a_relation(collect(model, o.limited(source), batch_size))


def _requests(wish: Wish) -> list[EditRequest]:
    """What was asked for; empty for random requests, which need the model."""
    from circuits.edits.edit import EditRequest
    from circuits.edits.requests import read_requests, slotted
    from circuits.facts.facts import relation as known_relation

    if wish.relation is not None:
        known_relation(wish.relation)
    if wish.requests is not None:
        return list(read_requests(wish.requests).requests)
    if wish.random is not None:
        return []
    prompt, subject, target = str(wish.prompt), str(wish.subject), str(wish.target)
    template = slotted(prompt, subject)
    return [EditRequest(template, subject, target, wish.ground_truth, wish.relation)]


def _check_other(folder: Path | None, model: str) -> None:
    """Refuse to write an edited model over the one that it is made from."""
    if folder is not None and folder.exists() and folder.resolve() == Path(model).resolve():
        raise OptionError(f"`save_model` {folder} is the model's own directory; name another")


def _fill_in_model(delta: WeightDelta, model: Model, folder: Path) -> None:
    """The edited model as a Hugging Face directory."""
    from safetensors import SafetensorError

    from circuits.base.origin import staged

    with delta.applied(model), staged(folder) as stage:
        try:
            model.save_pretrained(stage)
        except SafetensorError as error:  # a full disk
            raise StoreError(f"--save-model {folder} cannot be written: {error}") from None


def _finish(console: Console, look: Look, out: Path | None, owned: tuple[str, ...]) -> None:
    """Write, then show."""
    paths = look.write(out, owned)
    console.show(look, paths)
