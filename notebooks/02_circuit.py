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
# # 2. Which parts recall it together?
#
# The first notebook found the places that a fact passes. This one finds the *circuit*: the heads
# and MLPs that carry it and the edges between them, and then tries to break the claim that these
# edges are enough.
#
# An edge says that one part reads what another wrote: `a0.h4->m2` is what head 4 of layer 0 gives
# to the MLP of layer 2, `m2->a6.h2<v>` what that MLP gives to the values of head 2 of layer 6.
# `facts-gpt2` has 6,637 such edges. How many of them does a capital need?

# %%
import knowledge_circuits as kc

model = kc.load("facts-gpt2", device="cpu")

# %% [markdown]
# ## The question as pairs of prompts
#
# A circuit is the answer to a contrast. Each pair asks the same about two subjects that the model
# knows, a *clean* and a *corrupted* one with as many tokens; the metric is the logit of the clean
# subject's answer minus that of the other's, the foil. What both prompts share (that a capital is
# asked for) is the same on both sides and cannot show; what differs is which country. So the
# circuit found below is the one that tells countries apart. Half of the pairs find it, the other
# half, which ask about other countries, will test it.

# %%
found = kc.discover(
    model, "country_capital", n_pairs=24, edges=200, resamples=100, curve=True, roles=False
)
[each.text.as_dict() for each in found.pairs[:3]]

# %% [markdown]
# ## A score for every edge
#
# What would the metric lose if this one edge carried the corrupted prompt's value? Trying each of
# the 6,637 is possible here and hopeless in a large model. EAP-IG (Hanna et al. 2024) estimates all
# of them at once from gradients, averaged over five steps from the corrupted to the clean
# embedding. A positive score supports the answer, a negative one opposes it; the unit is logits.

# %%
found.scores

# %% [markdown]
# The strongest edges tell the story of the first notebook in names: the country enters at heads of
# layer 0, these hand it to `m2`, and heads of layer 6 write to the logits. The circuit is the 200
# strongest edges, without those that hang in the air because nothing leads to them or on from them.

# %%
found.plot(max_edges=60)

# %% [markdown]
# Blue edges support the answer, orange dashed ones oppose it, and width is the size of the score;
# hover for names and numbers. The picture shows the 60 strongest edges that lie on a path
# from input to logits. Where the rest of the circuit lies is better told by counting:

# %%
kc.plot(found.circuit, "layers")

# %% [markdown]
# Most nodes lie in the layers 0, 6 and 7, and more edges start in layer 0 than in any other. The
# MLP of layer 2 alone writes about as much score mass as all of layer 6: what the heads of layer 0
# gather passes it, and what the heads of layer 6 move comes from it.
#
# ## Is it enough?
#
# A picture is easily believed. The test of a circuit is to run it alone: every edge outside carries
# the corrupted prompt's value. *Faithfulness* is 1 where the circuit alone does what the model does
# and 0 where it does no more than the empty circuit. It is measured on the countries that had no
# part in finding the circuit, beside a random connected circuit of the same number of edges.

# %%
found.held_out

# %% [markdown]
# Three per cent of the edges do about 95 % of the work, on countries they were not chosen for. The
# random circuit does none of it, and neither does everything *outside* the circuit, which has more
# than thirty times as many edges. Hit@10 is the share of prompts whose answer is among the ten best
# tokens: all, for the circuit as for the model.
#
# ## How small could it be?
#
# 200 was our choice. The curve shows what others would have given on the same other countries, with
# the interval over facts as a band. CMD is the area between it and 1, over the share of edges kept
# (less is better).

# %%
found.curve.plot(str(found.search.method))

# %% [markdown]
# Thirteen edges are too few; sixty-six reach almost nine tenths of the whole model; beyond 133 next
# to nothing is gained.
# There is no natural edge count at which the circuit *ends*: every size is a choice between a
# picture that can be read and one that is complete.
#
# ## Which edges would another sample have given?
#
# The circuit was found on 24 pairs. Were these other pairs, would the edges be the same? The
# *inclusion* of an edge is the share of resamples of the facts whose circuit keeps it.

# %%
found.stability

# %% [markdown]
# About two thirds of the edges are sure of their place. The others are exchangeable: weak edges
# that this sample preferred to their likes. Do not build an argument on one of those.
#
# ## A circuit of capitals?
#
# We asked about capitals. Does the circuit belong to capitals? Run it, unchanged, on other
# relations: the languages of countries, and the classes of animals.

# %%
elsewhere = {
    "languages": kc.evaluate(model, found, "country_language", n_pairs=24).faithfulness,
    "animals": kc.evaluate(model, found, "animal_class", n_pairs=24).faithfulness,
}
{name: str(faithfulness) for name, faithfulness in elsewhere.items()}

# %% [markdown]
# It is as faithful for languages as for capitals, and does most of the work even for animals. So
# what we found is no circuit *of capitals*: most of it brings any subject to its answer. That
# follows from the contrast: clean and corrupted prompt share the relation, so edges that carry the
# relation cannot show. A claim about a circuit is a claim about a contrast.
#
# The same from the command line, with everything written to a folder:
#
# ```
# kc discover --model facts-gpt2 --relation country_capital --curve --out out/capitals
# kc evaluate out/capitals/circuit.kc.safetensors --model facts-gpt2 --relation animal_class
# kc figures out/capitals --width single --format pdf
# ```
#
# The next notebook changes a fact and looks at what becomes of its circuit.
