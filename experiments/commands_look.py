"""`kc trace`, `kc lens` and `kc roles`: looking into a model, one prompt or one relation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.choices import Ablation, Templates
from circuits.errors import OptionError
from experiments import options as o
from experiments.console import Console

if TYPE_CHECKING:
    import numpy as np

    from circuits.model import Model
    from locate.lens import LensResult, LogitAttribution
    from locate.roles import RoleReport
    from locate.tracing import Trace

Prompt = Annotated[
    str, typer.Argument(help="A prompt that the answer continues.", metavar="PROMPT")
]
OptionalPrompt = Annotated[
    str | None, typer.Argument(help="A prompt that the answer continues.", metavar="[PROMPT]")
]
Subject = Annotated[str, typer.Option("--subject", "-s", help="The subject, as in the prompt.")]
OptionalSubject = Annotated[
    str | None, typer.Option("--subject", "-s", help="The subject, as in the prompt.")
]
Answer = Annotated[str, typer.Option("--answer", "-a", help="The answer, without leading space.")]
OptionalAnswer = Annotated[
    str | None, typer.Option("--answer", "-a", help="The answer, without leading space.")
]
Foil = Annotated[str | None, typer.Option("--foil", help="A wrong answer to follow as well.")]
Circuit = Annotated[
    Path | None, typer.Option("--circuit", help="Label the heads of this stored circuit only.")
]


def trace(
    prompt: Prompt,
    model: o.ModelName,
    subject: Subject,
    answer: Answer,
    kind: o.Kinds = None,
    window: o.Window = 10,
    noise: o.Noise = 3.0,
    samples: o.Samples = 10,
    bos: o.Bos = None,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Causal tracing: which state, restored, brings the answer back after the subject's noise."""
    console = Console(as_json)
    with console.working():
        from circuits.choices import TraceKind
        from experiments.output import check_writable
        from locate.tracing import trace as run

        if out is not None:
            check_writable(out)
        loaded = _load(console, model, device, dtype)
        with console.stage("trace"):
            found = run(
                loaded,
                prompt,
                subject,
                answer,
                kinds=tuple(kind or TraceKind),
                window=window,
                noise=noise,
                samples=samples,
                seed=seed,
                bos=bos,
            )
        summary = _trace_summary(found)
        files = _write(out, _trace_files(found, summary))
    console.say(f"p clean {found.p_clean:.4f}, p corrupted {found.p_corrupted:.4f}")
    console.say("\nlargest indirect effects:")
    rows = sorted(found.rows(), key=lambda row: -row["effect"])[:10]
    console.table(
        ("kind", "layer", "token", "effect", "standard error"),
        [(r["kind"], str(r["layer"]), r["token"], f"{r['effect']:.4f}", _error(r)) for r in rows],
    )
    _finish(console, summary, files)


