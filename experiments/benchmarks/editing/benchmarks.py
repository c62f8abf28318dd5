"""The editing benchmarks of the literature that differ in their files alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import attrgetter
from pathlib import Path

from experiments.benchmarks.base import IN_CONTEXT, NO_EDIT, Benchmark, Cases, edit_or
from experiments.benchmarks.editing.cases import mquake, single_edits
from experiments.benchmarks.editing.report import report
from experiments.benchmarks.editing.run import compute

METHODS = (NO_EDIT, IN_CONTEXT, "rome", "memit", "ft")


def _editing(
    name: str,
    title: str,
    published: str,
    licence: str,
    form: str,
    read: Callable[[Path], Cases] = single_edits,
    version: int = 3,
    question: str = "Do edits take, do they carry over to other wordings, and is the rest kept?",
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        question=question,
        published=published,
        licence=licence,
        form=form,
        fixture=f"{name}.json",
        methods=METHODS,
        read=read,
        compute=compute,
        report=partial(report, by_category=name == "knowedit"),
        edit_of=edit_or(NO_EDIT, IN_CONTEXT),
        finds_circuits=True,
        truths=attrgetter("truths"),
        version=version,
    )


COUNTERFACT = _editing(
    "counterfact",
    "CounterFact",
    "Meng et al. 2022 (ROME): rome.baulab.info/data/dsets/counterfact.json; EasyEdit's form in its "
    "data release",
    "MIT",
    "JSON list: requested_rewrite, paraphrase_prompts, neighborhood_prompts; or EasyEdit's prompt, "
    "target_new, rephrase_prompt, locality_prompt",
)
ZSRE = _editing(
    "zsre",
    "ZsRE",
    "Mitchell et al. 2022 (MEND), from Levy et al. 2017; also zjunlp/KnowEdit on the hub",
    "MIT (KnowEdit)",
    "JSON list: src, alt, rephrase, loc, loc_ans; or KnowEdit's form",
)
KNOWEDIT = _editing(
    "knowedit",
    "KnowEdit",
    "Zhang et al. 2024, zjunlp/KnowEdit on the hub: wiki_recent, wiki_counterfact, WikiBio, ...; "
    "Fang et al. 2025, zjunlp/CKnowEdit, in Chinese",
    "MIT (KnowEdit)",
    "JSON list: subject, prompt, target_new, portability and locality by kind; or CKnowEdit's "
    "prompt, target_old, target_new, rephrase, portability and locality lists",
)
QAEDIT = _editing(
    "qaedit",
    "QAEdit",
    "Yang et al. 2025, The mirage of model editing: WanliYoung/Revisit-Editing-Evaluation",
    "Apache-2.0",
    "JSON list: prompt, subject, target, rephrase, locality list of loc and loc_ans",
)
MQUAKE = _editing(
    "mquake",
    "MQuAKE",
    "Zhong et al. 2023: princeton-nlp/MQuAKE, MQuAKE-CF-3k-v2.json (without the first one's "
    "conflicts) and others",
    "MIT",
    "JSON list: requested_rewrite list, questions, new_answer, new_single_hops",
    mquake,
    version=4,
    question="Does an edit carry over to questions whose answer follows from it in several hops?",
)
