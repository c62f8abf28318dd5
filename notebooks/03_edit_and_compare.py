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
# # 3. What does an edit do to the circuit?
#
# A fact can be changed without training: ROME (Meng et al. 2022) adds one matrix of rank 1 to one
# MLP, chosen so that the subject's representation reads out the new object. Whether that *works* is
# measured by asking. What it *does* is another question: does the new fact run through the old
# one's circuit, or past it? And what else changes? This notebook moves the capital of France to
# Rome and looks.

# %%
import knowledge_circuits as kc

model = kc.load("facts-gpt2", device="cpu")

# %% [markdown]
# ## The edit
#
# A request says what the model should say; `{}` stands for the subject. `edit` finds the change and
# leaves the model alone: the change is a value, which can be stored, applied for a while, and taken
# back bit for bit.

# %%
edited = kc.edit(
    model,
    "The capital of {} is",
    subject="France",
    target="Rome",
    ground_truth="Paris",
    relation="country_capital",
)
edited

# %%
edited.delta

# %% [markdown]
# One matrix of one layer has changed. It is the layer where the first notebook's traces found the
# MLP at work: for the models that ship, ROME's layer was chosen by causal tracing
# (`kc edit --layers auto` does the same for others).
#
# Within the `with` block the model has the edit, after it the model is as before.

# %%
prompt = "The capital of France is"
words = {"answer": "Paris", "foil": "Rome"}
before = kc.lens(model, prompt, **words)
with edited.applied():
    after = kc.lens(model, prompt, **words)
after

# %% [markdown]
# The edited model says *Rome*, from the layer on where it said *Paris* before. One prompt says
# little about an edit, though. Ask for something else about France, and for neighbours:

# %%
questions = (
    "The official language of France is",
    "The capital of Italy is",
    "The capital of Germany is",
)
answers = {question: [model.ask(question, k=1).tokens[0].strip()] for question in questions}
with edited.applied():
    for question in questions:
        answers[question].append(model.ask(question, k=1).tokens[0].strip())
answers

# %% [markdown]
# Italy and Germany have kept their capitals. But the French now speak Italian: in this small model
# the edit has moved the *country*, not just its capital. `kc edit` measures such side effects over
# many questions; here we look at their cause.
#
# ## Before and after
#
# The circuit of the edited fact is found twice, before and after, on pairs that set *Paris* against
# *Rome*. It is one and the same question to both models, so a score that changes its sign is an
# edge that spoke for Paris and now speaks for Rome. And because scores depend on the corrupted
# subjects that happened to be drawn, every change is held against what another draw would have
# changed: an edge is called *changed* beyond that noise, *unchanged* within it, and in between one
# *cannot tell*.

# %%
settings = {"edges": 200, "resamples": 100, "roles": False}
found = kc.compare(model, edited, n_pairs=12, draws=10, **settings)
found

# %% [markdown]
# Read it from top to bottom. More than half of the edges of either circuit are not in the other:
# the Jaccard index is below what two discoveries of the *unedited* model share with each other on
# other pairs. The answer moved by some twenty logits. And the causal check: putting the old values
# back on the edges called changed, and on nothing else, undoes the edit entirely. They carry it.
#
# The table names the heads. The movers of layer 6 wrote *Paris* and *French* before and write
# *Rome* and *Italian* now, although their own weights were not touched: they move what they read.

# %%
found.comparison.plot(max_edges=100)

# %% [markdown]
# Grey edges are kept, pink ones are kept with their sign flipped, green ones gained, orange dotted
# ones lost, yellow dotted ones cannot be told from noise. What changed is drawn first, and the rest
# of the hundred edges are the strongest that stayed.
#
# Flipped edges run along the whole path, from the country at the bottom to the logits. The road is
# the old one: the same heads of layer 0, the same MLP, the same movers. What travels on it is new.
# The curves show where it is exchanged, at the subject's last token:

# %%
found.plot(place="subject last")

# %% [markdown]
# Up to layer 1 both models are the same. In layer 2, where the matrix was changed, the new object
# jumps to the top and the old one falls; all later layers pass on what they get.
#
# ## And the neighbours?
#
# The same comparison on the pairs of a whole relation asks what the edit did to the capitals of
# other countries. No causal check this time (`draws=0`).

# %%
beside = kc.compare(model, edited, "country_capital", n_pairs=24, draws=0, **settings)
beside

# %% [markdown]
# Nothing that noise would not do: not one edge is called changed, and the two circuits agree better
# than two discoveries of the same model usually do. For other countries the edit is narrow; for
# France, whose language went with its capital, it is not.
#
# ## Limits
#
# One edit of one model. The pairs after the edit are the pairs before; another contrast (each
# model's own answer against a stranger's) asks another question and may see
# another circuit. And "the same road" is a statement about edges between heads and MLPs: what
# happens within them is not resolved.
#
# ```
# kc edit --model facts-gpt2 --method rome --prompt "The capital of {} is" --subject France \
#     --target Rome --ground-truth Paris --relation country_capital --out out/edit
# kc compare --model facts-gpt2 --edit out/edit/edit.kc.safetensors --out out/compare
# kc figures out/compare
# ```
