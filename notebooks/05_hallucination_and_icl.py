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
import knowledge_circuits as kc

model = kc.load("facts-gpt2", device="cpu")

# %% [markdown]
# ## Facts that are known, and answered wrong
#
# `kc.run` runs an analysis of the paper and gives its report as a value, with sentences, tables and
# pictures. This one asks five relations, about five kinds of subject, in three wordings each: one
# that the model was trained on and two that it has never seen. A *case* is a fact that is wrong in
# one wording and right in another; eight cases a relation are followed. What was computed is kept
# in the folder, so that a second run takes no time.

# %%
relations = (
    "person_occupation",
    "company_industry",
    "country_demonym",
    "dish_country",
    "noun_plural",
)
few = {"wordings": 1, "facts": 8, "edge_facts": 8, "role_pairs": 8, "steps": 1, "draws": 5}
wrong = kc.run(
    "hallucination",
    model,
    out="out/notebook/hallucination",
    relations=relations,
    components=(1,),
    **few,
)
wrong.tables["wrong_answers"]

# %%
wrong.tables["cases"]

# %% [markdown]
# One answer in six is wrong, and nearly all of the facts concerned are answered right in other
# words. The cases are not scattered: all those of a relation were asked for in one and the same
# wording, which is one of the unseen. What is said in place of an occupation is true of its
# person, only not as an occupation; elsewhere it is mostly no object at all, an article or a word
# of the question.

# %%
wrong.tables["kinds"]

# %% [markdown]
# ## Where do the two runs part?
#
# Take Newton, whom the model in one wording remembers as the famous *England*. The logit lens reads
# the last token after every layer, in the wrong run and in the right one.

# %%
told = {
    "wrong": "Isaac Newton is remembered as the famous",
    "right": "The occupation of Isaac Newton was",
}
words = {"answer": "physicist", "foil": "England"}
lenses = {name: kc.lens(model, text, **words) for name, text in told.items()}
lenses["wrong"]

# %%
lenses["right"]

# %% [markdown]
# In both runs what will be said comes to the top in layer 6, where the movers are. But the runs
# have parted long before. After layer 0 the right run already ranks *physicist* among its first
# twenty tokens, and what leads is *painter* and then *writer*: no word about Newton, but
# occupations. The question has been read, and the person is not there yet. In the wrong run an
# occupation leads only from layer 2 to layer 4, *physicist* never comes among the first hundred
# before layer 6, and after layer 5 the model expects an article.

# %%
lenses["right"].plot(title=f"Right: {told['right']}")

# %%
lenses["wrong"].plot(title=f"Wrong: {told['wrong']}")

# %% [markdown]
# ## What do the heads write?
#
# Do the movers fetch the wrong thing? Read three of them, in the wrong and in the right run.

# %%
other = {name: text.replace("Isaac Newton", "Antoine Lavoisier") for name, text in told.items()}
pairs = [
    kc.PromptPair(told[name], other[name], "physicist", "England", subject="Isaac Newton")
    for name in ("wrong", "right")
]
movers = ["a6.h1", "a6.h2", "a6.h3"]
in_wrong, in_right = (kc.heads(model, [pair], movers, known_only=False) for pair in pairs)
kc.plot(in_wrong, "tokens", title=f"Wrong: {told['wrong']}")

# %%
kc.plot(in_right, "tokens", title=f"Right: {told['right']}")

# %% [markdown]
# All three look at *Newton* in both runs, and raise the same words by nearly the same amounts:
# *physicist* a little more than *England* the first, *England* the others, whatever the question
# was. They move what is known of the subject; they do not choose. The choice must come from
# elsewhere. Direct logit attribution splits the logit of *physicist* over *England* into what each
# part wrote. Here is by how much each writes more for *physicist* in the right run than in the
# wrong one.

# %%
parts = kc.attribution(model, pairs, known_only=False)
change = parts.contributions[1] - parts.contributions[0]
gained = dict(zip(parts.wiring.src_names, change.tolist(), strict=True))
{name: round(gained[name], 2) for name in sorted(gained, key=lambda each: -abs(gained[each]))[:8]}

