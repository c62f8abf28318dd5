# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. When does a known fact come out wrong, and what do examples change?
#
# The notebooks before this one looked at facts that the model gets right. Here it gets one wrong
# that it knows: asked in other words it says the truth. So something fails between the words of the
# question and the answer, and the two runs, the right one and the wrong one, can be laid side by
# side until the place is found. The second half does the same with another change of the prompt:
# a few examples before the question.

# %%
import random
from collections import Counter
from pathlib import Path

import numpy as np
from IPython.display import Markdown

import knowledge_circuits as kc
from circuits.base.plain import plain
from circuits.facts.demonstrations import Style
from circuits.facts.facts import atlas
from experiments.analyses.engine.claims import difference
from experiments.analyses.engine.context import Context
from experiments.analyses.hallucination.recall import find_cases, partners
from experiments.analyses.hallucination.repair import repair_by_component, repair_by_state
from experiments.analyses.icl import analysis as icl
from experiments.analyses.icl.prompts import ask, shots_of
from locate.heads.prompt_heads import read_prompt
from locate.states.attribution import direct_logit_attribution
from locate.states.lens import logit_lens
from locate.states.transplant import last_outputs, transplant_outputs
from viz.screen import attribution_figure, written_figure

context = Context("facts-gpt2", folder=Path("out/notebook"), device="cpu")
model = context.model

# %% [markdown]
# ## Facts that are known, and answered wrong
#
# Ask for the occupation of every person in five wordings: three that the model was trained on and
# two that it has never seen. A *case* is a fact that is wrong in one wording and right in another.

# %%
jobs = kc.relation("person_occupation")
wordings = (*jobs.templates[:3], *jobs.held_out)
found = find_cases(model, jobs, wordings, 12, others=atlas().values())
{"questions": found.questions, "wrong": found.wrong, "cases": len(found.cases)}

# %%
[
    (case.wrong.text, model.tokenizer.token_string(case.said).strip(), case.fact.object)
    for case in found.cases
]

# %% [markdown]
# Two per cent of the answers are wrong, and they are not scattered: all of them were asked for in
# one and the same wording, which is one of the unseen. Nor are they nonsense. Each is true of its
# person, only not as an occupation:

# %%
Counter(str(case.kind) for case in found.cases)

# %% [markdown]
# ## Where do the two runs part?
#
# Take Newton, whom the model in one wording remembers as the famous *England*. The logit lens reads
# the last token after every layer, in the wrong run and in the right one.

# %%
newton = next(case for case in found.cases if case.fact.subject == "Isaac Newton")
followed = {"physicist": newton.answer, "England": newton.said}
wrong = logit_lens(model, newton.wrong, followed)
right = logit_lens(model, newton.right, followed)
wrong

# %%
right

# %% [markdown]
# In both runs what will be said comes to the top in layer 6, where the movers are. But the runs
# have parted long before. After layer 0 the right run already ranks *physicist* among its first
# twenty tokens, and what leads is *painter* and then *writer*: no word about Newton, but
# occupations. The question has been read, and the person is not there yet. In the wrong run an
# occupation leads only from layer 2 to layer 4, *physicist* never comes among the first hundred
# before layer 6, and after layer 5 the model expects an article.

# %%
right.plot(title=f"Right: {newton.right.text}")

# %%
wrong.plot(title=f"Wrong: {newton.wrong.text}")

# %% [markdown]
# ## What do the heads write?
#
# Do the movers fetch the wrong thing? Read three of them, in the wrong and in the right run.

# %%
wrong_pair, right_pair, _ = partners(model, newton, jobs, 1, random.Random(0))[0]
heads = ["a6.h1", "a6.h2", "a6.h3"]
in_wrong, in_right = (read_prompt(model, pair, heads) for pair in (wrong_pair, right_pair))
written_figure(in_wrong, title=f"Wrong: {newton.wrong.text}")

# %%
written_figure(in_right, title=f"Right: {newton.right.text}")

