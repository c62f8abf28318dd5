"""One error class a kind of mistake; the message is one line in the user's words.

The command line prints the message and exits with `exit_code`; no traceback reaches a user who
made a mistake that one of these classes names.
"""

from __future__ import annotations

from pathlib import Path


class KnowledgeCircuitsError(Exception):
    """Any mistake that a user can mend; the message says what is wrong and what to do."""

    exit_code = 2


class OptionError(KnowledgeCircuitsError):
    """An option or argument is absurd, or two of them do not go together."""


class NothingFoundError(OptionError):
    """All options go together, and of these facts or requests there is nothing to be found."""


class FileFormatError(KnowledgeCircuitsError):
    """A file is missing, unreadable or malformed; names the file and, where known, the line."""

    def __init__(self, path: str | Path, reason: str, line: int | None = None) -> None:
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {reason}")
        self.reason, self.line = reason, line


class CircuitFileError(FileFormatError):
    """A circuit file is truncated, altered, of another geometry or not a circuit at all."""


class StoreError(KnowledgeCircuitsError):
    """A result cannot be written: disk full, folder read-only, content that no file can hold."""

    exit_code = 4


class PromptError(KnowledgeCircuitsError):
    """A prompt, subject, answer or foil cannot be used as given."""


class ModelNotFoundError(KnowledgeCircuitsError):
    """The model is neither shipped, nor a local directory, nor reachable on the hub."""

    exit_code = 3


class MissingExtraError(KnowledgeCircuitsError):
    """A part of the project that was not installed is asked for; names the extra."""

    exit_code = 3


class UnsupportedArchitectureError(KnowledgeCircuitsError):
    """The method's formulas do not cover this architecture."""

    exit_code = 3


class NumericalError(KnowledgeCircuitsError):
    """A computation gave NaN or infinity; names the pair and the place."""

    exit_code = 4


class OutOfMemoryError(KnowledgeCircuitsError):
    """Memory does not hold even the smallest batch."""

    exit_code = 4


class UnitError(KnowledgeCircuitsError):
    """Units of a run failed; the rest is done, and running again tries them again."""

    exit_code = 4


class EasyEditError(KnowledgeCircuitsError):
    """EasyEdit is not there, or one of its methods cannot be run or failed; says which and why."""

    exit_code = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is at an end, which PyTorch's CPU and MPS say in words."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(word in str(error) for word in _OUT_OF_MEMORY))
    )


_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
