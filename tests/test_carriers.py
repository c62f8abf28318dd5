"""Laws of edges between features: parts sum, each is a path's, and taking it away costs it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import knowledge_circuits as kc
from circuits.base.errors import FileFormatError, OptionError, PromptError
from circuits.base.errors import UnsupportedArchitectureError as Unsupported
from circuits.files.attribution import AttributionGraph, load_graph
from circuits.model import taps
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from experiments.cli.main import main
from locate.features.carriers import Carriers
from locate.features.carrying import carriers, carriers_of, strongest_sources
from locate.features.directions import Directions, Feature, Reads, Writes
from locate.features.frozen_run import FrozenRun
from locate.features.neurons import neuron_directions, neuron_encoders
from locate.features.nodes import Edge, FeatureLinks, Node, prompt_of
from tests.families import FAMILIES, family_model
from tests.tiny import byte_level_tokenizer, gpt2_hf, llama_hf, metaspace_tokenizer

TEXT = "The capital of Japan is"
KINDS = ("gpt2", "llama")
LAYERS = 4
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


@cache
def double(kind: str) -> Model:
    """A tiny model in double precision: GPT-2, or Llama with two key-value heads for four."""
    make, words = {
        "gpt2": (gpt2_hf, byte_level_tokenizer()),
        "llama": (llama_hf, metaspace_tokenizer()),
    }[kind]
    return Model.from_hf(make(layers=LAYERS).double(), words, f"double-{kind}")


def prompt(model: Model) -> Prompt:
    return model.tokenizer.encode(TEXT)


def features(model: Model, seed: int = 0, reads: str = "mlp") -> Directions:
    """Five random features a layer, of which three are at work in the edges below."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5 * model.n_layers, model.d_model)
    vectors = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    layer = torch.arange(model.n_layers).repeat_interleave(5)
    return Directions(layer, torch.arange(5).repeat(model.n_layers), *vectors, reads=reads)


def edges(model: Model) -> list[Edge]:
    """Edges of all distances, to the same and to a later position."""
    last = len(prompt(model)) - 1
    ends = [(a, b) for a in range(model.n_layers) for b in range(a + 1, model.n_layers)]
    return [
        (Node(a, at % 5, place), Node(b, (at + 2) % 5, last))
        for at, (a, b) in enumerate(ends)
        for place in (1, last - 1, last)
    ]


def levels(found: list[Edge]) -> dict[Node, float]:
    return {source: 0.5 + 0.25 * at for at, (source, _) in enumerate(found)}


@cache
def taken_apart(kind: str) -> Carriers:
    model = double(kind)
    chosen = edges(model)
    return carriers(model, prompt(model), chosen, features(model), levels(chosen))


