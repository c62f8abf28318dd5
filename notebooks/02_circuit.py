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
import numpy as np

import knowledge_circuits as kc
from circuits.base.choices import Selection
from circuits.facts.facts import relation
from circuits.facts.pairing import pairs_for
from circuits.facts.pairs import encode_pairs
from circuits.graph.curves import faithfulness_curve
from circuits.graph.evaluate import evaluate, run_circuits
from circuits.graph.resample import inclusion_frequency
from circuits.graph.select import random_circuit, select, top_n
from locate.edges.eap import attribute
from viz.screen import layers_figure

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
report = pairs_for(model, relation("country_capital"), n=48)
pairs = encode_pairs(model.tokenizer, report.pairs)
finding, testing = pairs[:24], pairs[24:]
[(pair.text.clean, pair.text.corrupted, pair.text.answer, pair.text.foil) for pair in pairs[:3]]

# %% [markdown]
# ## A score for every edge
#
# What would the metric lose if this one edge carried the corrupted prompt's value? Trying each of
# the 6,637 is possible here and hopeless in a large model. EAP-IG (Hanna et al. 2024) estimates all
# of them at once from gradients, averaged over five steps from the corrupted to the clean
# embedding. A positive score supports the answer, a negative one opposes it; the unit is logits.

# %%
scores = attribute(model, finding, steps=5, keep_pairs=True)
scores

# %% [markdown]
# The strongest edges tell the story of the first notebook in names: the country enters at heads of
# layer 0, these hand it to `m2`, and heads of layer 6 write to the logits. The circuit is the 200
# strongest edges, without those that hang in the air because nothing leads to them or on from them.

# %%
circuit = select(scores, Selection.TOP, n=200)
circuit.plot(max_edges=60)

# %% [markdown]
# Blue edges support the answer, orange dashed ones oppose it, and width is the size of the score;
# hover for names and numbers. The picture shows the 60 strongest edges that lie on a path
# from input to logits. Where the rest of the circuit lies is better told by counting:

# %%
layers_figure(circuit)

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
generator = np.random.default_rng(0)
opponent = random_circuit(circuit.wiring, circuit.n_edges, generator)
tested = evaluate(model, testing, circuit, random_circuits=[opponent])
tested

# %% [markdown]
# Three per cent of the edges do about 96 % of the work, on countries they were not chosen for. The
# random circuit does none of it, and neither does everything *outside* the circuit, which has more
# than thirty times as many edges. Hit@10 is the share of prompts whose answer is among the ten best
# tokens: all, for the circuit as for the model.
#
# ## How small could it be?
#
# 200 was our choice. The curve shows what others would have given, with the interval over pairs as
# a band. CPR is the area under it (more is better), CMD the area between it and 1 (less is better),
# over the share of edges kept.

# %%
sizes = (10, 20, 50, 100, 200, 500, 1000, circuit.wiring.n_edges)
nested = [top_n(scores, n) for n in sizes]
curve = faithfulness_curve(run_circuits(model, testing, nested), nested)
curve.plot("EAP-IG")

# %% [markdown]
# Ten edges are too few; fifty reach four fifths of the whole model; beyond 500 next to nothing
# is gained.
# There is no natural edge count at which the circuit *ends*: every size is a choice between a
# picture that can be read and one that is complete.
#
# ## Which edges would another sample have given?
#
# The circuit was found on 24 pairs. Were these other pairs, would the edges be the same? The
# *inclusion* of an edge is the share of resamples of the pairs whose circuit keeps it.

# %%
inclusion = inclusion_frequency(
    scores, lambda resampled: select(resampled, Selection.TOP, n=200), resamples=100, seed=0
)
kept = inclusion[circuit.kept]
{
    "in nearly every resample (95 % and more)": int((kept >= 0.95).sum()),
    "in most": int(((kept >= 0.5) & (kept < 0.95)).sum()),
    "in less than half": int((kept < 0.5).sum()),
}

# %% [markdown]
# About two thirds of the edges are sure of their place. The others are exchangeable: weak edges
# that this sample preferred to their likes. Do not build an argument on one of those.
#
# ## A circuit of capitals?
#
# We asked about capitals. Does the circuit belong to capitals? Run it, unchanged, on other
# relations: the languages of countries, and the classes of animals.

# %%
languages = encode_pairs(
    model.tokenizer, pairs_for(model, relation("country_language"), n=24).pairs
)
animals = encode_pairs(model.tokenizer, pairs_for(model, relation("animal_class"), n=24).pairs)
elsewhere = {
    "languages": evaluate(model, languages, circuit).faithfulness,
    "animals": evaluate(model, animals, circuit).faithfulness,
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
