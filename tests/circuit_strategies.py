"""Random circuits for property-based tests: every field filled, names and roles hostile."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from circuits.base.choices import KeyValue
from circuits.graph.circuit import Circuit
from circuits.graph.scores import EdgeScores
from circuits.model.wiring import Wiring

HOSTILE = [
    '"',
    "\\",
    "\\N",
    '"]; evil -> x [a="',
    "\x00\x07\r\n\t",
    "<b>&amp;]]>",
    "\ud800",
    " ",
    "é☃𝄞",
]
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8))
PRINTABLE = st.text(max_size=8).filter(str.isprintable)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
PROVENANCE = st.dictionaries(TEXT, JSON, max_size=4)


@st.composite
def wirings(draw: st.DrawFn, max_layers: int = 3) -> Wiring:
    """Small geometries, grouped or not, group sizes 1 to 3."""
    n_kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kv = draw(st.sampled_from(KeyValue))
    return Wiring(draw(st.integers(1, max_layers)), n_kv_heads * group, n_kv_heads, kv)


@st.composite
def kept_edges(draw: st.DrawFn, wiring: Wiring) -> np.ndarray:
    """Any share of a wiring's edges."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random(wiring.n_edges) < draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))


@st.composite
def circuits(draw: st.DrawFn, max_layers: int = 2) -> Circuit:
    """Circuits with scores, columns, roles and provenance, or without."""
    wiring = draw(wirings(max_layers))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = None
    if draw(st.booleans()):
        size = draw(st.sampled_from([0.0, 1e-38, 1.0, 1e30]))
        per_pair = rng.standard_normal((3, wiring.n_edges)).astype(np.float32) * np.float32(size)
        scores = EdgeScores(wiring, per_pair.mean(0), per_pair, draw(PROVENANCE))
    dtypes = st.sampled_from([np.float32, np.float64, np.int64, np.bool_])
    columns = {
        name: (rng.standard_normal(wiring.n_edges) * 3).astype(dtype)
        for name, dtype in draw(st.dictionaries(PRINTABLE, dtypes, max_size=2)).items()
    }
    names = st.sampled_from([*wiring.src_names, "logits", "nowhere"])
    roles = draw(st.dictionaries(names, TEXT, max_size=3))
    kept = draw(kept_edges(wiring))
    return Circuit(wiring, kept, scores, columns, roles, draw(PROVENANCE))


def assert_identical(left: Circuit, right: Circuit, pairs: bool = False) -> None:
    """Equal in every field; scores bit for bit."""
    assert left == right
    assert (left.roles, left.provenance) == (right.roles, right.provenance)
    assert left.columns.keys() == right.columns.keys()
    for name, column in left.columns.items():
        assert column.dtype == right.columns[name].dtype
        np.testing.assert_array_equal(column, right.columns[name])
    assert (left.scores is None) == (right.scores is None)
    if left.scores is not None and right.scores is not None:
        assert left.scores.provenance == right.scores.provenance
        np.testing.assert_array_equal(left.scores.values, right.scores.values)
        assert left.scores.values.dtype == right.scores.values.dtype
        if pairs:
            np.testing.assert_array_equal(left.scores.per_pair, right.scores.per_pair)