class Plain:
    """The frozen model as matrices, from plain Hugging Face weights and one plain run.

    `head[k, h]` maps the residual stream of all positions, laid side by side, to what the head
    writes there; a norm divides by what it divided by in the run.
    """

    def __init__(self, kind: str) -> None:
        self.model = double(kind)
        self.hf, self.kind = self.model.to_hf(), kind
        ids = torch.tensor([prompt(self.model).ids])
        self.residual: list[Tensor] = []
        self.middle: dict[int, Tensor] = {}
        for layer, norm in enumerate(self._norms(2)):
            norm.register_forward_pre_hook(
                lambda _, read, layer=layer: self.middle.__setitem__(layer, read[0][0])
            )
        with torch.no_grad():
            run = self.hf(ids, output_attentions=True, output_hidden_states=True)
        self.residual = [state[0] for state in run.hidden_states]
        self.patterns = [each[0] for each in run.attentions]
        self.n = ids.shape[1]
        self.head = {
            (layer, head): self._map(layer, head)
            for layer in range(LAYERS)
            for head in range(self.model.n_heads)
        }

    def _blocks(self) -> Any:
        return self.hf.transformer.h if self.kind == "gpt2" else self.hf.model.layers

    def _norms(self, which: int) -> list[Any]:
        names = {
            "gpt2": ("ln_1", "ln_2"),
            "llama": ("input_layernorm", "post_attention_layernorm"),
        }
        return [getattr(block, names[self.kind][which - 1]) for block in self._blocks()]

    def _norm(self, norm: Any, read: Tensor) -> Tensor:
        """[pos d d]: what the norm does to a vector (a column) at each position."""
        width, eps = read.shape[-1], getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
        centre = torch.eye(width, dtype=read.dtype)
        if self.kind == "gpt2":
            centre = centre - 1 / width
        size = ((read @ centre).square().mean(-1) + eps).sqrt()
        return norm.weight.detach()[:, None] * centre / size[:, None, None]

    def _map(self, layer: int, head: int) -> Tensor:
        block, d_head = self._blocks()[layer], self.model.d_head
        own = slice(head * d_head, (head + 1) * d_head)
        if self.kind == "gpt2":
            width = self.model.d_model
            value = block.attn.c_attn.weight.detach()[:, 2 * width :][:, own].T
            output = block.attn.c_proj.weight.detach()[own].T
        else:
            shared = head // (self.model.n_heads // self.model.n_kv_heads)
            rows = slice(shared * d_head, (shared + 1) * d_head)
            value = block.self_attn.v_proj.weight.detach()[rows]
            output = block.self_attn.o_proj.weight.detach()[:, own]
        norm = self._norm(self._norms(1)[layer], self.residual[layer])
        moved = torch.einsum("qp,ab,pbc->qapc", self.patterns[layer][head], output @ value, norm)
        return moved.reshape(self.n * self.model.d_model, -1)

    def write(self, source: Node, vector: Tensor) -> Tensor:
        place = torch.zeros(self.n, self.model.d_model, dtype=torch.float64)
        place[source.at] = vector
        return place.flatten()

    def read(self, target: Node, encoder: Tensor, normed: bool = True) -> Tensor:
        place = torch.zeros(self.n, self.model.d_model, dtype=torch.float64)
        norm = self._norm(self._norms(2)[target.layer], self.middle[target.layer])
        place[target.at] = encoder @ norm[target.at] if normed else encoder
        return place.flatten()

    def paths(self, source: Node, target: Node, n_heads: int) -> list[tuple[tuple, Tensor]]:
        """Every path through so many heads of layers between, with the product of its maps."""
        between = range(source.layer + 1, target.layer + 1)
        found = []
        for layers in combinations(between, n_heads):
            grids = torch.cartesian_prod(*[torch.arange(self.model.n_heads)] * n_heads)
            for heads in grids.view(-1, n_heads).tolist():
                sites = tuple(zip(layers, heads, strict=True))
                product = torch.eye(self.n * self.model.d_model, dtype=torch.float64)
                for site in sites:
                    product = self.head[site] @ product
                found.append((sites, product))
        return found


