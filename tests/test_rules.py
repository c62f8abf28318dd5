"""Locators with other derivatives: against plain autograd through a model rewritten for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits.base.choices import KeyValue
from circuits.base.errors import OptionError, UnsupportedArchitectureError
from circuits.base.options import build
from circuits.graph.scores import EdgeScores
from circuits.model.model import Model
from locate.edges.locators import Locator
from locate.edges.relp import FROZEN
from locate.edges.rules import BackwardRules, with_derivative_of
from locate.edges.runs import at_clean, contract_runs
from locate.edges.score import score_edges
from locate.search import Scoring
from tests.families import FAMILIES, family_model, family_pairs
from tests.oracles import plain_eap
from tests.tiny import equal_length_pairs, gpt2_hf, tiny_model

RULED = [("gim", None), ("relp", {"patterns": "frozen"}), ("relp", {"patterns": "halved"})]


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max())


def asked(method: str, options: Any = None, **more: Any) -> Scoring:
    return build(Scoring, {"method": method, "options": options, **more})


def scores(model: Model, pairs: Any, method: str, options: Any = None, **more: Any) -> EdgeScores:
    found = score_edges(model, pairs, asked(method, options, **more))
    assert isinstance(found, EdgeScores)
    return found


@contextmanager
def rewritten(model: Model, softmax: Callable[..., Tensor] | None = None, **parts: Any) -> Iterator:
    """The bridge with frozen norms, and what else is asked for, by replacing what it computes."""
    bridge, rms = model.bridge, model.uses_rms_norm

    def frozen(norm: Any) -> Callable[[Tensor], Tensor]:
        def run(value: Tensor) -> Tensor:
            bias = 0.0
            if not rms:
                value, bias = value - value.mean(-1, keepdim=True), norm.original_component.bias
            size = value.detach().pow(2).mean(-1, keepdim=True) + bridge.cfg.eps
            return value * size.rsqrt() * norm.weight + bias

        return run

    def shares(scale: float) -> Callable[..., Tensor]:
        def share(value: Tensor, hook: Any) -> Tensor:
            same = value * 1
            same.register_hook(lambda gradient: scale * gradient)
            return same

        return share

    def detached(value: Tensor, hook: Any) -> Tensor:
        return value.detach()

    hooks = []
    with ExitStack() as stack:
        kind = type(bridge.ln_final)
        stack.enter_context(patch.object(kind, "forward", lambda self, value: frozen(self)(value)))
        for layer, block in enumerate(bridge.blocks):
            each = patch.object(block.attn, "_apply_ln1_per_head", frozen(block.ln1))
            stack.enter_context(each)
            for slot, scale in parts.get("shares", {}).items():
                hooks.append((f"blocks.{layer}.attn.{slot}.hook_out", shares(scale)))
            if parts.get("frozen"):
                hooks.append((f"blocks.{layer}.attn.hook_pattern", detached))
            if parts.get("linear"):
                mlp = block.mlp.original_component
                name = "act" if hasattr(mlp, "act") else "act_fn"
                if name == "act_fn":
                    hooks.append((f"blocks.{layer}.mlp.out.hook_in", shares(0.5)))
                true = getattr(mlp, name)
                straight = torch.nn.Module()
                straight.forward = lambda x, f=true: x * (f(x) / x).detach()
                stack.enter_context(patch.object(mlp, name, straight))
        if softmax is not None:
            stack.enter_context(patch("torch.nn.functional.softmax", softmax))
        yield hooks


class HalfAsHot(torch.autograd.Function):
    """A softmax whose backward pass is that at half of what it read."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        context.save_for_backward(value)
        shifted = (value - value.amax(-1, keepdim=True)).exp()
        return shifted / shifted.sum(-1, keepdim=True)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (value,) = context.saved_tensors
        value = value / 2
        weight = (value - value.amax(-1, keepdim=True)).exp()
        weight = weight / weight.sum(-1, keepdim=True)
        return weight * (gradient - (weight * gradient).sum(-1, keepdim=True))


