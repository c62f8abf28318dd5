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
# # 4. What does each head do?
#
# A circuit says which heads matter; it does not say what for. Yao et al. (2024) describe three
# roles in the recall of a fact. A *mover* head attends, from the last token, to the subject and
# writes what belongs to it. A *relation* head attends to the words that say what is asked and
# writes tokens of that kind. A *mixture* head does both. This notebook labels the heads of
# `facts-gpt2` by a stated criterion, and then asks whether the labels are true.

# %%
import knowledge_circuits as kc

model = kc.load("facts-gpt2", device="cpu")

# %% [markdown]
# ## The criterion
#
# A head's output at the last token is a sum over the tokens that it looks at, and the logits are,
# with the final norm held as it is, a sum over heads. So what a head writes can be split by *where
# it read it*. A head has a part in recalling the fact if three things hold on average over pairs:
#
# - it *looks*: at least 30 % of its attention is on the subject (for a mover) or on the relation's
#   words (for a relation head), each token weighted by what is read there;
# - it *writes*: from there it raises the answer over other objects (mover), or the objects over all
#   other tokens (relation), by at least 2 % of what all heads together do;
# - it does so for *every subject*: the interval of that gain lies above zero.

# %%
roles = kc.roles(model, "country_capital", n_pairs=24)
roles

# %% [markdown]
# The column *share* says how much of all heads' work in a role this head does; *writes* in how many
# pairs the right capital is among the five tokens that it raises most, and in how many the foil,
# another country's. The movers of layer 6 look at the country and nowhere else, and some of them
# say the capital of most countries by themselves. In the picture every head has its place: to the
# right what it does as a mover, upwards as a relation head. The dashed lines are the criterion's
# 2 %.

# %%
roles.plot()

# %% [markdown]
# The heads fall apart into two groups along the two axes; none is a mixture. Movers lie in the last
# layers, above the MLP that knows the fact; most relation heads lie in layer 0, where the words of
# the question are first read. Hover over a head for its evidence.
#
# ## One prompt, token by token
#
# What is a mover for? Moving *this* country's capital. So look at one prompt. Bars show where a
# head looks, weighted by what it reads there, black lines its plain attention.

# %%
movers = [head.name for head in roles.labelled if head.role == "mover"][:4]
relation_heads = [head.name for head in roles.labelled if head.role == "relation"][:2]
read = kc.heads(model, "country_capital", movers + relation_heads, n_prompts=1, n_pairs=24)
read.plot()

# %%
kc.plot(read, "tokens")

# %% [markdown]
# The subject is bold in the first picture, the right answer in the second. All four movers look at
# the subject, and each raises the answer's token, among words of the country and of its kind. No
# head says the answer alone: each adds a logit or two, and the sum decides. What the relation heads
# raise is hard to read, and their bars are short: their words are spread over many tokens, of which
# the objects of the relation get a little more than the rest.
#
# ## Is it true?
#
# A label is a description. To test it, silence the head at the last token (its output is replaced
# by zeros) and see whether the run loses what the label promises: without a mover, the answer
# should fall against other capitals; without a relation head, capitals should fall against other
# tokens. Each is compared with the mean of as many unlabelled heads of the same or
# the nearest layers, silenced likewise.

# %%
gap = {"mover": "answer_gap", "relation": "range_gap"}
{
    head.name: (str(head.role), str(head.check.effects[gap[head.role]]), str(head.check.verdict))
    for head in roles.labelled
}

# %% [markdown]
# The number is what silencing the head changes, in logits: for a mover the answer over the mean of
# the other capitals, for a relation head these over all other tokens. Most labels are confirmed,
# the strong movers all of them. `not confirmed` is not `refuted`: later layers may make up for a
# silenced head, and a borderline label rests on little. A label that ablation contradicts would be
# called `contrary`.
#
# ## Where the roles lie
#
# `discover` puts the labels on the circuit that it finds, and then everything that draws or counts
# circuits knows them.

# %%
found = kc.discover(model, "country_capital", n_pairs=24, edges=200, resamples=0)
found.circuit

# %%
kc.plot(found.circuit, "layers")

# %%
found.plot(max_edges=60)

# %% [markdown]
# The two ends of the circuit have names: relation heads at the bottom, movers at the top. Between
# them stand heads and MLPs without a role, and they are not idle: the criterion reads the *direct*
# path to the logits at the *last* token, and the heads of layer 0 that carry the country into `m2`
# work at another token and through another part. A head without a role is a head that this
# question does not see.
#
# ```
# kc roles --model facts-gpt2 --relation country_capital --out out/roles
# kc figures out/roles --kind attention --kind tokens --head a6.h1 --width single
# ```