@cache
def plain(kind: str) -> Plain:
    return Plain(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_paths_of_a_plain_frozen_model_counted_one_by_one(kind: str):
    model, other, found = double(kind), plain(kind), taken_apart(kind)
    vectors, known = features(model), levels(edges(model))
    for at, (source, target) in enumerate(edges(model)):
        (a,), (b,) = vectors.rows_of([source.feature]), vectors.rows_of([target.feature])
        start = known[source] * other.write(source, vectors.decoder[a])
        end = other.read(target, vectors.encoder[b])
        assert found.direct[at] == pytest.approx(float(end @ start), abs=1e-11)
        heads = np.zeros_like(found.heads[at])
        for ((layer, head),), product in other.paths(source, target, 1):
            heads[layer, head] = float(end @ product @ start)
        np.testing.assert_allclose(found.heads[at], heads, **TIGHT)
        more = sum(
            float(end @ product @ start)
            for n in range(2, target.layer - source.layer + 1)
            for _, product in other.paths(source, target, n)
        )
        assert found.rest[at] == pytest.approx(more, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_total_is_the_frozen_models_and_parts_sum_to_it(kind: str):
    model, other, found = double(kind), plain(kind), taken_apart(kind)
    vectors, known = features(model), levels(edges(model))
    size = other.n * model.d_model
    for at, (source, target) in enumerate(edges(model)):
        state = known[source] * other.write(
            source, vectors.decoder[vectors.rows_of([source.feature])[0]]
        )
        for layer in range(source.layer + 1, target.layer + 1):
            layers = [other.head[layer, head] for head in range(model.n_heads)]
            state = (torch.eye(size, dtype=torch.float64) + sum(layers)) @ state
        encoder = vectors.encoder[vectors.rows_of([target.feature])[0]]
        total = float(other.read(target, encoder) @ state)
        assert found.total[at] == pytest.approx(total, rel=1e-9, abs=1e-11)
        parts = found.carried(at)
        assert sum(parts.values()) == pytest.approx(total, rel=1e-9, abs=1e-11)
        sizes = [abs(each) for each in parts.values()]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_with_one_layer_of_attention_between_there_is_no_rest(kind: str):
    found = taken_apart(kind)
    apart = found.target[:, 0] - found.source[:, 0]
    assert np.abs(found.rest[apart == 1]).max() < 1e-12
    assert np.abs(found.rest[apart > 1]).min() > 1e-6
    assert np.abs(found.direct[found.source[:, 2] < found.target[:, 2]]).max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_hiding_the_source_from_one_head_costs_the_target_that_heads_share(kind: str):
    """In the model itself, all frozen but the one head's output on its way to the target."""
    model, found = double(kind), taken_apart(kind)
    vectors, known = features(model), levels(edges(model))
    run = FrozenRun(model, prompt(model))
    ids = torch.tensor([prompt(model).ids])
    for at in (1, 4, 7, 10, 16):
        source, target = edges(model)[at]
        written = known[source] * vectors.decoder[vectors.rows_of([source.feature])[0]]
        encoder = vectors.encoder[vectors.rows_of([target.feature])[0]]
        for layer in range(source.layer + 1, target.layer + 1):
            for head in range(model.n_heads):
                lost = _lost(model, ids, run, (layer, head), source, target, written, encoder)
                share = found.heads[at, layer, head]
                assert lost == pytest.approx(share, rel=1e-8, abs=1e-10)
                assert abs(share) > 1e-7


def _lost(
    model: Model,
    ids: Tensor,
    run: FrozenRun,
    site: tuple[int, int],
    source: Node,
    target: Node,
    written: Tensor,
    encoder: Tensor,
) -> float:
    """How much less the target reads where one head's values at the source lack what it wrote."""
    layer, head = site
    clean: dict[str, Tensor] = {}
    fixed = [taps.pattern(each) for each in range(model.n_layers)]
    fixed += [model.taps.mlp_out(each) for each in range(model.n_layers)]
    fixed += [taps.attention_raw(each) for each in range(model.n_layers) if each != layer]
    mine = (taps.head_outputs(layer), model.taps.mlp_residual(target.layer))

    def keep(value: Tensor, hook: Any) -> None:
        clean[hook.name] = value.clone()

    def hide(value: Tensor, hook: Any) -> Tensor:
        norm = run._norm(layer, "ln1")
        assert norm is not None
        gone = norm.at([source.at]).apply(written[None])[0]
        projected = model.head_input_weights(layer)[2]  # one a key-value head
        changed = value.clone()
        shape = changed[0, source.at].shape
        changed[0, source.at] -= torch.einsum("d,hdf->hf", gone, projected).reshape(shape)
        return changed

    def only_this_head(value: Tensor, hook: Any) -> Tensor:
        apart = (*value.shape[:2], model.n_heads, model.d_head)
        result = clean[hook.name].clone().reshape(apart)
        result[:, :, head] = value.reshape(apart)[:, :, head]
        return result.reshape(value.shape)

    read: list[Tensor] = []
    with torch.no_grad():
        model.last_logits(ids, [(name, keep) for name in (*fixed, *mine)])
        model.last_logits(
            ids,
            [
                *((name, lambda value, hook: clean[hook.name]) for name in fixed),
                (taps.projection(layer, "v"), hide),
                (mine[0], only_this_head),
                (mine[1], lambda value, hook: read.append(value[0, target.at].clone())),
            ],
        )
    change = clean[mine[1]][0, target.at] - read[0]
    norm = run._norm(target.layer, "ln2")
    assert norm is not None
    return float(encoder @ norm.at([target.at]).apply(change[None])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_may_read_before_the_norm_or_before_its_gain(kind: str):
    model, found = double(kind), taken_apart(kind)
    chosen, inside = edges(model), features(model)
    run = FrozenRun(model, prompt(model))
    target = chosen[-1][1]
    norm = run._norm(target.layer, "ln2")
    assert norm is not None
    (row,) = inside.rows_of([target.feature])
    outside = inside.encoder.clone()
    outside[row] = norm.at([target.at]).pull_back(inside.encoder[[row]])[0]
    wanted = [at for at, edge in enumerate(chosen) if edge[1] == target]
    ways = {"residual": outside, "normalized": inside.encoder * norm.gain}
    for reads, encoder in ways.items():
        other = carriers(
            model,
            prompt(model),
            [chosen[at] for at in wanted],
            replace(inside, encoder=encoder, reads=reads),
            levels(chosen),
        )
        for name in ("direct", "heads", "total"):
            np.testing.assert_allclose(getattr(other, name), getattr(found, name)[wanted], **TIGHT)


@pytest.mark.parametrize(
    "family",
    [
        name
        for name in FAMILIES
        if name.partition(",")[0]
        not in ("gptj", "opt", "gpt_neo", "mixtral", "qwen2_moe", "qwen3_moe")
    ],
)
def test_neurons_read_and_write_what_the_model_does_in_every_architecture(family: str):
    model = family_model(family)
    asked, last = prompt(model), len(prompt(model)) - 1
    ids = torch.tensor([asked.ids])
    seen: dict[str, Tensor] = {}
    into = taps.norm_ends(1, model.taps.mlp_norm)[1] if model.taps.mlp_norm else taps.mlp_in(1)
    gated = hasattr(model.bridge.blocks[1].mlp, "gate")
    acts = taps.mlp_gate(1) if gated else taps.mlp_up(1)
    names = (into, acts, taps.mlp_keys(1), taps.mlp_raw(1))
    keep = lambda value, hook: seen.__setitem__(hook.name, value[0])  # noqa: E731
    with torch.no_grad():
        model.last_logits(ids, [(name, keep) for name in names])
    linear = seen[into] @ neuron_encoders(model, 1).T - seen[acts]
    torch.testing.assert_close(linear, linear[:1].expand_as(linear))  # what is left is the bias
    rest = seen[names[3]] - seen[names[2]] @ model.mlp_output_matrix(1).T
    torch.testing.assert_close(rest, rest[:1].expand_as(rest))
    target = Node(1, 3, last)
    found = carriers(model, asked, strongest_sources(model, asked, target, 6))
    assert np.abs(found.rest).max() < 1e-12  # one layer of attention, or none, lies between
    sizes = np.abs(found.total)
    assert (np.diff(sizes) <= 1e-12).all()
    every = [
        (Node(0, index, at), target)
        for index in range(len(model.mlp_output_matrix(0).T))
        for at in range(last + 1)
    ]
    totals = np.abs(carriers(model, asked, every).total)
    np.testing.assert_allclose(np.sort(totals)[::-1][:6], sizes, **TIGHT)


def test_neurons_as_a_file_of_directions_give_the_same(tmp_path: Path):
    model = double("llama")
    asked, target = prompt(model), Node(3, 5, len(prompt(model)) - 1)
    found = carriers(model, asked, strongest_sources(model, asked, target, 4))
    chosen = [(Node.of(a), Node.of(b)) for a, b in found.edges]
    used = [node.feature for edge in chosen for node in edge]
    neuron_directions(model, used).save(tmp_path / "neurons.safetensors")
    read = Directions.load(tmp_path / "neurons.safetensors")
    assert (read.reads, read.writes) == (Reads.MLP, Writes.MLP)
    known = dict(zip((a for a, _ in chosen), found.activation.tolist(), strict=True))
    again = carriers(model, asked, chosen, read, known)
    np.testing.assert_allclose(again.heads, found.heads, **TIGHT)
    np.testing.assert_allclose(again.total, found.total, **TIGHT)
    assert found.provenance["encoder"] == "gate"
    alone = carriers(model, asked, chosen, read)  # no activation is known
    np.testing.assert_allclose(alone.total * found.activation, found.total, **TIGHT)
    assert alone.provenance["activation"] == "1"


def test_the_run_leaves_no_trace_in_the_model():
    model = double("gpt2")
    ids = torch.tensor([prompt(model).ids])
    before = model.last_logits(ids)
    taken_apart.__wrapped__("gpt2")
    assert torch.equal(model.last_logits(ids), before)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())


GOOD = {
    "layer": torch.tensor([0, 1]),
    "index": torch.tensor([3, 4]),
    "encoder": torch.ones(2, 8),
    "decoder": torch.ones(2, 8),
}


@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        ({"decoder": None}, {}, "no tensor 'decoder'"),
        ({"layer": torch.tensor([0.0, 1.0])}, {}, "not whole numbers"),
        ({"layer": torch.tensor([[0], [1]])}, {}, "has 2 axes"),
        ({"layer": torch.tensor([0])}, {}, "do not fit each other"),
        ({"layer": torch.tensor([0, -1])}, {}, "counted from 0"),
        ({"layer": torch.tensor([0, 0]), "index": torch.tensor([3, 3])}, {}, "there twice"),
        ({"encoder": torch.ones(2, 8, dtype=torch.int64)}, {}, "not floating-point"),
        ({"encoder": torch.full((2, 8), torch.nan)}, {}, "NaN or infinity"),
        ({"decoder": torch.ones(2, 9)}, {}, "do not fit each other"),
        ({name: each[:0] for name, each in GOOD.items()}, {}, "not one feature"),
        ({}, {"reads": "attention"}, "reads"),
        ({}, {"writes": "everywhere"}, "writes"),
    ],
)
def test_a_file_that_holds_no_directions_is_refused_in_one_line(
    change: dict[str, Any], words: dict[str, str], reason: str, tmp_path: Path
):
    path = tmp_path / "x.safetensors"
    save_file({k: v for k, v in {**GOOD, **change}.items() if v is not None}, path, words)
    with pytest.raises(FileFormatError, match=reason) as caught:
        Directions.load(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileFormatError, match="no such file"):
        Directions.load(path)
    for content in (b"", b"nonsense, and long enough", b"\x80\x04 pickled"):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="is no safetensors file"):
            Directions.load(path)
    with pytest.raises(FileFormatError, match="is no file"):
        Directions.load(tmp_path)
    with pytest.raises(kc.KnowledgeCircuitsError, match=r"\.safetensors"):
        features(double("gpt2")).save(tmp_path / "x.pt")


