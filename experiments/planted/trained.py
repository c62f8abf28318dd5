"""Circuits that are trained in, not written: a GPT-2 that has to compute as a program says.

Strict interchange-intervention training (Geiger et al. 2022, arXiv:2112.00826; its strict form is
InterpBench's: Gupta et al. 2024, arXiv:2407.14494). At every step sites of the run of a prompt,
each a head's query, key, value or output, or an MLP's output, are exchanged for what they are in
the run of another prompt. Where one of them is a site that the program says holds the answer, the
model must now give the other prompt's answer, else its own; where a later such site is held as it
was, its own again, so that nothing of the answer goes past a site. Any number of sites that do not
hold it are exchanged together: else several of them could hold it in common, and none alone. So
what the program lacks may carry something, but nothing that decides, and the weights, unlike a
compiled model's, are as descent made them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from circuits.base.errors import NumericalError, OptionError
from circuits.model.model import Model
from circuits.model.wiring import Wiring
from experiments.planted.layout import D_HEAD, N_HEADS, WIDTH, tokenizer_of
from experiments.planted.program import Program
from experiments.planted.wire import gpt2

STEPS = 400
STARTS = 5
"""Random weights from which descent begins, one after the other, until one learns the task."""
RATE = 3e-3
EVERY = 40
"""Steps between two looks at whether all interventions come out right by MARGIN."""
MARGIN = 3.0
"""Logits by which the right answer must be ahead of every other word."""


class Site(NamedTuple):
    """What one intervention exchanges: so many columns of what a hooked module reads or writes.

    `module` is the module's place among all hooked ones, three a layer: queries, keys and values;
    heads; MLP. `carries`: the answer is there.
    """

    name: str
    module: int
    width: int
    carries: bool


def sites(program: Program) -> list[Site]:
    """All sites of the program's GPT-2 in the order of modules and their columns."""
    wiring = Wiring(program.n_layers, N_HEADS, N_HEADS)
    truth = program.truth(wiring)
    edges = [wiring.edge_name(i).split("->") for i in truth.nonzero()[0]]
    passed = {name for edge in edges for name in edge}
    found = []
    for layer in range(program.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(N_HEADS)]
        names = [
            *((f"{head}<{slot}>", 0, D_HEAD) for slot in "qkv" for head in heads),
            *((head, 1, D_HEAD) for head in heads),
            (f"m{layer}", 2, WIDTH),
        ]
        found += [
            Site(name, 3 * layer + place, width, name in passed) for name, place, width in names
        ]
    return found


def trained(program: Program, seed: int = 0, steps: int = STEPS, starts: int = STARTS) -> Model:
    """A GPT-2 trained until every intervention at every site comes out as the program says.

    For programs in which each edge alone decides, and prompts differ in what is asked alone.
    NumericalError where `steps` from any of so many `starts` do not suffice.
    """
    if program.redundant or program.weakens:
        raise OptionError(f"{program.name} has edges that do not decide alone: train others")
    tokenizer = tokenizer_of(program)
    answers = {each.clean: each.answer for each in program.examples}
    tokens = torch.tensor(tokenizer(list(answers))["input_ids"])
    wanted = torch.tensor(tokenizer.convert_tokens_to_ids(list(answers.values())))
    task = _Task(gpt2(program.n_layers, len(tokenizer), 2 * WIDTH), sites(program), tokens, wanted)
    generator = torch.Generator().manual_seed(seed)
    if not any(task.learnt(generator, steps) for _ in range(starts)):
        raise NumericalError(
            f"{program.name} is not learnt from {starts} starts of {steps} steps; take another seed"
        )
    task.hf.requires_grad_(False)
    return Model.from_hf(task.hf, tokenizer, f"{program.name}/trained")


