"""`kc discover` and `kc evaluate`: options into values, values into lines and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuits.base.choices import (
    Ablation,
    Corruption,
    KeyValue,
    Locator,
    Metric,
    Ranking,
    Rule,
    Selection,
    Templates,
)
from experiments.cli import options as o
from experiments.cli.console import Console

if TYPE_CHECKING:
    from locate.discover import Discovery

N_SHOWN = 8
"""Edges listed on the screen."""


def discover(
    context: typer.Context,
    model: o.ModelName,
    relation: o.RelationName = None,
    facts: o.FactSource = None,
    pairs: o.PairFile = None,
    method: o.LocatorChoice = Locator.EAP_IG,
    steps: o.Steps = 5,
    rule: o.RuleChoice = Rule.MIDPOINT,
    metric: o.MetricChoice = Metric.LOGIT_DIFFERENCE,
    ablation: o.AblationChoice = Ablation.PATCH,
    edges: o.Edges = None,
    threshold: o.Threshold = None,
    select: o.Select = Selection.TOP,
    rank: o.Rank = Ranking.ABSOLUTE,
    kv: o.Kv = KeyValue.GROUPED,
    resamples: o.Resamples = 200,
    random: o.NRandom = 5,
    curve: o.Curve = False,
    roles: o.Roles = True,
    n_pairs: o.NPairs = None,
    split: o.Split = Templates.FIRST,
    corrupt: o.Corrupt = Corruption.SUBJECT,
    template: o.Wordings = None,
    hold_out: o.HoldOut = None,
    known_only: o.KnownOnly = None,
    bos: o.Bos = None,
    batch_size: o.BatchSize = 16,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    out: o.Out = None,
    full_json: o.FullJson = False,
    as_json: o.AsJson = False,
) -> None:
    """Find the circuit that recalls a relation, and measure how well it does."""
    console = Console(as_json)
    if method is not Locator.EAP_IG:
        o.refuse_unused(context, f"with --method {method}", "steps", "rule")
    if method is Locator.ACDC:
        o.refuse_unused(context, f"with --method {method}", "resamples")
    folder = out or _default_folder(model, relation or facts or str(pairs), method)
    with console.working():
        from circuits.base.origin import check_writable
        from circuits.model.model import load
        from experiments.cli.results import write_discovery
        from locate.discover import Search
        from locate.discover import discover as find
        from locate.examples import Source, check_readable, collect

        source = Source(
            relation=relation,
            facts=facts,
            pairs=pairs,
            templates=split,
            wordings=tuple(template or ()),
            limit=_limit(n_pairs, pairs),
            hold_out=hold_out,
            known_only=known_only,
            bos=bos,
            seed=seed,
            corrupt=corrupt,
        )
        search = Search(
            locator=method,
            steps=steps,
            rule=rule,
            metric=metric,
            ablation=ablation,
            kv=kv,
            selection=select,
            ranking=rank,
            edges=edges,
            threshold=threshold,
            resamples=resamples,
            n_random=random,
            curve=curve,
            roles=roles,
            batch_size=batch_size,
            seed=seed,
        )
        check_writable(folder, [facts, pairs])
        check_readable(source)
        with console.stage("model"):
            loaded = load(model, device=device, dtype=dtype)
        with console.stage("facts"):
            examples = collect(loaded, source, batch_size)
        found = find(loaded, examples, search, console.stage)
        with console.stage("files"):
            summary, files = write_discovery(found, folder, full_json)
    for note in found.notes:
        console.warn(note)
    _print_discovery(console, found)
    console.files(files)
    console.result(summary)


def evaluate(
    circuit: o.CircuitFile,
    model: o.ModelName,
    relation: o.RelationName = None,
    facts: o.FactSource = None,
    pairs: o.PairFile = None,
    metric: o.OptionalMetric = None,
    ablation: o.OptionalAblation = None,
    random: o.NRandom = 5,
    minimality: o.Minimality = False,
    n_pairs: o.NPairs = None,
    split: o.Split = Templates.FIRST,
    corrupt: o.Corrupt = Corruption.SUBJECT,
    template: o.Wordings = None,
    known_only: o.KnownOnly = None,
    bos: o.Bos = None,
    batch_size: o.BatchSize = 16,
    seed: o.Seed = 0,
    device: o.Device = None,
    dtype: o.Dtype = "fp32",
    allow_mismatch: o.AllowMismatch = False,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure a stored circuit, on the pairs of a relation, a fact file or a pair file."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import check_writable
        from circuits.model.model import load
        from experiments.cli.report import evaluation_summary, measure_rows
        from experiments.cli.results import write_summary
        from locate.evaluate import (
            bos_of,
            evaluate_stored,
            fitted,
            mismatches,
            read_circuit,
        )
        from locate.examples import Source, check_readable, collect

        stored = read_circuit(circuit)
        source = Source(
            relation=relation,
            facts=facts,
            pairs=pairs,
            templates=split,
            wordings=tuple(template or ()),
            limit=_limit(n_pairs, pairs),
            hold_out=0.0,
            known_only=known_only,
            bos=bos_of(stored, bos, allow_mismatch),
            seed=seed,
            corrupt=corrupt,
        )
        if out is not None:
            check_writable(out, [circuit, facts, pairs])
        check_readable(source)
        with console.stage("model"):
            loaded = load(model, device=device, dtype=dtype)
        stored = fitted(stored, loaded, circuit)
        warnings = mismatches(stored, loaded, source.bos, allow_mismatch)
        with console.stage("facts"):
            examples = collect(loaded, source, batch_size)
        done = evaluate_stored(
            loaded,
            stored,
            examples,
            metric=metric,
            ablation=ablation,
            n_random=random,
            minimality=minimality,
            batch_size=batch_size,
            seed=seed,
            warnings=warnings,
            stages=console.stage,
        )
        summary = evaluation_summary(done, circuit)
        files = write_summary(summary, out)
    for note in done.warnings:
        console.warn(note)
    console.table(*measure_rows({"value": done.evaluation}))
    if summary["minimality"] is not None:
        _print_minimality(console, summary["minimality"])
    if files:
        console.files(files)
    console.result({**summary, "files": [str(path) for path in files]})


def _print_discovery(console: Console, found: Discovery) -> None:
    from experiments.cli.report import edge_rows, known_line, measure_rows, sides_of

    circuit = found.circuit
    console.say(
        f"{circuit.n_edges} of {circuit.wiring.n_edges} edges between "
        f"{found.evaluation.n_nodes} nodes; {known_line(found.examples.counts)}"
    )
    console.say()
    console.table(*measure_rows(sides_of(found)))
    console.say()
    console.table(*edge_rows(circuit, N_SHOWN))
    if found.stability:
        counted = ", ".join(f"{count} {label}" for label, count in found.stability.items())
        console.say(f"\nedges by how often {found.search.resamples} resamples keep them: {counted}")
    if found.curve is not None:
        console.say(f"CPR {found.curve.area}, CMD {found.curve.distance}")
    if circuit.roles:
        named = ", ".join(f"{node} {role}" for node, role in circuit.roles.items())
        console.say(f"roles: {named}")


def _print_minimality(console: Console, found: Mapping[str, Any]) -> None:
    edges = found["edges"]
    console.say(
        f"\nwithout one edge: {found['idle']} of {len(edges)} edges are missed by less than "
        f"{found['below']:g} of faithfulness"
    )
    rows = [
        (row["edge"], "undefined" if row["drop"] is None else f"{row['drop']:.3f}")
        for row in edges[:N_SHOWN]
    ]
    console.table(("edge", "drop"), rows)


def _limit(n_pairs: int | None, pairs: Path | None) -> int | None:
    """Facts make at most 32 pairs unless told otherwise; a pair file counts in full."""
    return 32 if n_pairs is None and pairs is None else n_pairs


def _default_folder(model: str, name: str, method: Locator) -> Path:
    words = (re.sub(r"\W+", "-", Path(part).stem).strip("-") for part in (model, name))
    return Path("out") / "-".join([*(word for word in words if word), str(method)])