def graph_of(found: Carriers, kind: str = "cross layer transcoder") -> dict[str, Any]:
    """A graph as circuit-tracer writes it: the edges, and tokens, errors and logits around them."""
    ends = [*found.source.tolist(), *found.target.tolist()]
    known = dict(zip(map(tuple, found.source.tolist()), found.activation.tolist(), strict=True))
    nodes = [
        {
            "node_id": "_".join(map(str, end)),
            "feature": sum(end[:2]) * (sum(end[:2]) + 1) // 2 + end[1],
            "layer": str(end[0]),
            "ctx_idx": end[2],
            "feature_type": kind,
            "jsNodeId": f"{end[0]}_{end[1]}-0",
            "clerp": "",
            **({"activation": known[end]} if end in known else {}),
        }
        for end in dict.fromkeys(map(tuple, ends))
    ]
    other = {"jsNodeId": "x", "clerp": "", "ctx_idx": 0}
    nodes += [
        {**other, "node_id": "E_9_0", "feature": 1, "layer": "E", "feature_type": "embedding"},
        {
            **other,
            "node_id": "0_2_0",
            "feature": -1,
            "layer": "2",
            "feature_type": "mlp reconstruction error",
        },
    ]
    weights = found.total.tolist()
    links = [
        {"source": a, "target": b, "weight": weight}
        for (a, b), weight in zip(found.edges, weights, strict=True)
    ]
    links += [{"source": each, "target": links[0]["target"], "weight": 9.0} for each in ("E_9_0",)]
    links += [{"source": "0_2_0", "target": links[0]["target"], "weight": -9.0}]
    return {
        "metadata": {
            "slug": "x",
            "scan": "tiny",
            "prompt": found.prompt,
            "prompt_tokens": list(found.tokens),
        },
        "qParams": {},
        "nodes": nodes,
        "links": links,
    }


