"""The verbs of the door: what a caller names becomes values, and the rooms below do the work."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits.base.choices import Known, Sign, Templates
from circuits.base.display import Shown, is_page, paged
from circuits.base.errors import OptionError
from circuits.base.results import Result
from circuits.facts.facts import Relation, atlas
from circuits.model.model import Model
from knowledge_circuits.options import ONE_SIDE, split, takes
from knowledge_circuits.values import (
    circuit_of,
    is_path,
    loaded_model,
)
from locate.discovery import Discovery
from locate.evaluate import StoredEvaluation
from locate.options import Evaluating, Source
from locate.search import Search

if TYPE_CHECKING:
    from experiments.analyses.engine.base import Run
    from locate.examples import Examples
    from locate.seen import Finders


def load(
    name: str, device: str | None = None, dtype: str = "fp32", *, device_map: str | None = None
) -> Model:
    """A model: one of `models`, a Hugging Face folder, a .gguf file, or a name on the hub.

    `device` is cpu, cuda, cuda:N, mps or None for cuda, else cpu; `dtype` is fp32, bf16 or
    fp16. With the `device_map` disk weights stay in a file, and in memory is what a pass looks at;
    with cpu=2GiB,disk so much of them stays in memory.

    >>> model = load("facts-gpt2", device="cpu")
    >>> model.ask("The capital of France is", k=1).tokens
    (' Paris',)
    """

    from circuits.model.model import load as load_model

    return load_model(name, device, dtype, device_map=device_map)


def models() -> list[str]:
    """Names of the models that ship with the project or that the package index has.

    >>> "facts-gpt2" in models()
    True
    """
    from circuits.model.packaged import PACKAGED, embedded_models

    return [*PACKAGED, *embedded_models()]


def relations() -> list[str]:
    """Names of the relations that ship with the project; `relation(name)` gives one.

    >>> "country_capital" in relations()
    True
    """
    return list(atlas())


def facts(path: str | Path) -> list[Relation]:
    r"""The relations of a file, a folder or a data set on the hub, with their facts.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "capitals.csv"
    >>> _ = path.write_text("subject,object,prompt\nFrance,Paris,The capital of {} is\n")
    >>> facts(path)[0].facts[0].object
    'Paris'
    """
    from circuits.facts.loaders import load_facts

    return load_facts(path)


@takes(Source, Search, roles=True)
def discover(model: Model | str, what: Any, **options: Any) -> Discovery:
    """Find the circuit that recalls something, and measure how well it does.

    `what` is a relation's name, a Relation, a list of facts or of prompt pairs, or the path of a
    file of either. At most 32 pairs a side are made of facts, unless `n_pairs` says otherwise. Half
    of the subjects find the circuit, the others test it.

    >>> found = discover("facts-gpt2", "country_capital", n_pairs=6, resamples=20, roles=False)
    >>> found.scores["a6.h1->logits"] > 1
    True
    >>> found.faithfulness.value > 0.8
    True
    """
    from locate.asked import examples_of
    from locate.discover import discover as find

    source, (search,), given = split(options, Source, Search, roles=True)
    with loaded_model(model).alone() as loaded:
        examples = examples_of(loaded, what, search.batch_size, given=given, **source)
        return find(loaded, examples, search)


@takes(Source, Evaluating, fixed=ONE_SIDE)
def evaluate(model: Model | str, circuit: Any, what: Any, **options: Any) -> StoredEvaluation:
    """Measure a circuit (or a discovery's, or a file's) on pairs about `what`.

    Metric and ablation are those that the circuit was found with, unless given. `tests=True` tests
    the circuit on subjects that had no part in finding it; `others=True` asks about no others.

    >>> model = load("facts-gpt2", device="cpu")
    >>> found = discover(model, "country_capital", n_pairs=6, resamples=0, roles=False)
    >>> evaluate(model, found, "country_language", n_pairs=6).faithfulness.value > 0.5
    True
    """
    from locate.asked import examples_of
    from locate.evaluate import evaluate_on

    source, (chosen,), given = split(options, Source, Evaluating, fixed=ONE_SIDE)
    stored, bos = circuit_of(circuit), source.pop("bos", None)
    path = Path(str(circuit) if is_path(circuit) else "the circuit")
    with loaded_model(model).alone() as loaded:

        def pairs_for(bos: bool | None, avoid: Finders | None) -> Examples:
            asked: dict[str, Any] = {"avoid": avoid, "given": given, "bos": bos, **source}
            return examples_of(loaded, what, chosen.batch_size, **asked)

        return evaluate_on(loaded, stored, path, bos, chosen, pairs_for)


def ask(model: Model | str, prompt: str, subject: str, answer: str) -> Any:
    """One prompt: its circuit, what the model says, and says with parts switched off.

    >>> asked = ask("facts-gpt2", "The capital of France is", "France", "Paris")
    >>> asked.without("m2").probability < asked.answers.probability
    True
    """

    from locate.ask import ask_model

    return ask_model(loaded_model(model), prompt, subject, answer)


def open(path: str | Path, sign: Sign | str = Sign.UNKNOWN) -> Any:
    """Any stored result: a circuit, a comparison, a trace, an edit, ...

    Warns where the files of its folder are of different runs. `sign` is what a positive score
    says in a circuit's file of another tool: supports or opposes. `hf://OWNER/NAME/PATH` is fetched
    from a data set on the Hugging Face hub. Of a folder the main result is opened.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> found = discover("facts-gpt2", "country_capital", n_pairs=4, resamples=0, roles=False)
    >>> _ = save(found.circuit, folder / "capitals.kc.safetensors")
    >>> open(folder / "capitals.kc.safetensors") == found.circuit
    True
    """
    from circuits.base.origin import mixed
    from circuits.files.attribution import load_graph
    from circuits.files.hub import fetched, is_address
    from circuits.files.kinds import open_result
    from circuits.files.neuronpedia import is_graph
    from circuits.files.reading import main_result, read_circuit

    name, path = str(path), fetched(str(path)) if is_address(path) else Path(path)
    path = main_result(path, name) if path.is_dir() else path
    if (line := mixed(path.parent)) is not None:
        warnings.warn(line, stacklevel=2)
    is_json = path.suffix.lower() == ".json"
    if is_json and sign == Sign.UNKNOWN and is_graph(path):
        return load_graph(path)
    return read_circuit(path, sign) if is_json or sign != Sign.UNKNOWN else open_result(path)


def save(result: Any, path: str | Path) -> Any:
    """Store a result: in one file where the path is a `*.safetensors`, else in a folder.

    The folder gets the files of the command of the same name; see `open`. A path that ends in .html
    gets one page to be read in any browser, of a list of results one of all of them.

    >>> import tempfile
    >>> found = lens("facts-gpt2", "The capital of France is", answer="Paris")
    >>> for path in save(found, Path(tempfile.mkdtemp()) / "lens"):
    ...     print(path.name)
    lens.kc.safetensors
    lens.svg
    summary.json
    """
    from locate.looks.door import write

    if is_page(path):
        paged(result, Path(path))
        return [Path(path)]
    if Path(path).suffix != ".safetensors":
        return write(result, Path(path))
    if not isinstance(result, Result):
        raise OptionError(f"a {type(result).__name__} is stored in a folder: leave the suffix out")
    return result.save(path)


def push(result: str | Path, repo: str, *, private: bool = False, message: str = "") -> str:
    """Send a stored result or its folder to a data set on the Hugging Face hub; gives its address.

    `repo` is OWNER/NAME, made where it is not there, or `hf://OWNER/NAME/PATH`. It needs a token
    (`hf auth login`). `open("hf://OWNER/NAME/PATH")` opens it again, anywhere.

    >>> push("no_such_folder", "someone/circuits")
    Traceback (most recent call last):
    circuits.base.errors.OptionError: no_such_folder holds no stored result (*.kc.safetensors)
    """
    from circuits.files.hub import push as send

    if not isinstance(result, str | Path):
        kind = type(result).__name__
        raise OptionError(
            f"what is pushed is a file or folder: `save` the {kind}, and push its path"
        )
    return send(result, repo, private=private, message=message)


def plot(result: Any, what: str | None = None, **options: Any) -> Any:
    """A picture of a result, as a figure of plotly; `what` names one where there are several.

    A circuit has `circuit` and `layers`, heads on prompts have `attention` and `tokens`.

    >>> found = lens("facts-gpt2", "The capital of France is", answer="Paris")
    >>> type(plot(found)).__name__
    'Figure'
    """
    if not isinstance(result, Shown) or not hasattr(result, "plot"):
        raise OptionError(f"a {type(result).__name__} has no picture")
    return result.plot(**options) if what is None else result.plot(what=what, **options)


def explore(result: Any, **options: Any) -> None:
    """Open the app on a result, or on a file of one, within a notebook: `explore(found)`."""
    if isinstance(result, str | Path):
        result = open(result)
    for part in ("circuit", "delta"):  # of a discovery, an edit, ...
        result = result if isinstance(result, Result) else getattr(result, part, result)
    if not isinstance(result, Result):
        raise OptionError(f"a {type(result).__name__} has no page in the app")
    result.explore(**options)


def run(
    analysis: str,
    model: Model | str = "facts-gpt2",
    *,
    out: str | Path | None = None,
    source: str | None = None,
    known: Known | str = "top1",
    shots: int = 0,
    templates: Templates | str = "usual",
    shard: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    **options: Any,
) -> Run:
    """Run an analysis of the paper, or a plugin's, and write its report into the folder `out`.

    What an earlier run left there is not computed again. `source` names facts to ask about instead
    of the atlas's, as `--facts`; `known`, `shots` and `templates` decide its pairs of facts, where
    it makes such. `shard` is `I/N` for one of N processes that share `out`; all but the last to end
    raise UnfinishedError. `options` are the analysis's own, as `kc run --list` explains them. The
    result has `claims`, `tables` and pictures by name.

    >>> import tempfile
    >>> done = run("flow", out=tempfile.mkdtemp(), relations=["country_capital"], draws=2)
    >>> done.path.name
    'report.html'
    """
    from circuits.base.options import build
    from experiments.analyses.engine.context import Context
    from experiments.analyses.engine.parts import Shard
    from experiments.analyses.engine.registry import analysis as named
    from experiments.analyses.engine.running import folder_for, run_analysis

    chosen = named(analysis)
    values = build(chosen.config, options)
    loaded = loaded_model(model)
    folder = folder_for(loaded.name, [analysis]) if out is None else Path(out)
    asked = {"facts": source, "known": Known.of(known), "shots": shots}
    asked["templates"] = Templates.of(templates, "templates")
    context = Context.on(loaded, folder, seed=seed, batch_size=batch_size, **asked)
    return run_analysis(chosen, values, context, shard=Shard.parse(shard))
