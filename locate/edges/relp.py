"""RelP: edge attribution with the rules of layer-wise relevance propagation.

Rezaei Jafari et al. 2025 (arXiv:2508.21258). As EAP, a score is

    (clean - corrupted output of u) . c_v,

summed over positions and averaged over pairs, where c_v is not dm/d(input of v) but what a backward
pass gives in which

- a norm's denominator is a constant (LN-rule; Ali et al. 2022),
- an activation f(x) passes c f(x) / x (identity rule),
- each factor of a product of a gate and its other half gets half (half rule),
- attention is a constant (AH-rule; Ali et al. 2022), so edges into queries and keys score 0; or, as
  an option, it is a product like others: half goes to the values, and of the pattern's half
  a half each to queries and keys.

One corrupted, one clean and one backward pass, as EAP, and made by the same function
(`locate.edges.eap`). Refused are mixtures of experts, whose activations cannot be reached;
and constant attention of models where no hook replaces it (GPT-J, GPT-Neo, OPT), not halved one.
"""

from __future__ import annotations

from dataclasses import replace

from locate.edges.locators import Patterns
from locate.edges.rules import BackwardRules

FROZEN = BackwardRules(frozen_norms=True, linear_activations=True, frozen_patterns=True)
RULES = {
    Patterns.FROZEN: FROZEN,
    Patterns.HALVED: replace(FROZEN, frozen_patterns=False, scales=(0.25, 0.25, 0.5)),
}
"""The backward pass for each thing that attention may be."""
