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
# # 1. Where in the model is a fact?
#
# A language model completes *The capital city of South Korea is called* with *Seoul*. Somewhere
# between the words and the answer the fact is looked up. Where: at which token, in which layer, by
# attention or by an MLP? This notebook goes from one prompt to a statement about a relation, with
# the two oldest instruments there are, causal tracing and the logit lens.
#
# It runs on `facts-gpt2`, a model of 3.2 million parameters that ships with the project and answers
# 99.3 % of the atlas's 2,533 facts in its training wordings. Where it recalls them was partly
# decided in training (its card says what), so read what follows as a course in the instruments, not
# as news about large models. Replace the name by `gpt2` or a folder of your own to ask the same of
# another model.

# %%
import knowledge_circuits as kc

model = kc.load("facts-gpt2", device="cpu")

# %% [markdown]
# ## Does it know?
#
# Before asking where a fact is, ask whether it is there. The *logit lens* reads the residual stream
# after every layer as if it were the last one: through the final norm and the output matrix. Its
# last row is the model's own answer. We follow the answer and the subject at the last token, where
# the next word is predicted; rank 1 is the top.

# %%
prompt = "The capital city of South Korea is called"
lens = kc.lens(model, prompt, answer="Seoul", subject="South Korea")
lens

# %% [markdown]
# The last row says *Seoul*, so the fact is known. And the column *most likely* says more: up to
# layer 5 the residual stream at the last token does not name the city, from layer 6 on it does. The
# answer arrives late and at once. The picture shows the same as curves, with the probability beside
# the rank.

# %%
lens.plot()

# %% [markdown]
# ## Breaking the fact and mending it
#
# The lens shows where the answer can be *read*. It does not show what the model *needs*. For that,
# Meng et al. (2022) break the fact and mend it:
#
# 1. run the prompt: the answer has probability `p clean`;
# 2. add noise to the embeddings of the subject's tokens: the model no longer knows what it is asked
#    about, and the probability falls to `p corrupted`;
# 3. do 2 again, but set a single state (one token, one layer) back to its clean value. What the
#    probability gains is that state's *indirect effect*: how much of the fact passes there.
#
# Three kinds of state are restored in turn: the whole residual stream, what an MLP adds to it, and
# what attention adds. With `window=1` a single layer is restored at a time; in deep models one
# restores several together.

# %%
found = kc.trace(model, prompt, "South Korea", "Seoul", window=1)
found

# %%
found.plot()

# %% [markdown]
# Read the three maps from left to right. In the *residual stream* the fact stands at *Korea*, the
# subject's last token, through the layers 0 to 5, and at the last token from layer 6 on. Nothing of
# it lies in between: it moves in one step. The other two maps say what does the work. At *Korea*,
# attention of layer 0 joins *South* and *Korea* to one subject, and the MLP of layer 2 adds what
# the model knows about it. At the last token, attention of layer 6 fetches the answer.
#
# One prompt is an anecdote, and the noise is random: the table above has only ten draws of it.
# Before believing the story, repeat it over facts.

# %% [markdown]
# ## From a prompt to a relation
#
# Given the name of a relation instead of a prompt, `trace` asks the model its facts in several
# wordings, keeps what it knows, and traces twelve of them. Prompts differ in length, so effects are
# averaged by what a token *is* to the fact: the subject's last token, the first token after it, the
# last token. The table lists, for the two sites that Meng et al. found, the layer where the mean
# effect is largest, with a 95 % bootstrap interval over facts.

# %%
average = kc.trace(model, "country_capital", n_pairs=12, samples=4, window=1)
average

# %%
average.plot()

# %% [markdown]
# The story holds for twelve capitals: the subject's last token early (attention of layer 0, the MLP
# of layer 2), the last token late (attention of layer 6). The intervals of these sites lie far
# above zero. MLPs at the *last* token do next to nothing: their largest effect is a few hundredths.
#
# Two cautions. The intervals are over facts, not over prompts' wordings or models. And the noise
# has a size: with too little of it nothing is forgotten, and there is nothing to restore. Three
# standard deviations of the embedding are usual; the next cell takes half of one.

# %%
weak = kc.trace(model, "country_capital", n_pairs=12, samples=4, window=1, noise=0.5)
weak

# %% [markdown]
# With so little noise `p corrupted` stays near `p clean`, and all effects shrink to hundredths,
# although the model is the same. An effect has a meaning only beside the noise that it was measured
# with; that is why every trace keeps it.
#
# ## The lens over the same facts
#
# The lens can be averaged too. Beside the answer it follows the *other objects* of the relation, in
# this case other capitals, and of these always the best one: the strongest rival.

# %%
rivals = kc.lens(model, "country_capital", n_pairs=12)
rivals

# %% [markdown]
# At the last token the answer stands behind its strongest rival up to layer 5; in layer 6 it jumps
# to the top, and the rival stays behind. Which capital it is becomes clear there and not before:
# lens and trace, which have nothing but the model in common, agree on when.
#
# ## What this does not tell
#
# A trace says at which places the fact passes. It does not say which of the eight heads of layer 6
# fetches the answer, from where, or who else reads what the MLP of layer 2 wrote. For this one
# needs the edges between the parts: the circuit, in the next notebook.
#
# The same from the command line, with files and figures:
#
# ```
# kc trace --model facts-gpt2 --relation country_capital --out out/traces
# kc figures out/traces --width double
# ```
