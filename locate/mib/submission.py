"""Folders that the board of MIB's circuit track takes, written and read.

A submission has a folder `TASK_MODEL` for each task and model, which holds one JSON file of edge
importances, or nine circuits of at most 0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50 % of the edges
(README of hannamw/MIB-circuit-track). Files are EAP-IG's JSON; positive scores support the answer,
as the board ranks by score for CPR. Its reader wants a score of every edge, so that those of the
nine circuits are 0. The board also takes `.pt` files, which are pickles and not read here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.base.choices import BoardModel, BoardTask, Ranking, Sign, Submission
from circuits.base.errors import OptionError
from circuits.base.origin import SUMMARY, write_all
from circuits.files.exchange import per_query_head, save_eap_ig
from circuits.files.reading import STORED, check_sign, read_circuit
from circuits.graph.circuit import Circuit
from locate.mib.board import SIZES, nested

ON_BOARD = {
    BoardTask.IOI: tuple(BoardModel),
    BoardTask.MCQA: (BoardModel.QWEN, BoardModel.GEMMA, BoardModel.LLAMA),
    BoardTask.ADDITION: (BoardModel.LLAMA,),
    BoardTask.SUBTRACTION: (BoardModel.LLAMA,),
    BoardTask.ARC_EASY: (BoardModel.GEMMA, BoardModel.LLAMA),
    BoardTask.ARC_CHALLENGE: (BoardModel.LLAMA,),
}
"""The models of each task that the board has a column for."""
_SHAPES = {
    BoardModel.GPT2: (12, 12),
    BoardModel.QWEN: (24, 14),
    BoardModel.GEMMA: (26, 8),
    BoardModel.LLAMA: (32, 32),
}
"""Layers and query heads of GPT-2 small, Qwen2.5-0.5B, Gemma-2-2B and Llama-3.1-8B."""
IMPORTANCES = "importances.json"
NAMES = tuple(f"{100 * share:g}.json" for share in SIZES)
"""Files of nine circuits: the per cent of edges that each may have."""
_TOLD = ("method", "metric", "ablation", "steps", "rule", "d_model", "bos", "seed")
"""What a published file says of its origin; paths and names of files stay at home."""
FEWEST = 2
"""Tasks, and models, of a submission that counts."""


def board_folder(task: BoardTask | str, model: BoardModel | str) -> str:
    """The folder of a task and model, as ioi_gpt2; OptionError where the board has none."""
    task, model = BoardTask.of(task, "task"), BoardModel.of(model, "model")
    if model not in ON_BOARD[task]:
        raise OptionError(
            f"the board has no {task} of {model}; its models there: {', '.join(ON_BOARD[task])}"
        )
    return f"{task}_{model}"


def save_submission(
    circuit: Circuit,
    folder: str | Path,
    task: BoardTask | str,
    model: BoardModel | str,
    form: Submission | str = Submission.IMPORTANCES,
    by: Ranking | str = Ranking.SIGNED,
) -> list[Path]:
    """Write the folder of a task and model into a submission's; returns the files' paths.

    `by` ranks edges for nine circuits. OptionError where the circuit has no scores or is of
    another shape than the board's model, and where circuits are there already, which would count.
    """
    form, by, model = Submission.of(form, "form"), Ranking.of(by), BoardModel.of(model, "model")
    name = board_folder(task, model)
    single = per_query_head(circuit)
    if single.scores is None or not single.scores.values.any():
        raise OptionError("the circuit has no scores of edges; the board ranks edges by them")
    layers, heads = _SHAPES[model]
    wiring = single.wiring
    if (wiring.n_layers, wiring.n_heads) != (layers, heads) or wiring.parallel:
        raise OptionError(
            f"the board's {model} has {layers} layers of {heads} heads, the circuit's model "
            f"{wiring.describe()}"
        )
    if already := sorted((Path(folder) / name).glob("*.json")):
        raise OptionError(f"{already[0]} is there already; name another folder, or remove it")
    told = {key: circuit.provenance[key] for key in _TOLD if key in circuit.provenance}
    scores = replace(single.scores, provenance={})
    if form == Submission.IMPORTANCES:
        chosen = {IMPORTANCES: Circuit.full(wiring, scores)}
    else:
        found = nested(scores, by)[: len(SIZES)]
        told["ranking"] = str(by)
        chosen = dict(zip(NAMES, (Circuit(each.wiring, each.kept) for each in found), strict=True))
    writers = {file: _writer(replace(each, provenance=told)) for file, each in chosen.items()}
    return write_all(Path(folder) / name, writers)


def _writer(circuit: Circuit) -> Callable[[Path], Any]:
    return lambda path: save_eap_ig(circuit, path, full=True)


def read_submission(path: str | Path, sign: Sign | str = Sign.UNKNOWN) -> list[Circuit]:
    """The importances or nine circuits of a file or a folder; positive scores support the answer.

    Where a folder has importances in our own form as well, those, which say who found them.
    OptionError where a folder holds another number of files, or nobody says what a positive score
    means (`circuits.files.reading.check_sign`).
    """
    path = Path(path)
    if not path.is_dir():
        return [check_sign(read_circuit(path, sign), path)]
    files = sorted(file for file in path.glob("*.json") if file.name != SUMMARY)
    if len(files) not in (1, len(SIZES)):
        pickled = "; .pt files are not read" if any(path.glob("*.pt")) else ""
        raise OptionError(
            f"{path} holds {len(files)} .json files; a folder of the board has one of importances "
            f"or {len(SIZES)} circuits{pickled}"
        )
    if len(files) == 1:
        stored = path / f"{files[0].stem}{STORED[1:]}"
        chosen = stored if stored.is_file() else files[0]
        return [check_sign(read_circuit(chosen, sign), chosen)]
    if Sign.of(sign, "sign") != Sign.UNKNOWN:
        raise OptionError(
            f"`sign` is for importances; the {len(SIZES)} circuits of {path} need none"
        )
    return [read_circuit(file) for file in files]


def lacking(folder: str | Path) -> str | None:
    """What a submission's folder still lacks to count; None where it has enough."""
    tasks, models = set(), set()
    for task, of_task in ON_BOARD.items():
        for model in of_task:
            if any((Path(folder) / f"{task}_{model}").glob("*.json")):
                tasks.add(task)
                models.add(model)
    short = [
        f"{name} {FEWEST - len(there)} more"
        for name, there in (("tasks:", tasks), ("models:", models))
        if len(there) < FEWEST
    ]
    return ", ".join(short) or None
