"""What a function that runs a model needs for its time: the model for itself, batches that fit.

A batch that memory does not hold is halved, and the function begins again: it has changed nothing.
"""

from __future__ import annotations

import gc
import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from circuits.base.errors import OutOfMemoryError, is_out_of_memory

if TYPE_CHECKING:
    from circuits.model.model import Model

Work = TypeVar("Work", bound=Callable[..., Any])
T = TypeVar("T")

logger = logging.getLogger(__name__)

SIZES = ("batch_size", "max_rows", "batch_tokens")
"""Arguments that bound the size of a batch, and so the memory, but not the result."""


def alone(work: Work) -> Work:
    """Have a function whose first argument is a model hold that model from beginning to end.

    A second thread is refused when it begins, and not one that is already at work. Where the
    function takes sizes of `SIZES`, they are what memory holds (`fitting`).
    """
    signature = inspect.signature(work)
    sizes = [name for name in SIZES if name in signature.parameters]

    @wraps(work)
    def held(model: Model, *arguments: Any, **options: Any) -> Any:
        with model.alone():
            if not sizes:
                return work(model, *arguments, **options)
            given = signature.bind(model, *arguments, **options)
            given.apply_defaults()
            asked = {name: given.arguments[name] for name in sizes}

            def run(rows: int) -> Any:
                given.arguments.update({name: min(size, rows) for name, size in asked.items()})
                return work(*given.args, **given.kwargs)

            return fitting(model, max(asked.values()), run)

    return cast(Work, held)


def fitting(model: Model, rows: int, run: Callable[[int], T]) -> T:
    """`run(rows)`, with half of the rows for as long as memory does not hold them.

    The model keeps what was found to fit, so that what follows need not find it again.
    OutOfMemoryError where one row is too many.
    """
    rows = min(rows, model.most_rows)
    while True:
        try:
            with model.alone():
                return run(rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # what the failed run held, before the next one asks for memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if rows <= 1:
            raise OutOfMemoryError(
                f"out of memory with {model.name!r} and one prompt at a time; take shorter prompts "
                "or `dtype='bf16'`, or free memory"
            )
        logger.warning(
            "out of memory with batches of %d; going on with batches of %d", rows, rows // 2
        )
        rows = model.most_rows = rows // 2