# %% [markdown]
# All three look at *Newton* in both runs, and raise the same words by nearly the same amounts:
# *physicist* a little more than *England* the first, *England* the others, whatever the question
# was. They move what is known of the subject; they do not choose. The choice must come from
# elsewhere. Direct logit attribution splits the logit of *physicist* over *England* into what each
# part wrote. Here is by how much each writes more for *physicist* in the right run than in the
# wrong one.

# %%
parts = direct_logit_attribution(model, [wrong_pair, right_pair])
gained = parts.contributions[1] - parts.contributions[0]
attribution_figure(parts.wiring.src_names, gained.tolist(), most=12)

# %% [markdown]
# Three MLPs stand at the top, `m2`, `m0` and `m7`. MLPs make up five of the seven logits between
# the two runs, and all heads of layer 6 together less than half of one. Do these MLPs cause the
# difference, or do they only show what others have caused?
#
# ## Is the answer repaired?
#
# Run the wrong prompt again, and replace at the last token what *one* head or MLP writes by what it
# wrote in the right run. Everything else is left to the wrong run. The list holds the parts that
# alone turn *England* into *physicist*, with the probability that it gets.

# %%
n_sources = model.wiring().n_src
one_each = np.eye(n_sources, dtype=bool)[1:, None]
donor = last_outputs(model, [newton.right])
replies = transplant_outputs(model, [newton.wrong], donor, one_each, [newton.answer])
repairs = {
    model.wiring().src_names[src + 1]: round(float(replies.probability[src, 0]), 2)
    for src in np.flatnonzero(replies.right[:, 0]).tolist()
}
repairs

# %% [markdown]
# Ten of 72 parts do, seven of them in layer 0, and `m0` does it best. No mover of layer 6 is among
# them. That so many will do says that the wrong run was close to right: with the wrong answer ahead
# by half a logit, a push is enough. What is telling is where the pushes come from: nearly all from
# the first layers, where the words of the question are read.
#
# ## Is it so for other facts?
#
# One fact is a story. Five relations about five kinds of subject, with eight cases each, are a
# small test. In every one of them the cases come from a single wording that the model was not
# trained on. Now a whole state of the residual stream is transplanted: the last token's from the
# same fact asked right; the state at the *subject* from there; and the last token's state from
# *another* person's (or country's, or dish's) prompt in the right wording. That donor has the
# question and not the answer. Its control is another subject in the wrong wording.

# %%
names = (
    "person_occupation",
    "company_industry",
    "country_demonym",
    "dish_country",
    "noun_plural",
)
cases = {
    name: find_cases(model, asked, (asked.templates[0], *asked.held_out), 8, demonstrations=0)
    for name, asked in ((name, kc.relation(name)) for name in names)
}
states = [repair_by_state(model, each, seed=0, batch_size=16) for each in cases.values()]
repaired = {kind: np.mean([np.mean(each[kind], 0) for each in states], 0) for kind in states[0]}
{
    kind: {f"layer {layer}": f"{100 * shares[layer]:.0f} %" for layer in (0, 3, 5, 6, 7)}
    for kind, shares in repaired.items()
}

# %% [markdown]
# Another subject's state, taken after layer 0, repairs nearly every answer, as many as the fact's
# own does, while the control repairs few. It cannot have brought the answer, as it comes from a
# prompt about another subject; it brought the question. From layer 6 on it repairs nothing: by then
# it carries its own subject's answer. And the fact's own state at the subject repairs no more than
# about a quarter, at its best layer: mostly the fact was there, and was not asked for.
#
# ## Which part is to blame?
#
# Lay the blame on the part that repairs most on one half of a relation's cases, and try it on the
# other half; the donor is again another subject. A random part is a weak opponent, as most parts
# repair nothing. A *matched* one is of the same kind and from the nearest layer.

# %%
blame = [
    repair_by_component(model, each, (1,), draws=5, seed=0, batch_size=16)["other subject"]
    for each in cases.values()
]
repaired_by = {
    kind: [float(np.mean(each[kind][0])) for each in blame]
    for kind in ("blamed", "matched", "random")
}
verdict = difference(
    "the part blamed repairs more answers than a matched part",
    repaired_by["blamed"],
    repaired_by["matched"],
    scale=100,
    over="relations",
)
blamed = sum((Counter(each["names"]) for each in blame), Counter())
blamed, verdict.sentence

