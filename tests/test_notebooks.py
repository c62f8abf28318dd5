"""The notebooks run, show what their prose says, and are prose and calls, not programs."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
NAMES = [path.stem for path in SOURCES]
LEAST_PROSE = 0.6
PLOTLY = "application/vnd.plotly.v1+json"

# What the prose claims of the numbers, as expressions over the notebook's own variables.
CLAIMS: dict[str, dict[str, str]] = {
    "01_trace": {
        "the model says Seoul": "lens.rank[-1, 0, 0] == 0",
        "from layer 6 on, and not before": (
            "[lens.best_tokens[int(i)].strip() == 'Seoul' for i in lens.best[:, 0, 0]]"
            " == [False] * 7 + [True] * 2"
        ),
        "the fact stands at the subject's end in layers 0 to 5": (
            "found.effect('resid')[:6, found.subject.last].min() > 0.7 * found.total_effect"
        ),
        "and at the last token from layer 6 on": (
            "found.effect('resid')[6:, -1].min() > 0.7 * found.total_effect"
            " and abs(found.effect('resid')[:5, -1]).max() < 0.05"
        ),
        "nothing of it lies in between": (
            "abs(found.effect('resid')[:, found.subject.stop:-1]).max() < 0.05"
        ),
        "attention of layer 0 and the MLP of layer 2 work at the subject": (
            "found.effect('attn')[:, found.subject.last].argmax() == 0"
            " and found.effect('mlp')[:, found.subject.last].argmax() == 2"
        ),
        "attention of layer 6 fetches the answer": "found.effect('attn')[:, -1].argmax() == 6",
        "the table has ten draws": "found.provenance['samples'] == 10",
        "twelve facts are traced": "len(average.p_clean) == 12",
        "the average's sites are the same": (
            "[average.peak(kind, role)[0] for kind, role in"
            " (('attn', 'last subject token'), ('mlp', 'last subject token'),"
            " ('attn', 'last token'))] == [0, 2, 6]"
        ),
        "their intervals lie far above zero": (
            "min(average.peak(kind, role)[1].low for kind, role in"
            " (('attn', 'last subject token'), ('mlp', 'last subject token'),"
            " ('attn', 'last token'))) > 0.4"
        ),
        "MLPs at the last token do next to nothing": (
            "average.peak('mlp', 'last token')[1].value < 0.06"
        ),
        "little noise forgets nothing": (
            "weak.p_clean.mean() - weak.p_corrupted.mean() < 0.1"
            " and max(abs(row['effect']) for row in weak.rows()) < 0.1"
        ),
        "the rival leads up to layer 5, and the answer from layer 6 on": (
            "[bool(a < b) for a, b in zip(*(rivals.median_rank('last token', what).value"
            " for what in ('answer', 'other objects')))] == [False] * 7 + [True] * 2"
        ),
    },
    "02_circuit": {
        "there are 6,637 edges": "(circuit := found.circuit).wiring.n_edges == 6637",
        "the tested countries found nothing": (
            "not {p.text.subject for p in found.pairs}"
            " & {p.text.subject for p in found.examples.held_out}"
        ),
        "the country enters at layer 0 and goes to m2": (
            "[circuit.rows(4)[i]['edge'].split('->')[0][:2] for i in range(4)]"
            " == ['in', 'in', 'a0', 'a0'] and"
            " {circuit.rows(4)[i]['edge'].split('->')[1] for i in (2, 3)} == {'m2'}"
        ),
        "heads of layer 6 write to the logits": (
            "{'a6.h1->logits', 'a6.h2->logits'} <= {row['edge'] for row in circuit.rows(8)}"
        ),
        "most nodes lie in layers 0, 6 and 7": (
            "(counts := __import__('viz.paper.layers').paper.layers.count_layers(circuit))"
            ".nodes[:, [1, 7, 8]].sum() > 0.5 * counts.nodes.sum()"
        ),
        "most edges of any layer start in layer 0": "counts.edges.sum(0).argmax() == 1",
        "m2 writes about as much as layer 6": (
            "0.8 < counts.mass[:, 3].sum() / counts.mass[:, 7].sum() < 1.25"
            " and counts.nodes[:, 3].sum() == 1"
        ),
        "three per cent of the edges do 95 % of the work": (
            "0.025 < circuit.n_edges / 6637 < 0.035"
            " and abs((tested := found.held_out).faithfulness.value - 0.95) < 0.02"
        ),
        "the rest and a random circuit do none": (
            "max(abs(tested.completeness.value), abs(tested.random_faithfulness.value)) < 0.02"
            " and (6637 - circuit.n_edges) / circuit.n_edges > 30"
        ),
        "every answer is among the ten best": (
            "tested.hit_at_10['circuit'].value == tested.hit_at_10['model'].value == 1"
        ),
        "thirteen edges are few, 66 do almost nine tenths, beyond 133 little comes": (
            "(at := {size: point.value for size, point in zip(found.curve.sizes,"
            " found.curve.faithfulness)}) and at[13] < 0.15"
            " and 0.86 < at[66] < 0.9 and at[133] > 0.96"
        ),
        "two thirds of the edges are sure": (
            "abs(found.stability['core'] / circuit.n_edges - 2 / 3) < 0.06"
        ),
        "languages are recalled as well": (
            "abs(elsewhere['languages'].value - tested.faithfulness.value) < 0.03"
        ),
        "and most of the animals": "elsewhere['animals'].value > 0.5",
    },
    "03_edit_and_compare": {
        "one matrix of the traced layer changes, by rank 1": (
            "[(name, change.rank) for name, change in edited.delta.changes.items()]"
            " == [('transformer.h.2.mlp.c_proj.weight', 1)]"
        ),
        "the edited model says Rome from layer 6 on": (
            "after.rank[-2:, 0, 1].tolist() == [0, 0] and before.rank[-2:, 0, 0].tolist() == [0, 0]"
        ),
        "Italy and Germany keep their capitals, the French speak Italian": (
            "list(answers.values()) =="
            " [['French', 'Italian'], ['Rome', 'Rome'], ['Berlin', 'Berlin']]"
        ),
        "more than half of either circuit's edges are not in the other": (
            "found.comparison.jaccard < 0.5"
        ),
        "fewer than two discoveries share": (
            "found.comparison.jaccard < found.comparison.rediscovery.floor.low"
        ),
        "the answer moved by some twenty logits": "18 < found.swing < 22",
        "old values undo the edit": "found.restoration.recovered > 0.95",
        "the movers' words change": (
            "(heads := {head.name: head for head in found.heads})"
            " and all(' Rome' in heads[name].written[1] for name in ('a6.h1', 'a6.h2'))"
            " and all(' Paris' in heads[name].written[0] for name in ('a6.h1', 'a6.h2'))"
            " and ' French' in heads['a6.h1'].written[0]"
            " and ' Italian' in heads['a6.h1'].written[1]"
        ),
        "flips reach from the input to the logits": (
            "(flipped := {found.comparison.before.wiring.edge_name(int(edge)) for edge in"
            " found.comparison.flipped.nonzero()[0]}) and"
            " any(name.startswith('input') for name in flipped) and"
            " any(name.endswith('logits') for name in flipped)"
        ),
        "the models part in layer 2": (
            "(ranks := found.followed.rank[:, 0, :, 1]) is not None"
            " and (ranks[0, :3] == ranks[1, :3]).all()"
            " and ranks[1, 3, 1] == 0 and ranks[0, 3, 0] == 0 and ranks[1, 3, 0] > 5"
        ),
        "no edge of other capitals changes": (
            "beside.comparison.changes.counts()['changed'] == 0"
            " and beside.comparison.jaccard > beside.comparison.rediscovery.floor.value"
        ),
    },
    "04_roles": {
        "the strongest movers are of layer 6 and look at the country alone": (
            "all(head.layer == 6 and head.mover.attention > 0.95 for head in"
            " [head for head in roles.labelled if head.role == 'mover'][:4])"
        ),
        "some of them say the capital of most countries by themselves": (
            "sum(roles[name].by_example.answers > 0.5 * roles[name].by_example.pairs"
            " for name in movers) >= 2"
        ),
        "no head is a mixture": "'mixture' not in roles.roles.values()",
        "movers lie above m2": (
            "min(head.layer for head in roles.labelled if head.role == 'mover') > 2"
        ),
        "most relation heads lie in layer 0": (
            "(layers := [head.layer for head in roles.labelled if head.role == 'relation'])"
            ".count(0) > len(layers) / 2"
        ),
        "the movers look at the subject": (
            "(on_prompt := read.prompts[0]) and"
            " all(on_prompt.weighted[on_prompt.place(name)].argmax() == on_prompt.subject.last"
            " for name in movers)"
        ),
        "and raise the answer": (
            "all(on_prompt.answer_token in dict(on_prompt.raised[on_prompt.place(name)])"
            " for name in movers)"
        ),
        "by a logit or two": (
            "all(0.5 < dict(on_prompt.raised[on_prompt.place(name)])[on_prompt.answer_token] < 3.5"
            " for name in movers)"
        ),
        "relation heads' bars are shorter": (
            "max(on_prompt.raised[on_prompt.place(name)][0][1] for name in relation_heads)"
            " < min(on_prompt.raised[on_prompt.place(name)][0][1] for name in movers)"
        ),
        "most labels are confirmed": (
            "(verdicts := [str(head.check.verdict) for head in roles.labelled])"
            ".count('confirmed') > len(verdicts) / 2"
        ),
        "the strong movers all of them": (
            "all(roles[name].check.verdict == 'confirmed' for name in movers)"
        ),
        "none is contradicted": "'contrary' not in verdicts",
        "roles are at both ends": (
            "(ends := found.circuit.roles) and"
            " {'relation'} == {role for name, role in ends.items() if name[1] == '0'}"
            " and {'mover'} <= {role for name, role in ends.items() if name[1] in '67'}"
        ),
    },
    "05_hallucination_and_icl": {
        "one answer in six is wrong, nearly all known in other words": (
            "(counts := [part['counts'] for part in wrong.parts.values.values()]) and 0.15 <"
            " sum(each['wrong'] for each in counts) / sum(each['questions'] for each in counts)"
            " < 0.18 and sum(each['never'] for each in counts) < 3"
        ),
        "the cases are asked in one unseen wording a relation": (
            "(followed := {name: part['followed'] for name, part in wrong.parts.values.items()})"
            " and all(len(found := {case['wording'] for case in each['cases']}) == 1"
            " and found <= set(kc.relation(name).held_out) for name, each in followed.items())"
        ),
        "occupations are replaced by what else is true, the rest mostly by no object": (
            "followed['person_occupation']['kinds']['of this subject, another relation'] == 8"
            " and sum(each['kinds']['no object'] for each in followed.values()) == 24"
        ),
        "what is said is on top from layer 6 on, and not before": (
            "[lenses[name].rank[:, 0, column].tolist().index(0) for name, column in"
            " (('wrong', 1), ('right', 0))] == [7, 7]"
            " and lenses['wrong'].rank[8, 0, 1] == lenses['right'].rank[8, 0, 0] == 0"
        ),
        "the right run expects occupations from layer 0 on": (
            "(right := lenses['right']) and"
            " [right.best_tokens[int(i)].strip() for i in right.best[1:7, 0, 0]]"
            " == ['painter'] * 2 + ['writer'] * 4 and right.rank[1:7, 0, 0].max() < 20"
        ),
        "the wrong run does from layer 2 to 4 only": (
            "(amiss := lenses['wrong']) and [amiss.best_tokens[int(i)].strip() == 'writer'"
            " for i in amiss.best[:, 0, 0]] == [False] * 3 + [True] * 3 + [False] * 3"
            " and amiss.best_tokens[int(amiss.best[6, 0, 0])] == ' a'"
            " and amiss.rank[:7, 0, 0].min() >= 100"
        ),
        "three movers look at Newton and write the same in both runs": (
            "(runs := (in_wrong.prompts[0], in_right.prompts[0])) and"
            " all(run.tokens[int(weights.argmax())].strip() == 'Newton' and weights.max() > 0.95"
            " for run in runs for weights in run.weighted)"
            " and all({word for word, _ in a[:5]} & {word for word, _ in b[:5]} and"
            " len({word for word, _ in a} & {word for word, _ in b}) >= 8 and"
            " abs(a[0][1] - b[0][1]) < 0.2"
            " for a, b in zip(*(run.raised for run in runs)))"
        ),
        "the first more for physicist, the others for England": (
            "(columns := [parts.wiring.src_names.index(head) for head in movers])"
            " and ((parts.contributions[:, columns] > 0) == [True, False, False]).all()"
        ),
        "m2, m0 and m7 differ most, MLPs by five of seven logits": (
            "sorted(gained, key=lambda name: -abs(gained[name]))[:3] == ['m2', 'm0', 'm7']"
            " and abs(sum(gained[name] for name in gained if name[0] == 'm') - 5) < 0.5"
            " and abs(parts.logit_difference[1] - parts.logit_difference[0] - 7) < 0.5"
        ),
        "the heads of layer 6 by less than half a logit": (
            "abs(sum(gained[name] for name in gained if name.startswith('a6'))) < 0.5"
        ),
        "another subject's early state repairs, a late one does not": (
            "(states := wrong.tables['states'].to_pandas())['other subject, right wording']"
            "[:6].min() > 0.9 and states['other subject, right wording'][6:].max() == 0"
            " and states['other subject, right wording'][0] == states['same fact'][0]"
        ),
        "the control repairs few, the subject's state a quarter at best": (
            "states['other subject, wrong wording'].max() < 0.25"
            " and 0.2 < states['same fact, at the subject'].max() < 0.33"
        ),
        "the blame falls on m0, and holds": (
            "wrong.tables['blamed_other_subject'].to_pandas()['times blamed'].tolist()[0] == 8"
            " and [str(claim.verdict) for claim in wrong.claims"
            " if 'blamed most, taken' in claim.sentence] == ['supported'] * 2"
        ),
        "fewer than two in five are right without examples, all with two": (
            "(rights := [part['list']['right'] for part in shots.parts.values.values()])"
            " and sum(sum(each['0']) for each in rights) / sum(len(each['0']) for each in rights)"
            " < 0.4"
            " and all(min(each['2']) == 1 for each in rights)"
        ),
        "every circuit has new heads, which look at the examples, as all others do": (
            "(found_heads := [each['list']['heads'] for each in shots.parts.values.values()])"
            " and all(each['new'] for each in found_heads)"
            " and all(np.mean([each['attention']['examples'][group] for each in found_heads]) > 0.5"
            " for group in ('new', 'others'))"
            " and all(each['attention']['question']['circuit'] > max("
            "each['attention']['question'][group] for group in ('new', 'others'))"
            " for each in found_heads)"
        ),
        "no relation loses four points to new heads, each more to random ones": (
            "(lost := [{heads: np.mean(each['list']['heads']['with_examples']['probability']"
            "['whole']) - np.mean(each['list']['heads']['with_examples']['probability'][heads])"
            " for heads in ('new', 'random')} for each in shots.parts.values.values()])"
            " and all(0 < each['new'] < 0.04 and each['random'] > each['new'] for each in lost)"
        ),
        "no evidence that new heads matter more than random ones": (
            "str(next(claim for claim in shots.claims"
            " if 'new with examples' in claim.sentence and 'random' in claim.sentence).verdict)"
            " in ('no evidence', 'opposite')"
        ),
        "other facts bring in three quarters as many": (
            "abs(sum(each['new_by_chance'] for each in found_heads)"
            " / sum(len(each['new']) for each in found_heads) - 3 / 4) < 0.06"
        ),
        "heads that grew matter, a quarter of them new, half of layer 0": (
            "str(next(claim for claim in shots.claims"
            " if 'grew most' in claim.sentence and 'random' in claim.sentence).verdict)"
            " == 'supported'"
            " and abs(sum(len({*each['grown']} & {*each['new']}) for each in found_heads)"
            " / (n_grown := sum(len(each['grown']) for each in found_heads)) - 1 / 4) < 0.06"
            " and abs(sum(head[1] == '0' for each in found_heads for head in each['grown'])"
            " / n_grown - 0.5) < 0.06"
        ),
        "without examples two relations need them, and two are better without them": (
            "(drops := [np.mean(each['whole']) - np.mean(each['grown']) for each in"
            " [heads['without_examples']['probability'] for heads in found_heads]])"
            " and (sum(drop > 0.1 for drop in drops), sum(drop < -0.1 for drop in drops)) == (2, 2)"
        ),
        "no head is an induction head": (
            "round(max(each['induction']['best_score'] for each in found_heads), 2) == 0.04"
        ),
    },
    "06_your_own_idea": {
        "four of five edges of either circuit are in the other": (
            "min(both.n_edges / each.circuit.n_edges for each in (capitals, languages)) > 0.78"
        ),
        "the shared edges do the work of either": (
            "min(faithful[name].value for name in ('shared', 'shared, on languages')) > 0.95"
        ),
        "what is left over does nothing": "abs(faithful['only capitals'].value) < 0.01",
        "m2 stands far before all heads": (
            "between.index[0] == 'm2' and between.iloc[0] > 5 * between.iloc[1]"
        ),
        "by log-odds most edges are the same": (
            "(by_odds.circuit & capitals.circuit).n_edges > 0.85 * by_odds.circuit.n_edges"
        ),
        "and the strongest are": (
            "[row['edge'] for row in by_odds.circuit.rows(8)]"
            " == [row['edge'] for row in capitals.circuit.rows(8)]"
        ),
        "Paris is gone from the five best": "' Paris' not in anywhere.tokens + nothing.tokens",
        "the answer is put off": "set(anywhere.tokens[:2]) == {' named', ' called'}",
        "zero is less sure": "max(nothing.probabilities) < max(anywhere.probabilities)",
        "the answer follows the name up to one layer and not further": (
            "(turn := [word.strip() for word in answers['token']].index('Paris')) > 0 and"
            " [word.strip() for word in answers['token']]"
            " == ['Tokyo'] * turn + ['Paris'] * (real.n_layers - turn)"
        ),
        "in SmolLM2-135M up to layer 22": "real is model or turn == 23",
    },
}
OWN = {"06_your_own_idea": ["log_odds"]}
"""What notebooks define: only the one on ideas of one's own."""