def test_the_links_of_a_graph_are_found_weighed_and_written_back(tmp_path: Path):
    model = double("gpt2")
    found = taken_apart("gpt2")
    document = graph_of(found)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(document))
    graph = AttributionGraph.of(document)
    links = FeatureLinks.of(graph)
    assert links.n_others == 2
    assert set(links.weight) == set(edges(model))
    assert not links.are_neurons
    features(model).save(tmp_path / "d.safetensors")
    again = kc.carriers(model, graph=path, directions=tmp_path / "d.safetensors", n=4)
    strongest = np.argsort(-np.abs(found.total))[:4]
    np.testing.assert_allclose(again.total, found.total[strongest], rtol=1e-6)
    np.testing.assert_allclose(again.heads, found.heads[strongest], rtol=1e-5, atol=1e-8)
    misfit = again.misfit()
    assert misfit is not None
    assert misfit < 1e-6
    assert again.says().endswith("totals are off the graph's weights by 0 %.")
    again.annotate(path, tmp_path / "new.json")
    written = json.loads((tmp_path / "new.json").read_text())
    told = [link.pop("carriers", None) for link in written["links"]]
    assert written == document
    assert sum(each is not None for each in told) == 4
    again.annotate(path, path)
    read = load_graph(path)
    assert isinstance(read, AttributionGraph)
    assert len(read.carriers) == 4
    [first] = [row for row in read.rows() if (row["source"], row["target"]) == again.edges[0]]
    assert first["carrier"] == next(iter(again.carried(0)))
    assert read.summary().facts["heads"] == "of 4 links the file says what carries them"
    with pytest.raises(OptionError, match="has no link"):
        carriers_of(model, graph=graph, directions=features(model), edges=[("0_0_0", "1_0_0")])
    with pytest.raises(OptionError, match="no link from a feature into"):
        carriers_of(model, graph=graph, directions=features(model), into="1_0_0")
    with pytest.raises(OptionError, match="type 'cross layer transcoder'"):
        carriers_of(model, graph=graph)
    lone = {**document, "links": document["links"][-2:]}
    with pytest.raises(OptionError, match="no link from a feature to a feature"):
        FeatureLinks.of(AttributionGraph.of(lone))