# %% [markdown]
# In eight of ten halves the blame falls on `m0`, and over the five relations it holds up against
# its neighbours. So these wrong answers are failures of *reading*: at the last token an unseen
# wording does not bring about, in layer 0, what a known one does. Two cautions. For occupations
# matched parts repair more than half of the cases as well, so there the blame is not exclusive. And
# nothing here is about facts that the model never learned: a case is a known fact by definition.
#
# ## Examples before the question
#
# Now to a prompt that does not ask at all. `Pakistan:` may go on with a capital, a language or a
# currency; with examples before it, it is a question.

# %%
shots = shots_of(model, kc.relation("country_continent"), "", Style.LIST, (0, 1, 2, 5), 16, seed=0)
shots[0][2].asked.text

# %%
right_after = {n: ask(model, [each[n] for each in shots]).right.mean() for n in (0, 1, 2, 5)}
{f"examples: {n}": f"{100 * share:.0f} % right" for n, share in right_after.items()}

# %% [markdown]
# Without examples one answer in five is right; with a single one all of them are. Which heads make
# use of it? Circuits are found with and without two examples on one half of the facts, and a head
# is *new* if only the circuit with examples has it. On the other half the new heads are silenced,
# beside random ones. It is done here for five relations, with a coarser setting than `kc run icl`
# has.

# %%
settings = icl.Config(styles=(Style.LIST,), counts=(0, 2), steps=1, draws=5)
relations = ("country_continent", "person_language", "company_city", "landmark_city", "verb_past")
heads_of = {name: plain(icl.compute(context, settings, name)) for name in relations}
report = icl.ANALYSIS.report(settings, heads_of)
tables = {table.name: table for table in report.tables}
Markdown(tables["circuits_list"].markdown())

# %% [markdown]
# Every circuit has new heads. Where do they look? Here are some of the continents' new heads on one
# prompt:

# %%
new = heads_of["country_continent"]["list"]["heads"]["new"]
on_prompt = read_prompt(model, shots[0][2].pair, new[:6])
on_prompt.plot()

# %% [markdown]
# Four of the six spread their attention over the whole prompt; `a4.h5` and `a4.h6` pick tokens of
# the examples. It would be tempting to stop here, with heads that are new and that, over all
# relations, have most of their attention on the examples. But so have all other heads taken
# together, as examples are most of the prompt; only the circuit's other heads look more at the
# question.

# %%
Markdown(tables["attention_list"].markdown())

# %% [markdown]
# What happens without the new heads? Random ones are drawn from all others, the circuit's included.

# %%
Markdown(tables["table2_list"].markdown())

# %%
[claim.sentence for claim in report.claims]

# %% [markdown]
# In four of the five relations the answers lose less than three points of probability without the
# new heads, and more without as many *random* ones; only the landmarks lose a quarter, and not much
# more than they lose to random heads. So there is no evidence that the new heads matter more than
# random ones. Being new is a weak sign: another half of the facts, without any example, brings in
# two thirds as many heads.
#
# What does matter are the heads whose share of the scores *grew*. Fewer than a third of these are
# new, and half are heads of layer 0. They are not there for the examples alone: in three of the
# five relations their silence makes the answer clearly less likely without any example, too. Nor
# are they induction heads. On random tokens that come twice, such a head would have a score near 1;
# the highest of any head of this model is 0.04.
#
# So we found no circuit that examples switch on. That fits the first half: what a wording or an
# example changes lies in the first layers, where the question is read. But that is an
# interpretation, and silencing heads that everything passes through is a blunt test of it.
#
# ## Limits
#
# A model of eight layers that was trained on these facts and on nothing else, one seed, a few
# facts a relation, examples as a list only. In a model that has induction heads the second half may
# well end otherwise. The same over all relations, with finer settings and with figures:
#
# ```
# kc run hallucination --model facts-gpt2 --out out/hallucination
# kc run icl --model facts-gpt2 --set most=0 --out out/icl
# kc lens "Isaac Newton is remembered as the famous" --model facts-gpt2 \
#     --subject "Isaac Newton" --answer physicist --foil England --out out/newton
# kc figures out/newton
# ```