def plain(model: Model, pairs: Any, method: str, options: Any) -> np.ndarray:
    thirds = {"q": 0.25, "k": 0.25, "v": 0.5}
    if method == "gim":
        hot = {"softmax": lambda x, dim=-1, dtype=None: HalfAsHot.apply(x), "shares": thirds}
    elif options["patterns"] == "frozen":
        hot = {"linear": True, "frozen": True}
    else:
        hot = {"linear": True, "shares": thirds}
    with rewritten(model, **hot) as hooks:
        return model.wiring().from_matrix(plain_eap(model, pairs, hooks=hooks).numpy())


@pytest.mark.parametrize(("method", "options"), RULED)
def test_ruled_scores_are_those_of_a_model_rewritten_for_them(model, pairs, method, options):
    ours = scores(model, pairs, method, options).values
    theirs = plain(model, pairs, method, options)
    assert close(ours, theirs)
    assert not close(scores(model, pairs, "eap").values, theirs, 0.05)


@pytest.mark.parametrize("method", ["gim", "relp", "atp-star"])
def test_batch_mates_and_order_leave_scores_unchanged(model, pairs, method):
    whole = score_edges(model, pairs, asked(method), keep_pairs=True)
    other = score_edges(model, pairs[::-1], asked(method), keep_pairs=True, batch_size=2)
    assert close(other.per_pair[::-1], whole.per_pair, 1e-5)
    assert close(whole.per_pair.mean(0), whole.values, 1e-5)


@pytest.mark.parametrize("method", ["gim", "atp-star"])
def test_ungrouped_scores_summed_over_a_group_are_the_grouped_scores(method):
    model = tiny_model("llama", heads=6, kv_heads=2, width=48)
    pairs = equal_length_pairs(model)
    options = {"drop": False} if method == "atp-star" else None
    grouped = scores(model, pairs, method, options)
    ungrouped = scores(model, pairs, method, options, kv=KeyValue.PER_QUERY_HEAD)
    assert close(ungrouped.grouped().values, grouped.values, 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_leaves_what_a_model_says_as_it_is_and_hooks_are_gone(family):
    model = family_model(family)
    pairs = family_pairs(model)
    tokens = torch.tensor([pairs[0].clean.ids])

    def counted() -> list[int]:  # the bridge keeps some of its own in OPT
        points = model.bridge.hook_dict.values()
        return [len(point.fwd_hooks) + len(point.bwd_hooks) for point in points]

    before = counted()
    experts = model.architecture.mlp_output is None
    closed = model.architecture.closed_attention
    rules = BackwardRules(True, not experts, False, 1.0 if closed else 2.0, (0.25, 0.25, 0.5))
    with torch.no_grad():
        plainly, ruled = (model.last_logits(tokens, h) for h in ((), rules.hooks(model)))
    assert torch.equal(plainly, ruled)
    for method in ("gim", "atp-star"):
        if closed:
            with pytest.raises(UnsupportedArchitectureError, match="no hook can replace"):
                scores(model, pairs, method)
        elif method == "gim":
            found = scores(model, pairs, method).values
            assert np.isfinite(found).all()
            assert found.any()
    if experts:
        with pytest.raises(UnsupportedArchitectureError, match="mixes experts"):
            scores(model, pairs, "relp")
    assert counted() == before


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "gemma2", "gpt_neox"])
def test_relp_is_linear_from_the_values_on(family):
    """With every rule, the metric is a linear function of what the last layer's sources write.

    Then the scores of all edges into the logits are exact up to the final norm's denominator, and
    the scores into one MLP sum to that of its output, as far as its biases carry nothing.
    """
    model = family_model(family)
    pairs = family_pairs(model)
    found = scores(model, pairs, "relp").matrix()
    queries = [
        i for i, name in enumerate(model.wiring().dst_names) if name.endswith(("<q>", "<k>"))
    ]
    assert not found[:, queries].any()
    assert found.any()