def test_a_graph_of_another_prompt_or_model_is_refused_and_its_bos_is_found():
    model = double("llama")
    graph = AttributionGraph.of(graph_of(taken_apart("llama")))
    assert prompt_of(model, None, graph).tokens == taken_apart("llama").tokens
    assert prompt_of(model, f"<s>{TEXT}", graph).tokens == taken_apart("llama").tokens
    bare = replace(
        graph, metadata={**graph.metadata, "prompt_tokens": list(taken_apart("llama").tokens[1:])}
    )
    assert not prompt_of(model, None, bare).bos
    with pytest.raises(PromptError, match="does not make of"):
        prompt_of(model, None, bare, bos=True)
    with pytest.raises(PromptError, match="does not make of"):
        prompt_of(model, "The capital of Peru is not", graph)
    with pytest.raises(OptionError, match="give a `prompt`"):
        prompt_of(model, None, None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "name an `edge`"),
        ({"edges": [("a", "b")]}, "names no feature"),
        ({"edges": [("1_0_2", "1_0_3")]}, "no later layer"),
        ({"edges": [("0_0_3", "1_0_2")]}, "an earlier token"),
        ({"edges": [("0_0_0", "9_0_3")]}, "not within 4 layers"),
        ({"edges": [("0_0_0", "1_0_99")]}, "not within 4 layers"),
        ({"edges": [("0_999_0", "1_0_3")]}, "has neurons 0 to 127, not 999"),
        ({"into": "0_0_0"}, "in the first layer"),
        ({"into": "9_0_0"}, "not within 4 layers"),
        ({"into": "1_0_0", "n": 0}, "at least 1 edge"),
        ({"into": "1_0_0", "edges": [("0_0_0", "1_0_3")]}, "not both"),
        ({"into": "1_0_0", "directions": features}, "ranks the model's neurons"),
        ({"edges": [("0_9_0", "1_0_3")], "directions": features}, "no directions of feature 9"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(options: dict[str, Any], reason: str):
    model = double("gpt2")
    if "directions" in options:
        options = {**options, "directions": options["directions"](model)}
    with pytest.raises(OptionError, match=reason):
        carriers_of(model, TEXT, **options)


def test_what_is_missing_or_of_another_model_is_refused():
    model = double("gpt2")
    narrow = Directions(**GOOD)
    with pytest.raises(OptionError, match="width 8"):
        carriers(model, prompt(model), [(Node(0, 3, 0), Node(1, 4, 1))], narrow)
    with pytest.raises(OptionError, match="activation of 0_0_1 is not known"):
        carriers(model, prompt(model), edges(model)[:1], features(model), {})
    with pytest.raises(OptionError, match="no edges"):
        carriers(model, prompt(model), [])
    for family, reason in (("gptj", "no hook can freeze"), ("mixtral", "mixes experts")):
        with pytest.raises(Unsupported, match=reason):
            carriers_of(family_model(family), TEXT, edges=[("0_0_0", "1_0_2")])


def test_the_command_takes_neurons_apart_and_its_file_is_shown(tmp_path: Path, capsys):
    words = ["carriers", "--model", "facts-gpt2", "--prompt", "The capital of France is"]
    assert main([*words, "--into", "6_545_5", "-n", "6", "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(each).name for each in told["files"]] == [
        "carriers.kc.safetensors",
        "carriers.csv",
        "summary.json",
    ]
    # Facts are recalled in layer 2 at the subject, and moved to the end by heads of layer 6.
    assert {edge["source"].split("_")[0] for edge in told["edges"]} == {"2"}
    assert {edge["at"] for edge in told["edges"]} == {" France"}
    assert all(edge["strongest_head"].startswith("a6.") for edge in told["edges"])
    assert all(edge["residual"] == 0 for edge in told["edges"])
    assert main(["show", str(tmp_path / "carriers.kc.safetensors")]) == 0
    assert "a6.h4 alone carries most of all heads" in capsys.readouterr().out
    assert main([*words, "--edge", "2_37_4", "6_545_5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The edge from 2_37_4 (at 'France') to 6_545_5 (at 'is') after")
    assert "a6.h4 alone carries 0.0409 (the median of 32 heads between is" in out
    assert main([*words, "--edge", "2_37_4", "6_545_5", "-n", "3"]) == 2
    assert "--edges has no effect" in capsys.readouterr().err
    assert main([*words]) == 2
    assert "name an --edge, or a feature that edges are --into" in capsys.readouterr().err


def test_the_command_reads_a_graph_warns_of_another_and_writes_its_links(tmp_path: Path, capsys):
    model = kc.load("facts-gpt2")
    text, into = "The capital of France is", "6_545_5"
    found = kc.carriers(model, text, into=into, n=5)
    document = graph_of(found, "neuron")
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(document))
    words = ["carriers", str(path), "--model", "facts-gpt2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "off the graph's weights by 0 %" in captured.out
    assert "warning" not in captured.err
    written = load_graph(tmp_path / "out" / "graph.json")
    assert isinstance(written, AttributionGraph)
    assert len(written.carriers) == 5
    for link in document["links"]:
        link["weight"] *= 1.5
    path.write_text(json.dumps(document))
    assert main([*words, "--edge", *found.edges[0]]) == 0
    assert "may be others than the graph's" in capsys.readouterr().err
    assert main([*words[:2], "--model", "facts-llama"]) == 2
    assert "has neurons 0 to 447" in capsys.readouterr().err


def test_an_edge_that_no_head_carries_says_so():
    found = taken_apart("gpt2")
    one = replace(
        found,
        **{name: getattr(found, name)[:1] for name in ("source", "target", "activation", "total")},
        direct=found.total[:1],
        heads=np.zeros_like(found.heads[:1]),
    )
    assert one.says().startswith("No evidence that any single head carries it")
    flat = replace(found, heads=np.zeros_like(found.heads))
    assert flat.says().startswith("No evidence that any single head carries them")
    assert Feature(1, 2) == Node(1, 2, 3).feature
