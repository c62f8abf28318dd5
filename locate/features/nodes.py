"""Features at positions of a prompt, by their names, and the links between them in a graph's file.

A name is `LAYER_FEATURE_POSITION`, as the node ids of circuit-tracer's attribution graphs: 3_17_5
is feature 17 of layer 3 at position 5, all counted from 0 and a BOS token included. What such a
file calls `feature` is another number, which pairs layer and feature in one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from circuits.base.errors import OptionError, PromptError
from circuits.files.attribution import AttributionGraph
from circuits.files.neuronpedia import EMBEDDING, HEAD, LOGIT, MLP
from circuits.model.model import Model
from circuits.model.tokens import Prompt
from locate.features.directions import Feature

_NAME = re.compile(r"(\d{1,9})_(\d{1,9})_(\d{1,9})")
_NO_FEATURE = (EMBEDDING, LOGIT, HEAD, MLP)
NEURON = "neuron"
"""The word by which a node's type says that its feature is a neuron of the model."""


class Node(NamedTuple):
    """A feature at a position."""

    layer: int
    number: int
    at: int

    @property
    def name(self) -> str:
        """As graphs name it: 3_17_5."""
        return f"{self.layer}_{self.number}_{self.at}"

    @property
    def feature(self) -> Feature:
        """The feature, wherever it is."""
        return Feature(self.layer, self.number)

    @classmethod
    def of(cls, name: str) -> Node:
        """From its name; OptionError for any other text."""
        found = _NAME.fullmatch(name.strip())
        if found is None:
            raise OptionError(
                f"{name!r:.60} names no feature: LAYER_FEATURE_POSITION, as 3_17_5, does"
            )
        return cls(*map(int, found.groups()))


Edge = tuple[Node, Node]
"""From a feature to a feature of a later layer, at the same or a later position."""


@dataclass(frozen=True)
class FeatureLinks:
    """A graph's links from feature to feature by their ends, the largest |weight| first.

    `activation` is the file's, of the features that have one; `n_others` is how many links are from
    or to anything else; `types` are what the file calls these features.
    """

    weight: Mapping[Edge, float]
    activation: Mapping[Node, float]
    n_others: int
    types: frozenset[str]

    @classmethod
    def of(cls, graph: AttributionGraph) -> FeatureLinks:
        """Those of a graph; OptionError where there are none."""
        nodes = [_node_of(each) for each in graph.nodes]
        ends = zip(graph.source.tolist(), graph.target.tolist(), strict=True)
        found: dict[Edge, float] = {}
        types: set[str] = set()
        for (a, b), weight in zip(ends, graph.weight.tolist(), strict=True):
            source, target = nodes[a], nodes[b]
            if source is not None and target is not None:
                found[source, target] = found.get((source, target), 0.0) + weight
                types |= {str(graph.nodes[each]["feature_type"]) for each in (a, b)}
        if not found:
            raise OptionError("the graph has no link from a feature to a feature")
        known = {
            node: float(each["activation"])
            for node, each in zip(nodes, graph.nodes, strict=True)
            if node is not None and each.get("activation") is not None
        }
        ordered = dict(sorted(found.items(), key=lambda each: -abs(each[1])))
        return cls(ordered, known, len(graph.weight) - len(found), frozenset(types))

    @property
    def are_neurons(self) -> bool:
        """Whether the file says that its features are the model's own neurons."""
        return all(NEURON in kind.lower() for kind in self.types)


def prompt_of(
    model: Model, text: str | None, graph: AttributionGraph | None, bos: bool | None = None
) -> Prompt:
    """The prompt that is read: `text`, or else the graph's own, of the tokens that the graph has.

    Without a choice of `bos` it is the one that gives the graph's tokens. PromptError where the
    model's tokens are others than the graph's.
    """
    if graph is None:
        if text is None:
            raise OptionError("give a `prompt`, or a graph that has one")
        return model.tokenizer.encode(text, bos)
    text = str(graph.metadata["prompt"]) if text is None else text
    theirs = [_letters(each) for each in graph.metadata["prompt_tokens"]]
    begin = model.tokenizer.hf.bos_token
    if begin and text.startswith(begin):  # graphs may have it in the text
        text = text.removeprefix(begin)
    usual = model.tokenizer.use_bos(bos)
    other = [] if bos is not None or not begin else [not usual]
    for choice in (usual, *other):
        found = model.tokenizer.encode(text, choice)
        if [_letters(each) for each in found.tokens] == theirs:
            return found
    raise PromptError(
        f"the graph's prompt is {len(theirs)} tokens that {model.name!r} does not make of "
        f"{text!r:.60}: its model, its `prompt` or its `bos` is another"
    )


def check_edges(edges: Sequence[Edge], n_layers: int, n_positions: int) -> None:
    """OptionError for an edge that no model of so many layers has at so many tokens."""
    for source, target in edges:
        for node in (source, target):
            if node.layer >= n_layers or node.at >= n_positions:
                raise OptionError(
                    f"{node.name} is not within {n_layers} layers and {n_positions} tokens"
                )
        if target.layer <= source.layer or target.at < source.at:
            raise OptionError(
                f"{source.name} → {target.name} runs to no later layer, or to an earlier token"
            )


def _node_of(node: Mapping[str, Any]) -> Node | None:
    """A feature of a file's node, by its id; None for tokens, errors, logits, heads and MLPs."""
    kind, name = str(node["feature_type"]), _NAME.fullmatch(node["node_id"])
    if kind in _NO_FEATURE or "error" in kind.lower() or name is None:
        return None
    found = Node(*map(int, name.groups()))
    return found if (str(found.layer), found.at) == (str(node["layer"]), node["ctx_idx"]) else None


def _letters(token: str) -> str:
    """A token without what is written in different ways: spaces and line ends."""
    return "".join(letter for letter in token if letter.isalnum())
