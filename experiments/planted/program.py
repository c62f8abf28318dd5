"""Programs: what a planted circuit computes, in registers of the residual stream; no weights yet.

A *register* is a named block of directions of the residual stream, one a symbol. Words set symbols
of registers; heads match a register at the query's place against one at the key's and copy
registers; MLP units fire on sums of symbols and write symbols; words are read out of symbols. That
a program is laid out in named subspaces, from which weights follow, is the idea of RASP and Tracr
(Weiss et al. 2021, arXiv:2106.06981; Lindner et al. 2023, arXiv:2301.05062).

A program's true edges follow from its text alone (`Program.truth`): the registers in which clean
and corrupted prompts differ are followed from what writes them to what reads them, and what does
not lead on to the logits is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from circuits.base.choices import Ablation
from circuits.facts.pairs import PromptPair
from circuits.model.wiring import Wiring

ONE = "one"
"""A register that every word sets, the first token included: the number 1."""
BOS = "bos"
"""A register that the first token alone sets: where a head looks that finds nothing."""
SHARP = 6.0
"""Usual attention score of a match, in nats: 98 % of the attention among ten tokens."""
Symbol = tuple[str, int]
"""A register and the number of one of its directions."""


@dataclass(frozen=True)
class Match:
    """A head's score rises by `strength` where the query's symbol is the key's."""

    query: str
    key: str
    strength: float = SHARP


@dataclass(frozen=True)
class Move:
    """A head copies a register from where it looks, times `gain`, into another where it stands."""

    read: str
    write: str
    gain: float = 1.0


@dataclass(frozen=True)
class Head:
    """A planted head. With `offset` it looks so many tokens back; else where its matches are best.

    `rest` is the score of the first token, where it looks when nothing matches.
    """

    layer: int
    head: int
    moves: tuple[Move, ...]
    matches: tuple[Match, ...] = ()
    offset: int | None = None
    rest: float = SHARP / 2

    @property
    def node(self) -> str:
        """Its name as a source."""
        return f"a{self.layer}.h{self.head}"

    def reads(self) -> Iterator[tuple[str, str]]:
        """Slot and register of everything that it reads."""
        for match in self.matches:
            yield "q", match.query
            yield "k", match.key
        if self.offset is None:
            yield "q", ONE
            yield "k", BOS
        for move in self.moves:
            yield "v", move.read

    def writes(self) -> set[str]:
        """Registers that it writes."""
        return {move.write for move in self.moves}


@dataclass(frozen=True)
class Unit:
    """An MLP unit: max(0, sum of weight x symbol - threshold), times a gain into each symbol."""

    reads: tuple[tuple[Symbol, float], ...]
    threshold: float
    writes: tuple[tuple[Symbol, float], ...]


@dataclass(frozen=True)
class Mlp:
    """A planted MLP. What stands in `scaled_by` it reads through its norm's denominator alone."""

    layer: int
    units: tuple[Unit, ...]
    scaled_by: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """Its name as a source."""
        return f"m{self.layer}"

    def reads(self) -> Iterator[tuple[str, str]]:
        """An empty slot and the register of everything that it reads."""
        for name in self.scaled_by:
            yield "", name
        for unit in self.units:
            for (register, _), _ in unit.reads:
                yield "", register

    def writes(self) -> set[str]:
        """Registers that it writes."""
        return {register for unit in self.units for (register, _), _ in unit.writes}


def table(layer: int, rows: Sequence[tuple[Sequence[Symbol], Symbol]]) -> Mlp:
    """A look-up: where all symbols of a row's left side are set, its right side is written.

    It restores: a symbol that came through at 0.5 or 1.3 leaves at nearer 1, and one below a
    quarter fades, so that a chain of look-ups neither grows nor dies. Its slope at 1 is a half.
    """
    units = []
    for keys, value in rows:
        reads = tuple((each, 1.0) for each in keys)
        for knee, bend in ((0.1, 1.6), (0.6, -1.1)):
            units.append(Unit(reads, len(keys) - 1 + knee, ((value, bend),)))
    return Mlp(layer, tuple(units))


