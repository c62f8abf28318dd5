"""`kc discover` and `kc evaluate`: options into values, values into lines and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from experiments.cli import options as o
from experiments.cli.console import Console
from experiments.cli.signature import Fixed, Starts
from locate.options import Evaluating, Loading, Source
from locate.search import Search

if TYPE_CHECKING:
    from circuits.graph.hypothesis import CircuitTests
    from locate.discovery import Discovery
    from locate.examples import Examples
    from locate.seen import Finders

N_SHOWN = 8
"""Edges listed on the screen."""


def discover(
    *,
    model: o.ModelName,
    source: Source,
    search: Annotated[Search, Starts(roles=True)],
    loading: Loading,
    out: o.Out = None,
    full_json: o.FullJson = False,
    as_json: o.AsJson = False,
) -> None:
    """Find the circuit that recalls a relation, and measure how well it does."""
    console = Console(as_json)
    folder = out or _default_folder(model, source.name, search.method)
    with console.working():
        from locate.discover import discover as find
        from locate.discovery import FILES
        from locate.edges.locators import Locator

        o.check_files(source, folder, names=FILES)
        loaded = o.asked_model(console, model, loading, source.bos)
        examples = o.pairs_of(console, loaded, o.limited(source), search.batch_size)
        if search.method == Locator.EXACT:
            n = loaded.wiring(search.kv).n_edges
            console.note(f"{n:,} edges are patched one by one, a run of the model each and batch")
        found = find(loaded, examples, search, console.stage)
        with console.stage("files"):
            files = found.save(folder, full_json)
    console.warn(*found.notes)
    record = found.as_dict(files)
    console.found(record["says"])
    _print_discovery(console, found)
    console.files(files)
    console.result(record)


def evaluate(
    *,
    circuit: o.CircuitFile,
    model: o.ModelName,
    source: Annotated[Source, Fixed(hold_out=0.0)],
    evaluating: Evaluating,
    loading: Loading,
    out: o.Out = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure a stored circuit, on the pairs of a relation, a fact file or a pair file."""
    console = Console(as_json)
    with console.working():
        from circuits.base.origin import SUMMARY
        from circuits.files.reading import read_circuit
        from locate.evaluate import bos_of, evaluate_on, to_avoid
        from locate.report import measure_rows
        from locate.seen import MAYBE_FOUND_IT

        stored = read_circuit(circuit)
        bos = bos_of(stored, source.bos, evaluating.allow_mismatch)
        to_avoid(stored, evaluating)  # refuses before a model is loaded
        source = replace(source, bos=bos)
        o.check_files(source, out, inputs=[circuit], names=[SUMMARY])
        loaded = o.asked_model(console, model, loading, source.bos)

        def pairs_for(bos: bool | None, avoid: Finders | None) -> Examples:
            asked = o.limited(replace(source, bos=bos))
            return o.pairs_of(console, loaded, asked, evaluating.batch_size, avoid)

        asked = circuit, bos, evaluating, pairs_for
        done = evaluate_on(loaded, stored, *asked, console.stage)
        summary = done.as_dict(circuit)
        files = [] if out is None else done.save(out, circuit)
    console.warn(*done.warnings)
    console.found(summary["says"])
    console.table(*measure_rows(done.sides()))
    tested_on = done.tested_on or MAYBE_FOUND_IT
    if summary["minimality"] is not None:
        _print_minimality(console, summary["minimality"], tested_on)
    if done.tests is not None:
        _print_tests(console, done.tests, tested_on)
    if files:
        console.files(files)
    console.result({**summary, "files": [str(path) for path in files]})


def _print_discovery(console: Console, found: Discovery) -> None:
    from locate.report import edge_rows, known_line, measure_rows, opposed_line, span_table
    from locate.sizing import size_line

    circuit = found.circuit
    console.say(
        f"{circuit.n_edges:,} of {circuit.wiring.n_edges:,} edges between "
        f"{found.evaluation.n_nodes:,} nodes; {known_line(found.examples.counts)}"
    )
    if line := size_line(circuit):
        console.say(line)
    console.say()
    console.table(*measure_rows(found.sides()))
    console.say()
    console.table(*edge_rows(circuit, N_SHOWN))
    if circuit.wiring.spans:
        console.say()
        console.table(*span_table(circuit))
        console.say(opposed_line(circuit))
    if found.stability:
        counted = ", ".join(f"{count} {label}" for label, count in found.stability.items())
        console.say(
            f"\nedges by how often {found.search.resamples} resamples of the {found.resampled} "
            f"keep them: {counted}"
        )
    if found.curve is not None:
        areas = ", ".join(f"{what} {area}" for what, area in found.curve.areas.items())
        console.say(f"on {found.curve_pairs}: {areas}")
    if circuit.roles:
        named = ", ".join(f"{node} {role}" for node, role in circuit.roles.items())
        console.say(f"roles, by the pairs that found it: {named}")


def _print_tests(console: Console, tests: CircuitTests, tested_on: str) -> None:
    of = f"{tests.n_facts} facts, {tests.n_pairs} pairs"
    console.say(f"\ntests at a level of 5 % on {tested_on}: {of}")
    for test in tests.tests:
        console.say(f"  {test.name}: {test.sentence}")


def _print_minimality(console: Console, found: Mapping[str, Any], measured_on: str) -> None:
    from circuits.base.intervals import Interval

    edges = found["edges"]
    console.say(
        f"\nof {len(edges)} edges on {measured_on}, one at a time: {found['needed']} are needed, "
        f"{found['idle']} idle (less than {found['below']:g} of faithfulness either way), "
        f"{found['harmful']} harmful (it rises without them); of {found['undecided']} the "
        "interval does not tell"
    )
    worst = [row for row in edges[N_SHOWN:] if row["worth"] == "harmful"][-N_SHOWN:]
    rows = [
        (row["edge"], str(Interval.from_dict({"value": row["drop"], **row})), row["worth"])
        for row in (*edges[:N_SHOWN], *worst)
    ]
    console.table(("edge", "drop", ""), rows)


def _default_folder(model: str, name: str, method: str) -> Path:
    words = (re.sub(r"\W+", "-", Path(part).stem).strip("-") for part in (model, name))
    return Path("out") / "-".join([*(word for word in words if word), method])