class _Task:
    """The prompts, and interventions between any two of them."""

    def __init__(
        self,
        hf: GPT2LMHeadModel,
        found: list[Site],
        tokens: Int[Tensor, "prompt pos"],
        wanted: Int[Tensor, " prompt"],
    ) -> None:
        self.hf, self.sites, self.tokens, self.wanted = hf, found, tokens, wanted
        self.carries = torch.tensor([site.carries for site in found])
        blocks: Any = hf.transformer.h
        self.points: list[tuple[Any, bool]] = [
            point
            for block in blocks
            for point in ((block.attn.c_attn, False), (block.attn.c_proj, True), (block.mlp, False))
        ]
        n = len(tokens)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        self.base, self.donor = torch.tensor(pairs).T

    def learnt(self, generator: torch.Generator, steps: int) -> bool:
        """Descent from new random weights; whether every intervention comes out right."""
        self.begin(generator)
        for step in range(steps):
            self.step(step / steps)
            if step % EVERY == EVERY - 1 and self.margin() > MARGIN:
                return True
        return False

    @torch.no_grad()
    def begin(self, generator: torch.Generator) -> None:
        """Random weights of the usual size."""
        self.generator = generator
        for name, parameter in self.hf.named_parameters():
            if parameter.ndim > 1:
                size = 0.3 if "wte" in name or "wpe" in name else parameter.shape[0] ** -0.5
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.fill_(float("ln_" in name and name.endswith("weight")))
        self.descent = torch.optim.AdamW(self.hf.parameters(), lr=RATE, weight_decay=0.02)

    def step(self, done: float) -> None:
        """One step of descent: plain runs, and every pair of prompts with a site of its own."""
        for group in self.descent.param_groups:
            group["lr"] = RATE * (1 - 0.9 * done)
        n = len(self.base)
        draw = partial(torch.rand, generator=self.generator)
        share = draw(n, 1) * draw(n, 1)
        chosen = ~self.carries & (draw(n, len(self.sites)) < share)
        drawn = draw(n, len(self.sites))
        chosen |= self.carries & (drawn < 0.2)
        held = self.carries & (drawn > 0.8)
        plain, kept = self._plain()
        changed = self._exchanged(chosen, held, kept)
        right = self._right(chosen, held)
        loss = cross_entropy(plain, self.wanted) + cross_entropy(changed, right)
        self.descent.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.hf.parameters(), 1.0)
        self.descent.step()

    @torch.no_grad()
    def margin(self) -> float:
        """The least lead of the right answer over all pairs: with each site exchanged by itself,
        all together that carry no answer, and all but one that does, which is held.
        """
        _, kept = self._plain()
        every, none = torch.eye(len(self.sites), dtype=torch.bool), torch.zeros_like(self.carries)
        tried = [(each, none) for each in (*every, ~self.carries)]
        tried += [(~each, each) for each in every[self.carries]]
        worst = float("inf")
        for one, other in tried:
            chosen, held = (each.expand(len(self.base), -1) for each in (one, other))
            right = self._right(chosen, held)[:, None]
            logits = self._exchanged(chosen, held, kept)
            ahead = logits.gather(1, right)
            rest = logits.scatter(1, right, -torch.inf).amax(1, keepdim=True)
            worst = min(worst, float((ahead - rest).min()))
        return worst

    def _right(
        self, chosen: Bool[Tensor, "pair site"], held: Bool[Tensor, "pair site"]
    ) -> Int[Tensor, " pair"]:
        """The answer that each pair must give: what the last site has that was set and carries it.

        Sites stand in the order in which a run comes by them.
        """
        place = torch.arange(1, len(self.sites) + 1)
        given, kept = ((place * (each & self.carries)).amax(1) for each in (chosen, held))
        return self.wanted[torch.where(given > kept, self.donor, self.base)]

    def _plain(self) -> tuple[Float[Tensor, "prompt vocab"], list[Tensor]]:
        """Last logits of every prompt, and what its run has at every hooked module."""
        kept: list[Tensor] = []

        def keep(place: int, value: Tensor) -> None:
            kept.append(value)

        with self._hooked(keep):
            return self.hf(self.tokens).logits[:, -1], kept

    def _exchanged(
        self,
        chosen: Bool[Tensor, "pair site"],
        held: Bool[Tensor, "pair site"],
        kept: list[Tensor],
    ) -> Float[Tensor, "pair vocab"]:
        """Last logits of every pair's base, chosen sites as in the donor's run, held ones as in its
        own.
        """

        def exchange(place: int, value: Tensor) -> Tensor:
            for sites, run in ((chosen, self.donor), (held, self.base)):
                mask = self._mask(sites, place)[:, None]
                value = torch.where(mask, kept[place][run], value)
            return value

        with self._hooked(exchange):
            return self.hf(self.tokens[self.base]).logits[:, -1]

    def _mask(self, chosen: Bool[Tensor, "pair site"], place: int) -> Bool[Tensor, "pair width"]:
        own = [i for i, site in enumerate(self.sites) if site.module == place]
        return chosen[:, own].repeat_interleave(self.sites[own[0]].width, 1)

    @contextmanager
    def _hooked(self, act: Any) -> Iterator[None]:
        """Within the block `act` is given what every hooked module reads or writes."""

        def before(place: int, module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
            new = act(place, inputs[0])
            return None if new is None else (new,)

        def after(place: int, module: Any, inputs: Any, output: Tensor) -> Tensor | None:
            return act(place, output)  # type: ignore[no-any-return]

        handles = [
            module.register_forward_pre_hook(partial(before, place))
            if reads
            else module.register_forward_hook(partial(after, place))
            for place, (module, reads) in enumerate(self.points)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