@dataclass(frozen=True)
class Readout:
    """Which word is said for which symbol; `scaled_by` as an MLP's."""

    words: Mapping[str, Symbol]
    scaled_by: tuple[str, ...] = ()

    def reads(self) -> set[str]:
        """Registers that reach the logits."""
        return {register for register, _ in self.words.values()} | set(self.scaled_by)


@dataclass(frozen=True)
class Example:
    """Clean and corrupted prompt, whose right next words are answer and foil."""

    clean: str
    corrupted: str
    answer: str
    foil: str

    def pair(self) -> PromptPair:
        """As locators take it."""
        return PromptPair(self.clean, self.corrupted, self.answer, self.foil)


@dataclass(frozen=True)
class Program:
    """A task and the circuit that does it.

    `registers` are sizes by name, `words` the symbols that each word sets. `redundant` are true
    edges that the answer survives without, in the words of `Wiring` (key and value inputs by query
    head); `weakens` are those without which it is only changed by a part.
    """

    name: str
    text: str
    registers: Mapping[str, int]
    words: Mapping[str, tuple[Symbol, ...]]
    parts: tuple[Head | Mlp, ...]
    readout: Readout
    examples: tuple[Example, ...]
    n_layers: int = 3
    redundant: frozenset[str] = frozenset()
    weakens: frozenset[str] = field(default_factory=frozenset)

    def truth(
        self, wiring: Wiring, ablation: Ablation = Ablation.PATCH, biased: bool = True
    ) -> Bool[np.ndarray, " edge"]:
        """The true edges of a model of this wiring, in canonical order.

        With PATCH those over which something flows that differs between clean and corrupted. With
        a constant in the place of a cut edge also those whose writes are not the same everywhere
        (MEAN), or not 0 (ZERO). `biased`: MLPs have biases; else thresholds are read from ONE.
        """
        changing = {"input": self._changing(ablation)}
        edges: list[tuple[str, str, str]] = []
        for part in sorted(self.parts, key=lambda each: (each.layer, isinstance(each, Mlp))):
            reads = list(part.reads())
            if isinstance(part, Mlp) and not biased:
                reads.append(("", ONE))
            found = [
                (source, part.node, slot)
                for slot, register in dict.fromkeys(reads)
                for source, registers in changing.items()
                if register in registers
            ]
            edges += found
            if found:
                changing[part.node] = changing.get(part.node, set()) | part.writes()
        read = self.readout.reads()
        edges += [(source, "logits", "") for source, held in changing.items() if held & read]
        reached = {"logits"}
        for source, node, _ in reversed(edges):
            if node in reached:
                reached.add(source)
        truth = np.zeros(wiring.n_edges, dtype=bool)
        for source, node, slot in edges:
            if node in reached:
                truth[wiring.edge_index(edge_name(wiring, source, node, slot))] = True
        return truth

    def _changing(self, ablation: Ablation) -> set[str]:
        """Registers in which what the embedding writes differs from what replaces it."""
        if ablation == Ablation.PATCH:
            return {
                register
                for each in self.examples
                for one, other in zip(each.clean.split(), each.corrupted.split(), strict=True)
                for register, _ in {*self.words[one]} ^ {*self.words[other]}
            }
        every = {register for symbols in self.words.values() for register, _ in symbols} | {BOS}
        return every | {ONE} if ablation == Ablation.ZERO else every


def edge_name(wiring: Wiring, source: str, node: str, slot: str) -> str:
    """An edge's name in this wiring, where heads may share keys and values."""
    if slot in ("k", "v") and wiring.is_grouped:
        layer, _, head = node.partition(".h")
        node = f"{layer}.kv{int(head) // wiring.queries_per_key}"
    return f"{source}->{node}<{slot}>" if slot else f"{source}->{node}"
