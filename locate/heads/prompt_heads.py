"""Heads on example prompts: where each looks at the last token, and which tokens it writes there.

What `locate.heads.roles` averages over a relation, token by token for single prompts, so that a
picture of a head can be drawn, and drawn again from a file, without the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from circuits.base.errors import OptionError
from circuits.facts.pairs import TokenPair
from circuits.graph.circuit import Circuit
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.wiring import head_site, node_kind
from locate.heads.heads_on_prompts import N_WRITTEN, PromptHeads
from locate.heads.weighted import read_sites
from locate.states.attribution import written_tokens

# As many prompts as fit a glance; a head that behaves differently on each has no simple role.
N_PROMPTS = 3
AT_ONCE = 128
"""Heads whose logits over the whole vocabulary are held at a time."""


def heads_of(circuit: Circuit) -> list[str]:
    """The circuit's heads and those that its shared key-value heads serve.

    First the one whose kept edges carry the largest sum of |score|; in layer order without scores.
    """
    wiring = circuit.wiring
    nodes = [node for node in circuit.nodes() if node_kind(node) in ("head", "kv")]
    found = {head for node in nodes for head in wiring.heads_of(node)}
    sizes = np.zeros(wiring.n_edges)
    if circuit.scores is not None:
        sizes = np.where(circuit.kept, np.abs(circuit.scores.values), 0.0)
    order = np.argsort(-np.bincount(wiring.edge_src, sizes, wiring.n_src), kind="stable")
    return [name for name in (wiring.src_names[src] for src in order) if name in found]


@alone
@torch.no_grad()
def read_prompt(
    model: Model,
    pair: TokenPair,
    heads: Sequence[str],
    roles: Mapping[str, str] | None = None,
    n_written: int = N_WRITTEN,
) -> PromptHeads:
    """Read heads (`a5.h3`) at the last token of a pair's clean prompt; `roles` may label them.

    OptionError for a head that the model does not have.
    """
    names = model.wiring().src_names
    for head in heads:
        if node_kind(head) != "head" or head not in names:
            raise OptionError(f"{model.name!r} has no head {head!r}")
    sites = [head_site(head) for head in heads]
    tokens = torch.tensor([pair.clean.ids], device=model.device)
    attention, weighted = read_sites(model, tokens, sites).numpy()
    written = [
        each
        for start in range(0, len(sites), AT_ONCE)
        for each in written_tokens(model, pair.clean, sites[start : start + AT_ONCE], n_written)
    ]
    return PromptHeads(
        prompt=pair.text.clean,
        tokens=pair.clean.tokens,
        subject=pair.subject,
        answer=pair.text.answer,
        answer_token=model.tokenizer.token_string(pair.answer),
        heads=tuple(heads),
        attention=attention,
        weighted=weighted,
        raised=tuple(each.raised for each in written),
        lowered=tuple(each.lowered for each in written),
        roles={head: label for head, label in (roles or {}).items() if head in heads},
        provenance={**model.provenance, "method": "heads on prompts", "bos": pair.clean.bos},
    )


@alone
def read_prompts(
    model: Model,
    pairs: Sequence[TokenPair],
    heads: Sequence[str],
    roles: Mapping[str, str] | None = None,
    n_prompts: int = N_PROMPTS,
) -> list[PromptHeads]:
    """Read heads on the first few distinct clean prompts; nothing where there are no heads."""
    distinct = {pair.text.clean: pair for pair in pairs}
    chosen = list(distinct.values())[:n_prompts] if heads else []
    return [read_prompt(model, pair, heads, roles) for pair in chosen]