def test_a_value_keeps_its_bits_and_takes_the_derivative():
    value = torch.randn(5, dtype=torch.float32, requires_grad=True)
    made = with_derivative_of(value, 3 * value)
    assert torch.equal(made, value)
    made.sum().backward()
    assert torch.equal(value.grad, torch.full((5,), 3.0))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma2"])
def test_atp_star_contracts_the_pattern_of_a_run_with_the_query_or_key_changed(family):
    """One edge at a time, by hooks in a whole run, without what the module computes with."""
    model = family_model(family)
    pair = next(iter(family_pairs(model)))
    wiring = model.wiring()
    ours = scores(model, [pair], "atp-star", {"drop": False})
    generator = np.random.default_rng(0)
    near = 1e-5 * float(
        np.abs(ours.values).max()
    )  # norms and softmax in single precision in places
    attended = [
        edge
        for edge in range(wiring.n_edges)
        if wiring.dst_names[wiring.edge_dst[edge]].endswith(("<q>", "<k>"))
    ]
    for edge in generator.choice(attended, 12, replace=False):
        theirs = _by_a_run(model, pair, int(edge))
        assert ours.values[edge] == pytest.approx(theirs, rel=1e-4, abs=near)


def _by_a_run(model: Model, pair: Any, edge: int) -> float:
    from circuits.model import taps
    from circuits.model.metrics import evaluate_metric
    from locate.edges.passes import SourceDifferences

    wiring = model.wiring()
    src, dst = int(wiring.edge_src[edge]), int(wiring.edge_dst[edge])
    layer, place = divmod(dst, wiring.n_attn + 1)
    slot = "q" if place < wiring.n_heads else "k"
    place -= 0 if slot == "q" else wiring.n_heads
    clean, corrupted = torch.tensor([pair.clean.ids]), torch.tensor([pair.corrupted.ids])
    answer, foil = torch.tensor([pair.answer]), torch.tensor([pair.foil])
    found: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any) -> Tensor:
        found["pattern"] = value.detach().requires_grad_(True)
        return found["pattern"]

    logits = model.last_logits(clean, [(taps.pattern(layer), keep)])
    metric = evaluate_metric("logit-diff", logits, answer, foil).sum()
    (gradient,) = torch.autograd.grad(metric, found["pattern"])
    differences = SourceDifferences(model)
    with torch.no_grad():
        model.last_logits(clean, differences.hooks(1))
        model.last_logits(corrupted, differences.hooks(-1))
        written = torch.empty(wiring.n_src, clean.shape[1], model.d_model, dtype=model.dtype)
        written[0] = differences.values["embedding"][0]
        for lower in range(layer):
            differences.write_layer(lower, slice(None), written, wiring.head_src(lower))
        norm = model.norm(layer, "ln1")

        def less(value: Tensor, hook: Any) -> Tensor:
            residual = value - written[src]
            read = residual if norm is None else norm(residual)
            weight = getattr(model.bridge.blocks[layer].attn, f"W_{slot.upper()}")[place]
            bias = getattr(model.bridge.blocks[layer].attn, f"b_{slot.upper()}")
            found["new"] = read @ weight + (
                0 if bias is None else bias.view(-1, model.d_head)[place]
            )
            return value

        def put(value: Tensor, hook: Any) -> Tensor:
            changed = value.clone()
            changed.view(*value.shape[:2], -1, model.d_head)[:, :, place] = found["new"]
            return changed

        def see(value: Tensor, hook: Any) -> None:
            found["after"] = value

        hooks = [(taps.resid_pre(layer), less), (taps.projection(layer, slot), put)]
        model.last_logits(clean, [*hooks, (taps.pattern(layer), see)])
    change = (found["pattern"].detach() - found["after"])[0]
    repeats = 1 if slot == "q" else model.n_heads // model.n_kv_heads
    heads = slice(place * repeats, (place + 1) * repeats)
    return float((change[heads] * gradient[0, heads]).sum())


