"""GIM: edge attribution with gradients that are modified where parts interact.

Edin et al. 2025 (arXiv:2505.17630). As EAP, a score is

    (clean - corrupted output of u) . g_v,

summed over positions and averaged over pairs, where g_v comes from a backward pass in which

- a norm's denominator is a constant,
- a softmax s -> A passes p * (g - sum(p * g)) with p = softmax(s / 2), so that a saturated one
  still passes something,
- what reaches queries, keys and values is multiplied by 1/4, 1/4 and 1/2, the shares of three
  factors of a product.

One corrupted, one clean and one backward pass, as EAP, and made by the same function
(`locate.edges.eap`). Models whose attention no hook replaces are refused.
"""

from __future__ import annotations

from locate.edges.rules import BackwardRules

RULES = BackwardRules(frozen_norms=True, temperature=2.0, scales=(0.25, 0.25, 0.5))
"""The published values."""