@cache
def executed(path: Path) -> Any:
    """The notebook after a run, its claims checked in further cells by the same kernel."""
    notebook = jupytext.read(path)
    n_cells = len(notebook.cells)
    notebook.cells.append(nbformat.v4.new_code_cell("import numpy as np"))
    for claim, expression in CLAIMS[path.stem].items():
        code = f"assert ({expression}), {claim!r}"
        notebook.cells.append(nbformat.v4.new_code_cell(code))
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    notebook.cells = notebook.cells[:n_cells]
    return notebook


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]


def prose_of(path: Path) -> list[str]:
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown"]


def test_every_notebook_makes_claims_that_are_checked():
    assert set(CLAIMS) == set(NAMES)
    assert all(len(claims) >= 8 for claims in CLAIMS.values())


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
@pytest.mark.slow
def test_a_notebook_runs_and_what_it_claims_is_so(path: Path):
    outputs = [cell.outputs for cell in executed(path).cells if cell.cell_type == "code"]
    printed = [each.text for cell in outputs for each in cell if each.output_type == "stream"]
    # No warning and no progress: what is worth seeing is a value.
    assert printed == []


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_results_and_figures_show_themselves(path: Path):
    shown = [
        each.data
        for cell in executed(path).cells
        if cell.cell_type == "code"
        for each in cell.outputs
        if each.output_type in ("execute_result", "display_data")
    ]
    assert sum(PLOTLY in data for data in shown) >= 2
    assert sum("<table" in data.get("text/html", "") for data in shown) >= 2
    assert not any("object at 0x" in data.get("text/plain", "") for data in shown)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_notebook_is_mostly_prose_and_defines_next_to_nothing(path: Path):
    code = "\n".join(code_of(path))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = [node.name for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    assert defined == OWN.get(path.stem, [])


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_notebook_comes_in_by_the_door_and_is_prose_for_the_most_part(path: Path):
    code = "\n".join(code_of(path))
    rooms = re.findall(r"^(?:from|import) (circuits|locate|viz|experiments)\b", code, re.MULTILINE)
    assert rooms == []
    imports = re.compile(r"^(from|import)\s.*$", re.MULTILINE)
    words = len("\n".join(prose_of(path)).split())
    assert words / (words + len(imports.sub("", code).split())) >= LEAST_PROSE


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_source_holds_no_output_and_jupytext_writes_it_back_unchanged(path: Path):
    text = path.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    assert all(not cell.get("outputs") for cell in notebook.cells)
    again = jupytext.writes(notebook, fmt="py:percent")
    versions = re.compile(r"^#       (format|jupytext)_version: .*\n", re.MULTILINE)
    assert versions.sub("", again).rstrip() == text.rstrip()


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_notebook_begins_with_its_question_and_ends_with_the_command_line(path: Path):
    prose = prose_of(path)
    assert re.match(r"# \d\. .+\?\n", prose[0])
    commands = re.findall(r"^kc (\w+)", prose[-1], re.MULTILINE)
    assert "figures" in commands
    assert len(commands) >= 2