# %% [markdown]
# Three MLPs stand at the top, `m2`, `m0` and `m7`. MLPs make up five of the seven logits between
# the two runs, and all heads of layer 6 together less than half of one. Do these MLPs cause the
# difference, or do they only show what others have caused?
#
# ## Is the answer repaired?
#
# Run a wrong prompt again, and replace the residual stream at one token, after one layer, by what
# it was in another run. Three donors are of interest: the same fact asked right, at the last token
# and at the *subject*; and *another* subject's prompt in the right wording, at the last token. That
# one has the question and not the answer. Its control is another subject in the wrong wording.

# %%
wrong.tables["states"]

# %% [markdown]
# Another subject's state, taken after layer 0, repairs nearly every answer, as many as the fact's
# own does, while the control repairs few. It cannot have brought the answer, as it comes from a
# prompt about another subject; it brought the question. From layer 6 on it repairs nothing: by then
# it carries its own subject's answer. And the fact's own state at the subject repairs no more than
# about a quarter, at its best layer: mostly the fact was there, and was not asked for.

# %%
wrong.plot("states")

# %% [markdown]
# ## Which part is to blame?
#
# Replace what a single head or MLP writes at the last token, by what it wrote in another subject's
# right run. The blame is laid on the part that repairs most on one half of a relation's cases, and
# tried on the other half. A random part is a weak opponent, as most parts repair nothing. A
# *matched* one is of the same kind and from the nearest layer.

# %%
wrong.tables["blamed_other_subject"]

# %%
[claim.sentence for claim in wrong.claims if "blamed most, taken" in claim.sentence]

# %% [markdown]
# In eight of ten halves the blame falls on `m0`, and over the five relations it holds up against
# its neighbours. So these wrong answers are failures of *reading*: at the last token an unseen
# wording does not bring about, in layer 0, what a known one does. Two cautions. The wrong answers
# of five relations in two unseen wordings each are few kinds of mistakes. And nothing here is about
# facts that the model never learned: a case is a known fact by definition.
#
# ## Examples before the question
#
# Now to a prompt that does not ask at all. `Pakistan:` may go on with a capital, a language or a
# currency; with examples before it, it is a question.

# %%
asked = ("country_continent", "person_language", "company_city", "landmark_city", "verb_past")
settings = {"styles": ("list",), "counts": (0, 2), "steps": 1, "draws": 5}
shots = kc.run("icl", model, out="out/notebook/icl", relations=asked, **settings)
shots.tables["examples"]

# %% [markdown]
# Without examples fewer than two answers in five are right; with two examples all of them are.
# Which heads make use of them? Circuits are found with and without two examples on one half of the
# facts, and a head is *new* if only the circuit with examples has it. On the other half the new
# heads are silenced, beside random ones. It is done here with a coarser setting than `kc run icl`
# has.

# %%
shots.tables["circuits_list"]

# %% [markdown]
# Every circuit has new heads. It would be tempting to stop here, with heads that are new and that,
# over all relations, have most of their attention on the examples. But so have all other heads
# taken together, as examples are most of the prompt; only the circuit's other heads look more at
# the question.

# %%
shots.tables["attention_list"]

# %% [markdown]
# What happens without the new heads? Random ones are drawn from all others, the circuit's included.

# %%
shots.tables["table2_list"]

# %%
[claim.sentence for claim in shots.claims]

# %% [markdown]
# In no relation do the answers lose four points of probability without the new heads, and in each
# they lose more without as many *random* ones. So there is no evidence that the new heads matter
# more than random ones, and being new is a weak sign: another half of the facts, without any
# example, brings in three quarters as many heads.
#
# What does matter are the heads whose share of the scores *grew*. A quarter of these are new, and
# half are heads of layer 0. In two of the five relations their silence makes the answer clearly
# less likely without any example, too, and in two others clearly *more* likely. Nor are they
# induction heads. On random tokens that come twice, such a head would have a score near 1; the
# highest of any head of this model is 0.04.
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