def test_gradient_drop_is_the_mean_size_over_passes_that_reach_the_reader(model, pairs):
    both = scores(model, pairs[:1], "atp-star", {"attention": False}).matrix()
    passes = []
    for left_out in range(model.n_layers):
        block = [model.taps.attention_out(left_out), model.taps.mlp_out(left_out)]
        hooks = [(point, lambda value, hook: value.detach()) for point in block]
        passes.append(np.abs(plain_eap(model, pairs[:1], hooks=hooks).numpy()))
    reached = np.full(model.wiring().n_dst, model.n_layers - 1)
    reached[model.wiring().logits_dst] = model.n_layers  # which no layer lies before
    assert close(both, sum(passes) / reached)


@pytest.mark.parametrize("layers", [2, 3])
def test_gradient_drop_is_what_a_step_changes_while_a_layer_writes_what_it_wrote(layers):
    """No gradient here: a layer that is left out keeps its clean outputs, in double precision."""
    model = tiny_model("gpt2", layers=layers)
    pair = equal_length_pairs(model)[1]
    ours = scores(model, [pair], "atp-star", {"attention": False})
    plain = scores(model, [pair], "eap")
    hf = gpt2_hf(layers).double()
    mlps = [block.mlp for block in hf.transformer.h]
    readers = [block.ln_2 for block in hf.transformer.h] + [hf.transformer.ln_f]
    clean, corrupted = _written(hf, pair.clean.ids), _written(hf, pair.corrupted.ids)
    near = 1e-5 * float(np.abs(ours.values).max())

    def value(reader: Any, step: Tensor, left_out: int) -> float:
        block = hf.transformer.h[left_out]
        with ExitStack() as hooks, torch.no_grad():
            for part in (block.attn, block.mlp):
                old = clean[part]
                same = part.register_forward_hook(
                    lambda part, given, out, old=old: (old, *out[1:]) if type(out) is tuple else old
                )
                hooks.callback(same.remove)
            moved = reader.register_forward_pre_hook(lambda part, given: (given[0] + step,))
            hooks.callback(moved.remove)
            logits = hf(torch.tensor([pair.clean.ids])).logits[0, -1]
        return float(logits[pair.answer] - logits[pair.foil])

    for source, mlp in enumerate(mlps):
        step = 1e-5 * (clean[mlp] - corrupted[mlp])
        for place, reader in enumerate(readers[source + 1 :], start=source + 1):
            name = f"m{source}->{'logits' if place == layers else f'm{place}'}"
            sizes = [
                abs(value(reader, step, layer) - value(reader, -step, layer)) / 2e-5
                for layer in range(layers)
                if layer != place
            ]
            edge = ours.wiring.edge_index(name)
            assert ours.values[edge] == pytest.approx(np.mean(sizes), rel=1e-4, abs=near), name
            if place == layers:
                size = abs(plain.values[edge])
                assert ours.values[edge] == pytest.approx(size, rel=1e-5), name


def _written(hf: Any, ids: Any) -> dict[Any, Tensor]:
    """What each attention and MLP writes in a run."""
    found: dict[Any, Tensor] = {}

    def keep(part: Any, given: Any, out: Any) -> None:
        found[part] = out[0] if isinstance(out, tuple) else out

    with ExitStack() as hooks, torch.no_grad():
        for block in hf.transformer.h:
            for part in (block.attn, block.mlp):
                hooks.callback(part.register_forward_hook(keep).remove)
        hf(torch.tensor([ids]))
    return found


def test_atp_star_says_what_it_cannot_do(pairs):
    joint = family_model("olmo2")
    with pytest.raises(UnsupportedArchitectureError, match="share a norm"):
        scores(joint, family_pairs(joint), "atp-star")
    assert scores(joint, family_pairs(joint), "atp-star", {"attention": False}).values.any()
    one = tiny_model("gpt2", layers=1)
    with pytest.raises(OptionError, match="one layer"):
        scores(one, equal_length_pairs(one), "atp-star")


