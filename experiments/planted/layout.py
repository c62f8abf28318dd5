"""The shape of planted models: where registers stand in the residual stream, and their words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from circuits.base.errors import OptionError
from experiments.planted.program import BOS, ONE, Program, Symbol

N_HEADS = 4
D_HEAD = 24
WIDTH = N_HEADS * D_HEAD
N_POSITIONS = 12
FIRST = "<s>"


@dataclass(frozen=True)
class Layout:
    """Where registers begin on the axes of the residual stream, and how large a norm is."""

    starts: Mapping[str, int]
    sizes: Mapping[str, int]
    background: int
    rms: float

    def at(self, symbol: Symbol) -> int:
        """The axis of a symbol."""
        return self.starts[symbol[0]] + symbol[1]

    def axes(self, register: str) -> range:
        """The axes of a register."""
        return range(self.starts[register], self.starts[register] + self.sizes[register])


PLACE = "place"
"""The register of GPT-2's learned positions."""


def lay_out(program: Program) -> Layout:
    """Registers in the order of the program; OptionError where they leave too little background."""
    sizes = {ONE: 1, BOS: 1, **program.registers, PLACE: N_POSITIONS}
    ends = list(accumulate(sizes.values()))
    starts = dict(zip(sizes, [0, *ends], strict=False))
    if ends[-1] > WIDTH - 24:
        raise OptionError(f"{program.name} has {ends[-1]} axes of registers, too many for {WIDTH}")
    length = WIDTH - ends[-1] + 4  # the background's squares are 1 each, and some symbols are set
    return Layout(starts, sizes, ends[-1], (length / WIDTH) ** 0.5)


def tokenizer_of(program: Program) -> PreTrainedTokenizerFast:
    """One token a word, and one that stands in front of every prompt."""
    known = dict.fromkeys((FIRST, "<unk>", *program.words, *program.readout.words))
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A", pair=f"{FIRST} $A {FIRST} $B", special_tokens=[(FIRST, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=FIRST, eos_token=FIRST, unk_token="<unk>"
    )
