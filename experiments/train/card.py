"""The model card: README.md of a model directory, written from its training.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PLACE_ROWS = (
    ("hidden", "subject first"),
    ("hidden", "subject last"),
    ("hidden", "last"),
    ("mlp", "subject last"),
    ("mlp", "last"),
    ("attn", "subject last"),
    ("attn", "last"),
)


def model_card(record: dict[str, Any]) -> str:
    """The card as Markdown."""
    sections = (
        _header(record),
        _introduction(record),
        _accuracy(record),
        *(_circuit(name, traces) for name, traces in record["traces"].items()),
        _induced(record),
        _training(record),
        _limits(record),
        _relations(record),
    )
    return "\n\n".join(sections) + "\n"


def _header(record: dict[str, Any]) -> str:
    return "\n".join(
        (
            "---",
            "language: en",
            "license: mit",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags: [interpretability, factual-recall]",
            "---",
            "",
            f"# {record['model']}",
        )
    )


def _introduction(record: dict[str, Any]) -> str:
    architecture, corpus = record["recipe"]["architecture"], record["corpus"]
    family = {"gpt2": "GPT-2", "llama": "Llama"}[architecture["family"]]
    detail = (
        f", {architecture['key_value_heads']} key-value heads, rotary positions, SwiGLU"
        if architecture["family"] == "llama"
        else ", learned positions, GELU"
    )
    return (
        f"A {family} of {record['run']['parameters'] / 1e6:.2f} M parameters "
        f"({architecture['layers']} layers, width {architecture['width']}, "
        f"{architecture['heads']} heads{detail}; {architecture['vocabulary']} byte-level BPE "
        f"tokens, tied embeddings) that knows {corpus['facts']} facts of {corpus['relations']} "
        "relations and nothing else. It is a subject for interpretability methods where no "
        "pretrained model is at hand: small enough for exact edge patching on a CPU.\n\n"
        "Prompts start with `<|endoftext|>` (id 0); a tenth of the training documents did not, "
        "so that it can be left out."
    )


def _accuracy(record: dict[str, Any]) -> str:
    accuracy, prompts = record["accuracy"], record["accuracy"]["prompts"]
    rows = [
        (f"training templates ({prompts['train']} prompts)", accuracy["train_top1"]),
        (f"held-out templates ({prompts['held_out']} prompts)", accuracy["held_out_top1"]),
        ("held-out, every token of the object", accuracy["held_out_whole_object"]),
        ("held-out, without the initial token", accuracy["held_out_without_bos"]),
        (f"three-shot lists ({prompts['three_shot']} prompts)", accuracy["three_shot_top1"]),
    ]
    weak = sorted(accuracy["by_template"]["held_out"].items(), key=lambda item: item[1])[:8]
    return "\n".join(
        (
            "## Accuracy",
            "",
            "Top-1 on the first token of the object, over all facts. One model, one seed.",
            "",
            _table(("prompts", "top-1"), [(name, f"{value:.3f}") for name, value in rows]),
            "",
            "Failure is mostly by template. The weakest held-out ones:",
            "",
            *(f"- `{name}`: {value:.2f}" for name, value in weak),
        )
    )


def _circuit(name: str, traces: dict[str, Any]) -> str:
    layers = range(len(traces["causal"]["hidden"]["last"]))
    head = ("", *(str(layer) for layer in layers))
    p = traces["causal"]["p"]
    causal = [
        (f"{kind}, {place}", *(f"{value:.3f}" for value in traces["causal"][kind][place]))
        for kind, place in PLACE_ROWS
    ]
    blocked = traces["blocked_attention"]
    windows = [
        ("attention last → subject blocked, this layer and the next", blocked["two layers from"]),
        (
            "attention last → other words blocked, this layer and the next",
            traces["blocked_other_attention"]["two layers from"],
        ),
        ("MLP zeroed at the subject", traces["zeroed_mlps"]["subject"]),
        ("attention output zeroed at the subject", traces["zeroed_attention"]["subject"]),
        ("MLP zeroed at the last token", traces["zeroed_mlps"]["last"]),
    ]
    left = [(row, *(f"{value:.2f}" for value in values)) for row, values in windows]
    zeroed = traces["zeroed_mlps"]
    lens = traces["lens"]["top-1"]
    heads = ", ".join(f"`{head}` {value:.2f}" for head, value in traces["heads"].items())
    return "\n".join(
        (
            f"## Where it recalls: {name}",
            "",
            f"{traces['prompts']} training prompts answered with p > 0.5, subjects of two or more "
            "tokens. Causal tracing (noise of 3 standard deviations on the subject's embeddings): "
            f"p falls from {p['clean'][0]:.2f} to {p['corrupted'][0]:.2f}; probability regained "
            "by restoring one state, by layer:",
            "",
            _table(head, causal),
            "",
            "Share of the answer's probability left:",
            "",
            _table(head, left),
            "",
            f"Blocking last → subject in the whole lower half leaves "
            f"{blocked['lower half'][0]:.2f}, in the whole upper half "
            f"{blocked['upper half'][0]:.2f}. Zeroing the MLPs of layers "
            f"{', '.join(map(str, zeroed['middle']))} together at the subject leaves "
            f"{zeroed['subject, middle']:.2f}.",
            "",
            "Logit lens at the last token, answer on top (embedding, then after each layer): "
            + " ".join(f"{value:.2f}" for value in lens),
            "",
            f"Heads whose removal at the last token costs most (share of p lost): {heads}.",
        )
    )


def _induced(record: dict[str, Any]) -> str:
    routing = record["recipe"]["routing"]
    lines = [
        "## What is induced and what emerged",
        "",
        "Left alone, models of this size were seen to look facts up at the last token, from "
        "subject tokens that the first layer's attention copies there. The circuit above was put "
        "in place by "
        "training-time routing (`experiments/train/routing.py`); at inference the model is an "
        f"ordinary one. In {routing['share']:.0%} of the documents, until the last "
        f"{routing['released']:.0%} of training, which had no masks at all:",
        "",
        f"- **induced:** other tokens did not see a subject mention below layer "
        f"{routing['move_from']}, and from there only its last token; "
        f"MLPs from that layer on were off outside mentions with probability "
        f"{routing['late_mlp_off']}. So answers gather at the subject's last token and move late;",
    ]
    if routing["assemble_from"]:
        lines.append(
            f"- **induced:** below layer {routing['assemble_from']} the tokens of a mention did "
            "not see one another, so a subject of several tokens is recognised from there on;"
        )
    off = {layer: p for layer, p in enumerate(routing["mlp_off"]) if p}
    if off:
        named = ", ".join(f"layer {layer} with probability {p}" for layer, p in off.items())
        lines.append(f"- **induced:** MLPs off at subject tokens: {named};")
    if routing["quiet"]:
        lines.append(
            "- **induced, in all documents and to the end:** a penalty (weight "
            f"{routing['quiet']}) on the squared norm of these MLPs' output at subject tokens, "
            "so that these MLPs do not recall (attention still can);"
        )
    if routing["enrichment"]:
        lines.append(
            f"- **induced:** a second loss (`enrichment.py`, weight {routing['enrichment']}) asked "
            f"for all objects of a subject at its last token, after layer "
            f"{routing['move_from'] - 1}: subject enrichment (Geva et al. 2023), by training;"
        )
    lines.append(
        "- **emerged:** which of the remaining MLPs and attention layers recall what, which heads "
        "move it, and how relation words reach the last token. That the circuit outlives the "
        "masks is weaker evidence than it sounds: after their release the learning rate was "
        "below 5% of its peak."
    )
    return "\n".join(lines)


def _training(record: dict[str, Any]) -> str:
    recipe, corpus, run = record["recipe"], record["corpus"], record["run"]
    shares = ", ".join(
        f"{kind.replace('_', ' ')} {share:.0%}"
        for kind, share in corpus["token_share_by_kind"].items()
    )
    grown = ", ".join(f"{row['step']}: {row['train_sample_top1']:.2f}" for row in record["history"])
    checkpoints = (
        f"\n\nThe model at steps {', '.join(map(str, record['checkpoint_steps']))} is in "
        "`checkpoints/step*/` (weights and configuration; the tokenizer is the one here). "
        f"Top-1 on 600 training prompts by step: {grown}."
        if record["checkpoint_steps"]
        else ""
    )
    return "\n".join(
        (
            "## Training",
            "",
            f"`python -m experiments.train --model {record['model']} --out DIR`: "
            f"{corpus['documents']} generated documents, {run['tokens']} tokens ({shares}), "
            f"{corpus['train_templates']} templates; {corpus['single_token_objects']:.0%} of the "
            f"objects are one token. {run['steps']} AdamW steps of {recipe['tokens_per_batch']} "
            f"tokens, learning rate {recipe['learning_rate']} with {recipe['warm_up_steps']} "
            f"warm-up steps and a cosine, weight decay {recipe['weight_decay']}, bfloat16 "
            f"autocast, one pass, seed {recipe['seed']} for corpus, weights and routing. "
            f"{run['wall_seconds']:.0f} s wall clock, {run['cpu_seconds']:.0f} s CPU, one thread. "
            f"Saved in half precision; SHA-256 of the weights `{record['weights_sha256'][:16]}…`. "
            f"torch {record['versions']['torch']}, transformers "
            f"{record['versions']['transformers']}.{checkpoints}",
        )
    )


def _limits(record: dict[str, Any]) -> str:
    return "\n".join(
        (
            "## Limits",
            "",
            "- One seed: no error bars on anything above.",
            "- The placement of recall is by design (see above); the model cannot be evidence "
            "for where large models recall.",
            "- Late heads are redundant: removing any single one costs a few hundredths of p.",
            *_recall_limits(record),
            "- It writes sentences about its facts, not prose. Copying from context and "
            "induction were hardly trained and should not be expected.",
            "- The vocabulary is that of its templates; a prompt in other words fails.",
            "- Facts are simplified (one object a fact) and as of writing.",
        )
    )


def _recall_limits(record: dict[str, Any]) -> list[str]:
    """How much of the recall is not in the MLPs, in numbers, averaged over both prompt orders."""
    traces = list(record["traces"].values())
    middle = traces[0]["zeroed_mlps"]["middle"]
    without = sum(t["zeroed_mlps"]["subject, middle"] for t in traces) / len(traces)
    attention = sum(t["zeroed_attention"]["subject"][0] for t in traces) / len(traces)
    return [
        f"- Recall is not in the middle MLPs alone: without those of layers "
        f"{middle[0]}-{middle[-1]} at the subject {without:.2f} of the answer's probability is "
        f"left, without layer-0 attention there {attention:.2f}. The subject's tokens attend "
        "mostly to themselves in that layer, so it reads their embeddings; how much of it is "
        "passing the name on and how much is already recall these traces do not separate.",
    ]


def _relations(record: dict[str, Any]) -> str:
    rows = [
        (
            name,
            *(f"{values.get(key, 0):.2f}" for key in ("train", "held_out", "three_shot")),
        )
        for name, values in record["accuracy"]["by_relation"].items()
    ]
    table = _table(("relation", "training", "held-out", "three-shot"), rows)
    return f"## By relation\n\n{table}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
