"""Options without effect on what is asked, for commands and Python alike; imports no torch.

Those that depend on other options alone are told by their classes (`Options.idle`).
"""

from __future__ import annotations

from dataclasses import fields

from circuits.base.idle import Idle
from locate.options import Loading, Source
from locate.search import Search


def _names(*kinds: type, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(each.name for kind in kinds for each in fields(kind) if each.name not in but)  # type: ignore[arg-type]


UNASKED_FACTS = Idle(
    "without `model`",
    (*_names(Source, Loading, but=("relation", "facts", "chat")), "batch_size"),
)
LENS_OF_A_PROMPT = Idle("on a single prompt", (*_names(Source, but=("bos",)), "batch_size"))
TRACE_OF_A_PROMPT = Idle("on a single prompt", _names(Source, but=("bos", "seed")))
PROMPTS_AS_THEY_ARE = Idle("on prompts as they are", _names(Source, but=("bos", "seed")))
PATCHED_TRACE = Idle(
    "on pairs without a subject, which are patched", ("noise", "noise_unit", "samples")
)
ROLES_BY_SPAN = Idle("on pairs without a subject", ("circuit", "ablation"))
EXAMPLES_AT_HAND = Idle("on examples that were made before", _names(Source, but=("seed",)))
NAMED_EDGES = Idle("on edges that are named", ("n",))
REQUESTS_AS_THEY_ARE = Idle(
    "beside requests, which say it themselves", ("subject", "target", "ground_truth", "relation")
)
STORED_CIRCUITS = Idle(
    "on two stored circuits",
    (*_names(Source, Search, Loading), "what", "draws", "allow_mismatch"),
)
EDIT_OF_A_MODEL = Idle("on a model and an edit", ("sign",))
EDITED_FACTS = Idle("on the edited facts", _names(Source, but=("n_pairs", "seed")))