def lens(
    model: o.ModelName,
    prompt: OptionalPrompt = None,
    answer: OptionalAnswer = None,
    subject: OptionalSubject = None,
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
    """Logit lens of a PROMPT, or (with --relation, --facts, --pairs) direct logit attribution."""
    console = Console(as_json)
    if (prompt is None) is (relation is None and facts is None and pairs is None):
        raise OptionError("give a PROMPT with --answer, or one of --relation, --facts, --pairs")
    if prompt is not None and answer is None:
        raise OptionError("a PROMPT needs --answer: the token to follow through the layers")
    with console.working():
        from experiments.examples import Source, check_readable, collect
        from experiments.output import check_writable

        if out is not None:
            check_writable(out)
        if prompt is not None:
            loaded = _load(console, model, device, dtype)
            _lens_of_prompt(console, loaded, prompt, str(answer), subject, foil, bos, out)
            return
        limit = 32 if n_pairs is None and pairs is None else n_pairs
        source = Source(
            relation, facts, pairs, split, limit=limit, hold_out=0.0, bos=bos, seed=seed
        )
        check_readable(source)
        loaded = _load(console, model, device, dtype)
        with console.stage("facts"):
            examples = collect(loaded, source, batch_size)
        with console.stage("attribution"):
            from locate.lens import direct_logit_attribution

            found = direct_logit_attribution(loaded, examples.pairs, batch_size)
        summary = _attribution_summary(found, examples.name)
        arrays = {
            "contributions": found.contributions,
            "constant": found.constant,
            "logit_difference": found.logit_difference,
        }
        files = _write(out, {"attribution.kc.safetensors": ("attribution", arrays, summary)})
    console.say(f"mean logit difference {summary['logit_difference']:.3f}, largest contributions:")
    console.table(
        ("source", "contribution"),
        [(row["source"], f"{row['contribution']:.3f}") for row in found.rows()[:12]],
    )
    _finish(console, summary, files)


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
        from experiments.evaluation import fitted, read_circuit
        from experiments.examples import Source, check_readable, collect
        from experiments.output import check_writable
        from locate.roles import head_roles

        limit = 32 if n_pairs is None and pairs is None else n_pairs
        source = Source(
            relation,
            facts,
            pairs,
            split,
            limit=limit,
            hold_out=0.0,
            known_only=known_only,
            bos=bos,
            seed=seed,
        )
        stored = None if circuit is None else read_circuit(circuit)
        if out is not None:
            check_writable(out)
        check_readable(source)
        loaded = _load(console, model, device, dtype)
        if stored is not None and circuit is not None:
            stored = fitted(stored, loaded, circuit)
        with console.stage("facts"):
            examples = collect(loaded, source, batch_size)
        with console.stage("roles"):
            report = head_roles(
                loaded,
                examples.pairs,
                circuit=stored,
                ablation=ablation,
                batch_size=batch_size,
                seed=seed,
            )
        summary = {
            "model": loaded.name,
            "relation": examples.name,
            "pairs": len(examples.pairs),
            **report.as_dict(),
        }
        arrays = report.arrays()
        files = _write(out, {"roles.kc.safetensors": ("roles", arrays, summary)})
    _print_roles(console, report)
    _finish(console, summary, files)


def _load(console: Console, name: str, device: str | None, dtype: str) -> Model:
    from circuits.model import load

    with console.stage("model"):
        return load(name, device=device, dtype=dtype)


def _lens_of_prompt(
    console: Console,
    model: Model,
    prompt: str,
    answer: str,
    subject: str | None,
    foil: str | None,
    bos: bool | None,
    out: Path | None,
) -> None:
    from locate.lens import lens_positions, logit_lens

    encoded = model.tokenizer.encode(prompt, bos)
    followed = {"answer": answer, "foil": foil, "subject": subject}
    labels = {
        label: model.tokenizer.first_token(prompt, word)
        for label, word in followed.items()
        if word is not None
    }
    with console.stage("lens"):
        found = logit_lens(model, encoded, labels, lens_positions(encoded, subject))
    provenance = {**model.provenance, "method": "logit lens", "bos": encoded.bos}
    summary: dict[str, Any] = {
        "model": model.name,
        "prompt": prompt,
        "tokens": list(encoded.tokens),
        "followed": {label: followed[label] for label in labels},
        "layers": found.rows(),
        "provenance": provenance,
    }
    writers: dict[str, Any] = {
        "lens.kc.safetensors": (
            "lens",
            {"rank": found.rank, "probability": found.probability, "best": found.best},
            {key: value for key, value in summary.items() if key != "layers"},
        ),
        "lens.svg": lambda path: _draw_lens(found, path, prompt, provenance),
    }
    files = _write(out, writers | {"summary.json": summary})
    console.table(
        ("layer", "position", "token", "rank", "probability", "most likely"),
        [
            (
                "embedding" if row["layer"] < 0 else str(row["layer"]),
                row["position"],
                row["label"],
                str(row["rank"]),
                f"{row['probability']:.4f}",
                row["best"],
            )
            for row in found.rows()
        ],
    )
    _finish(console, summary, files)


def _write(folder: Path | None, files: dict[str, Any]) -> list[Path]:
    """Write a folder of files; a tuple is (kind, arrays, metadata), a dict is JSON."""
    if folder is None:
        return []
    from circuits.files import save_json
    from experiments.results import write_all, write_arrays

    def writer(content: Any) -> Callable[[Path], Any]:
        if isinstance(content, tuple):
            return write_arrays(*content)
        if isinstance(content, dict):
            return lambda path: save_json(content, path)
        return content

    return write_all(folder, {name: writer(content) for name, content in files.items()})


def _finish(console: Console, summary: dict[str, Any], files: list[Path]) -> None:
    if files:
        console.files(files)
    console.result({**summary, "files": [str(path) for path in files]})


def _trace_files(found: Trace, summary: dict[str, Any]) -> dict[str, Any]:
    def draw(path: Path) -> None:
        from viz.plots import draw_trace

        draw_trace(found, path, found.prompt)

    return {
        "trace.kc.safetensors": ("trace", found.arrays(), found.metadata()),
        "trace.svg": draw,
        "summary.json": summary,
    }


def _trace_summary(found: Trace) -> dict[str, Any]:
    return {
        "model": found.provenance["model"],
        **found.metadata(),
        "p_corrupted": found.p_corrupted,
        "total_effect": found.total_effect,
        "effects": {str(kind): found.effect(kind).tolist() for kind in found.kinds},
    }


def _attribution_summary(found: LogitAttribution, relation: str) -> dict[str, Any]:
    return {
        "model": found.provenance["model"],
        "relation": relation,
        "pairs": len(found.constant),
        "logit_difference": float(found.logit_difference.mean()),
        "constant": float(found.constant.mean()),
        "contributions": found.rows(),
        "provenance": dict(found.provenance),
    }


def _draw_lens(found: LensResult, path: Path, title: str, provenance: dict[str, Any]) -> None:
    from viz.plots import draw_lens

    def series(values: np.ndarray) -> dict[str, np.ndarray]:
        return {label: values[:, 0, column] for column, label in enumerate(found.labels)}

    draw_lens(series(found.rank), series(found.probability), path, title, provenance)


def _print_roles(console: Console, report: RoleReport) -> None:
    labelled = report.labelled
    if not labelled:
        console.say("no head meets the criterion of a role")
    rows = [
        (
            head.name,
            str(head.role),
            f"{head.score:.2f}",
            *(f"{head.weighted[region]:.2f}" for region in head.weighted),
            f"{head.answer_gain.value:.2f}",
            f"{head.range_gain.value:.2f}",
            " ".join(word.strip() for word in head.written),
            "" if head.check is None else str(head.check.verdict),
        )
        for head in (labelled or report.heads[:5])
    ]
    regions = [str(region) for region in report.heads[0].weighted] if report.heads else []
    header = ("head", "role", "score", *regions, "answer", "range", "writes", "ablation")
    if rows:
        console.table(header, rows)


def _error(row: dict[str, Any]) -> str:
    return "" if row["standard_error"] != row["standard_error"] else f"{row['standard_error']:.4f}"