def test_an_ensemble_is_the_mean_of_its_members_scores_or_ranks(model, pairs):
    of = ("eap", "gim")
    found = [score_edges(model, pairs, asked(name), keep_pairs=True) for name in of]
    sizes = [np.sqrt((each.values**2).mean()) for each in found]
    scaled = score_edges(model, pairs, asked("ensemble", {"of": of}), keep_pairs=True)
    for kept in ("values", "per_pair"):
        parts = [getattr(each, kept) / size for each, size in zip(found, sizes, strict=True)]
        assert close(getattr(scaled, kept), np.mean(parts, 0), 1e-5)
    plain = [np.abs(each.values) for each in found]
    order = [(s[:, None] > s).sum(1) + (s[:, None] == s).sum(1) / 2 + 0.5 for s in plain]
    votes = sum(np.sign(each.values) * rank for each, rank in zip(found, order, strict=True))
    expected = np.where(votes < 0, -1, 1) * sum(order) / (2 * len(order[0]))
    ranks = {"of": of, "by": "ranks"}
    np.testing.assert_allclose(scores(model, pairs, "ensemble", ranks).values, expected, atol=1e-5)
    with pytest.raises(OptionError, match="`by` scores"):
        score_edges(model, pairs, asked("ensemble", ranks), keep_pairs=True)
    masks = {"of": ("eap", "edge-pruning")}
    with pytest.raises(OptionError, match="edge-pruning gives no scores of single pairs"):
        score_edges(model, pairs, asked("ensemble", masks), keep_pairs=True)


@pytest.mark.parametrize("family", ["opt", "gptj", "gpt_neo"])
def test_halved_patterns_need_no_hook_on_attention_and_frozen_ones_do(family):
    """What the last layer's queries, keys and values get passes one product with the pattern."""
    model = family_model(family)
    pairs, wiring = family_pairs(model), model.wiring()
    with pytest.raises(UnsupportedArchitectureError, match="no hook can replace"):
        scores(model, pairs, "relp")
    halved = scores(model, pairs, "relp", {"patterns": "halved"}).matrix()
    rules = replace(FROZEN, frozen_patterns=False)
    whole = contract_runs(model, pairs, asked("relp"), at_clean, rules=rules).matrix()
    first, n_heads, n_keys = (
        wiring.attn_dst(model.n_layers - 1),
        wiring.n_heads,
        wiring.n_key_inputs,
    )
    ends = np.cumsum([first, n_heads, n_keys, n_keys])
    for start, stop, share in zip(ends, ends[1:], (0.25, 0.25, 0.5), strict=False):
        assert whole[:, start:stop].any()
        assert close(halved[:, start:stop], share * whole[:, start:stop])


def test_an_ensemble_uses_what_its_members_use():
    for of, uses in {("eap", "gim"): (), ("eap", "eap-gp"): ("steps",)}.items():
        scoring = asked("ensemble", {"of": of})
        assert scoring.uses == uses
        assert ("steps" in scoring.record()) == ("steps" in uses)
        assert "rule" not in scoring.record()
    assert asked("ensemble").uses == ("steps", "rule")  # EAP-IG's, of the usual members
    assert not any(each.names for each in asked("ensemble").idle())


@pytest.mark.parametrize(
    ("of", "match"),
    [
        (("eap",), "two locators"),
        (("eap", "eap"), "once"),
        (("eap", "acdc"), "not acdc"),
        (("eap", "ensemble"), "not ensemble"),
        (("eap", "none"), "none"),
    ],
)
def test_an_ensemble_of_nonsense_is_refused(of, match):
    with pytest.raises(OptionError, match=match):
        asked("ensemble", {"of": of})


@pytest.mark.slow
def test_every_locator_that_scores_is_near_exact_patching(model, pairs):
    """The tiny models are nearly linear between the prompts, so each estimate is near the truth."""
    exact = np.abs(scores(model, pairs, "exact").values)
    for locator in Locator:
        if locator.per_pair:  # masks that are learnt together estimate no single edge's effect
            size = np.abs(scores(model, pairs, locator).values)
            assert np.corrcoef(size, exact)[0, 1] > 0.4, locator
