"""Second moments of keys, C = E[k k^T]: which directions of a layer's input are in use.

An update that is to leave other facts alone moves along C^-1 k (Meng et al. 2022, equation 2). C
is collected over a text in double precision, belongs to one model's weights, and is kept in a cache
that is keyed by those, the layer and the text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.base.display import Summary
from circuits.base.errors import FileFormatError, NumericalError, OptionError, StoreError
from circuits.base.places import user_cache
from circuits.base.progress import Progress
from circuits.base.results import Result, numeric
from circuits.edits.parts.corpus import Corpus, read_corpus, token_windows, usual_corpus
from circuits.edits.parts.keys import capture, key_point
from circuits.edits.parts.published import digests, published_files, read_published
from circuits.facts.batches import padded
from circuits.model.holding import alone
from circuits.model.model import Model
from circuits.model.tensors import check_double

logger = logging.getLogger(__name__)
IDENTITY = "identity"
PUBLISHED = "published statistics"
BATCH_TOKENS = 4096
MAX_TOKENS = 2_000_000
LONGEST_WINDOW = 1024
"""Positions that are read at once, GPT-2's: attention costs their square."""


@dataclass(frozen=True, eq=False)
class Moments(Result):
    """Uncentred second moments of the keys of some layers of one model.

    `model_hash` names the weights; `source` says where the moments are from, for the record.
    """

    KIND = "second-moments"

    matrices: Mapping[int, Float[Tensor, "d_mlp d_mlp"]]
    model_hash: str
    source: Mapping[str, Any]
    _factors: dict[tuple[int, float], Tensor] = field(default_factory=dict, repr=False)
    _eigen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """OptionError unless these are moments of this model, and of all these layers."""
        if self.model_hash != model.provenance["weights_sha256"]:
            raise OptionError(
                f"the second moments are of another model (weights {self.model_hash[:12]}) than "
                f"{model.name!r} (weights {model.provenance['weights_sha256'][:12]}); name a text "
                "to collect its own"
            )
        missing = [layer for layer in layers if layer not in self.matrices]
        if missing:
            raise OptionError(
                f"the second moments lack layer {missing[0]}; they cover "
                f"{', '.join(map(str, sorted(self.matrices)))}"
            )

        bos, wanted = self.source.get("bos"), model.tokenizer.use_bos(None)
        if bos not in (None, wanted):
            raise OptionError(
                f"the second moments were collected {'with' if bos else 'without'} a BOS token, "
                f"which this run {'puts' if wanted else 'does not put'} in front of its texts"
            )

    def shrunk(self, layer: int, shrinkage: float) -> Float[Tensor, "d_mlp d_mlp"]:
        """(1 - a) C + a tr(C)/d I: invertible though some directions never occur in the text."""
        matrix = self.matrices[layer].double()
        size = matrix.shape[0]
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        return (1 - shrinkage) * matrix + shrinkage * matrix.trace() / size * identity

    def solve(
        self, layer: int, keys: Float[Tensor, "key d_mlp"], shrinkage: float
    ) -> Float[Tensor, "key d_mlp"]:
        """C^-1 k for each key, in double precision; the factorisation is kept."""
        if (layer, shrinkage) not in self._factors:
            factor, failed = torch.linalg.cholesky_ex(self.shrunk(layer, shrinkage))
            if int(failed):
                raise NumericalError(
                    f"the second moments of layer {layer} cannot be inverted with shrinkage "
                    f"{shrinkage}; use a longer text or more shrinkage"
                )
            self._factors[layer, shrinkage] = factor
        factor = self._factors[layer, shrinkage]
        right = keys.to(factor.device, torch.float64).T
        return torch.cholesky_solve(right, factor).T.to(keys.device)

    def eigen(self, layer: int) -> tuple[Float[Tensor, " d_mlp"], Float[Tensor, "d_mlp d_mlp"]]:
        """C's eigenvalues from the smallest, and its eigenvectors, a column each; they are kept."""
        if layer not in self._eigen:
            values, vectors = torch.linalg.eigh(self.matrices[layer].double())
            self._eigen[layer] = values, vectors
        return self._eigen[layer]

    def scale(self, layer: int) -> float:
        """Mean eigenvalue tr(C)/d: the mean square of one entry of a key."""
        return float(self.matrices[layer].diagonal().mean())

    def rows(self) -> list[dict[str, Any]]:
        """One record a layer: size and mean eigenvalue."""
        return [
            {"layer": layer, "size": len(matrix), "scale": self.scale(layer)}
            for layer, matrix in self.matrices.items()
        ]

    def summary(self) -> Summary:
        """The layers and their scale."""
        rows = [(str(r["layer"]), str(r["size"]), f"{r['scale']:.4g}") for r in self.rows()]
        facts = {"weights": self.model_hash[:12]}
        return Summary("Second moments of keys", facts, "", ("layer", "size", "tr(C)/d"), rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """One matrix a layer."""
        return {str(layer): matrix.cpu().numpy() for layer, matrix in self.matrices.items()}

    def metadata(self) -> dict[str, Any]:
        """The model's weights and the source."""
        return {"model": self.model_hash, "source": dict(self.source)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Moments:
        """The inverse of `arrays` and `metadata`; OptionError for matrices that are not square."""
        matrices = {
            int(name): torch.from_numpy(numeric(arrays, name, "f", 2).copy()) for name in arrays
        }
        if any(matrix.shape[0] != matrix.shape[1] for matrix in matrices.values()):
            raise OptionError("a matrix is not square")
        return cls(matrices, str(metadata["model"]), dict(metadata["source"]))

    @classmethod
    def identity(cls, model: Model, layers: Sequence[int]) -> Moments:
        """C = I, as many released configurations have it: every direction counts the same."""
        matrices = {
            layer: torch.eye(model.mlp_output_matrix(layer).shape[1], dtype=torch.float64)
            for layer in layers
        }
        source = {"kind": IDENTITY}
        return cls(matrices, model.provenance["weights_sha256"], source)

    @classmethod
    def published(cls, model: Model, layers: Sequence[int], path: str | Path) -> Moments:
        """Of `.npz` files as ROME's code writes them; they are taken to be of this model."""
        files = published_files(Path(path), layers)
        sizes = {layer: model.mlp_output_matrix(layer).shape[1] for layer in layers}
        matrices = read_published(files, sizes)
        source = {"kind": PUBLISHED, "files": digests(files), "weights": "not stated"}
        return cls(matrices, model.provenance["weights_sha256"], source)


def find_moments(
    model: Model,
    layers: Sequence[int],
    moments: Moments | str | Path | None,
    cache: Path | None = None,
    max_tokens: int = MAX_TOKENS,
    progress: Progress | None = None,
) -> Moments:
    """What the user named; None is the text that ships for the model (`usual_corpus`); checked.

    Moments, "identity" (C = I), a file of ours, published `.npz` statistics (a file, or a folder
    with one for each layer), or a text. Published statistics do not say which weights they are of:
    they are taken to be of the model's, and the provenance says so.
    """
    if isinstance(moments, Moments):
        found = moments
    elif moments is None:
        found = cached_moments(model, usual_corpus(model), layers, cache, max_tokens, progress)
    elif str(moments) == IDENTITY:
        found = Moments.identity(model, layers)
    elif str(moments).endswith(".safetensors"):
        found = Moments.load(moments)
    elif str(moments).endswith(".npz") or Path(moments).is_dir():
        found = Moments.published(model, layers, moments)
    else:
        found = cached_moments(model, read_corpus(moments), layers, cache, max_tokens, progress)
    found.check(model, layers)
    return found


@dataclass(frozen=True, eq=False)
class WantedMoments:
    """What a user named as second moments, for a method that finds out by itself which it needs."""

    model: Model
    named: Moments | str | Path | None = None
    cache: Path | None = None
    progress: Progress | None = None

    @property
    def is_named(self) -> bool:
        """Whether the user named any, rather than leave them to the text that ships."""
        return self.named is not None

    def of(self, layers: Sequence[int]) -> Moments:
        """Those of these layers (`find_moments`)."""
        return find_moments(self.model, layers, self.named, self.cache, progress=self.progress)


def cached_moments(
    model: Model,
    corpus: Corpus,
    layers: Sequence[int],
    cache: Path | None = None,
    max_tokens: int = MAX_TOKENS,
    progress: Progress | None = None,
) -> Moments:
    """Moments from the cache, one file a layer; what is not there is collected and kept.

    A file that is damaged or of something else is collected again. `cache` defaults to
    `$XDG_CACHE_HOME/knowledge-circuits/moments`.
    """
    folder = cache or user_cache("moments")
    paths = {layer: folder / _file_name(model, corpus, layer, max_tokens) for layer in layers}
    kept = {layer: found for layer in layers if (found := _from_cache(paths[layer], model, layer))}
    missing = [layer for layer in layers if layer not in kept]
    if missing:
        fresh = collect_moments(model, corpus, missing, max_tokens, progress=progress)
        for layer in missing:
            kept[layer] = Moments({layer: fresh.matrices[layer]}, fresh.model_hash, fresh.source)
            _keep(kept[layer], paths[layer])
    first = kept[layers[0]]
    matrices = {layer: kept[layer].matrices[layer] for layer in layers}
    return Moments(matrices, first.model_hash, first.source)


def _keep(moments: Moments, path: Path) -> None:
    """Write to the cache; where that cannot be, the edit goes on without it."""
    try:
        moments.save(path)
    except StoreError as error:
        logger.warning("second moments are not kept: %s", error)


@alone
@torch.no_grad()
def collect_moments(
    model: Model,
    corpus: Corpus,
    layers: Sequence[int],
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Moments:
    """Run the texts and sum k k^T over all tokens in double precision.

    Texts longer than the model takes, or LONGEST_WINDOW, are read in windows, all of them, until
    `max_tokens`. The BOS, put in front of each, is not counted: its key is the same everywhere and,
    in Llama, of another size altogether. Warns where there are fewer tokens than a key has entries.
    """
    check_double(model.device)
    last = max(layers)
    size = {layer: model.mlp_output_matrix(layer).shape[1] for layer in layers}
    sums = {
        layer: torch.zeros(size[layer], size[layer], dtype=torch.float64, device=model.device)
        for layer in layers
    }
    count = 0
    windows = _windows(model, corpus, max_tokens)
    expected = sum(map(len, windows))
    for tokens, counted in _batches(model, windows, batch_tokens):
        found = capture(model, tokens, [key_point(layer) for layer in layers], last)
        for layer in layers:
            keys = found[key_point(layer)][counted].double()
            sums[layer].addmm_(keys.T, keys)
        count += int(counted.sum())
        if progress is not None:
            progress(count, expected)
    if count == 0:
        raise OptionError(f"the text {corpus.name!r} has no tokens to take second moments over")
    if count < max(size.values()):
        logger.warning(
            "%r has %d tokens for second moments of keys of %d numbers: directions that it lacks "
            "count as unused; use a longer text",
            *(corpus.name, count, max(size.values())),
        )
    matrices = {layer: (total / count).cpu() for layer, total in sums.items()}
    if not all(bool(torch.isfinite(matrix).all()) for matrix in matrices.values()):
        raise NumericalError(f"the second moments over {corpus.name!r} are not finite")
    source = {
        "kind": "text",
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "tokens": count,
        "bos": model.tokenizer.use_bos(None),
        "edits": list(model.provenance.get("edits", [])),
    }
    return Moments(matrices, model.provenance["weights_sha256"], source)


def _windows(model: Model, corpus: Corpus, max_tokens: int) -> list[list[int]]:
    """All windows of the texts, in order, without BOS."""
    longest = min(model.max_tokens, LONGEST_WINDOW) - model.tokenizer.use_bos(None)
    return list(token_windows(model, corpus.texts, longest, max_tokens))


def _batches(
    model: Model, windows: Sequence[list[int]], batch_tokens: int
) -> Iterator[tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]]:
    """Windows in batches, in order, and which of their positions count."""
    front = [model.tokenizer.hf.bos_token_id] if model.tokenizer.use_bos(None) else []
    rows: list[list[int]] = []
    width = 0
    for ids in windows:
        rows.append(front + ids)
        width = max(width, len(rows[-1]))
        if width * len(rows) >= batch_tokens:
            yield _counted(model, rows, len(front))
            rows, width = [], 0
    if rows:
        yield _counted(model, rows, len(front))


def _counted(
    model: Model, rows: list[list[int]], skipped: int
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"]]:
    tokens = padded(rows, model.device)[0]
    place = torch.arange(tokens.shape[1], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    return tokens, (place >= skipped) & (place < lengths[:, None])


def _file_name(model: Model, corpus: Corpus, layer: int, max_tokens: int) -> str:
    """Changes with the weights, edits in place, the dtype, the text, its length and the BOS."""
    parts = [
        model.provenance["weights_sha256"],
        *model.provenance.get("edits", []),
        str(model.dtype),
        corpus.sha256,
        str(max_tokens),
        f"bos {model.tokenizer.use_bos(None)}",
    ]
    return f"{sha256('|'.join(parts).encode()).hexdigest()[:32]}-layer{layer}.kc.safetensors"


def _from_cache(path: Path, model: Model, layer: int) -> Moments | None:
    if not path.is_file():
        return None
    try:
        found = Moments.load(path)
        found.check(model, [layer])
    except (FileFormatError, OptionError):
        return None
    return found
