"""From an atlas and a recipe to a model directory with its measurements and its card."""

from __future__ import annotations

import copy
import dataclasses
import json
import platform
import random
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from experiments.train.accuracy import (
    Question,
    few_shot_questions,
    grouped,
    is_correct,
    mean,
    questions,
)
from experiments.train.anatomy import new_model
from experiments.train.atlas import TrainRelation
from experiments.train.card import model_card
from experiments.train.corpus import attribute_table, batches, build_corpus, train_tokenizer
from experiments.train.recipe import Recipe
from experiments.train.traces import Tracer
from experiments.train.training import checkpoint_steps, save, train, weights_hash

METRICS = "training.json"
FEW_SHOT_PER_RELATION = 20
TRACED_PROMPTS = 80
Report = Callable[[str], None]


def train_model(
    name: str,
    recipe: Recipe,
    relations: list[TrainRelation],
    directory: Path,
    checkpoints: Path | None = None,
    checkpoint_count: int = 0,
    report: Report = print,
) -> None:
    """Train and write weights, tokenizer and the first part of training.json to `directory`."""
    tokenizer = train_tokenizer(relations, recipe.architecture.vocabulary)
    documents, statistics = build_corpus(
        relations, tokenizer, recipe.tokens, recipe.seed, recipe.bos_share
    )
    grouped_documents = batches(documents, recipe.tokens_per_batch, recipe.seed)
    architecture = dataclasses.replace(recipe.architecture, vocabulary=len(tokenizer))
    model = new_model(architecture, recipe.seed)
    facts = sum(len(relation.objects) for relation in relations)
    report(
        f"{name}: {facts} facts, {len(relations)} relations; "
        f"{statistics.documents} documents, {statistics.tokens} tokens, "
        f"{len(grouped_documents)} steps"
    )
    marks = checkpoint_steps(len(grouped_documents), checkpoint_count if checkpoints else 0)
    sample = random.Random(recipe.seed).sample(questions(relations, "train"), 600)
    history = []

    def at_step(step: int, current: PreTrainedModel) -> None:
        if checkpoints and step in marks:
            save(current, checkpoints / f"step{step:05d}")
        if step in marks or step == len(grouped_documents):
            current.eval()
            accuracy = mean(is_correct(current, tokenizer, sample))
            history.append({"step": step, "train_sample_top1": accuracy})
            report(f"step {step:5d}  top-1 on a sample of training prompts {accuracy:.3f}")
            current.train()

    attributes = attribute_table(relations, tokenizer)
    run = train(model, grouped_documents, recipe, attributes, at_step, report)
    save(model, directory)
    said = copy.deepcopy(tokenizer)
    # Most documents began with it. GPT-2's tokenizers do not say so, whatever they are used with.
    said.add_bos_token = model.config.model_type != "gpt2"
    said.update_post_processor()
    said.save_pretrained(directory)
    record = {
        "model": name,
        "weights_sha256": weights_hash(directory),
        "recipe": dataclasses.asdict(recipe),
        "corpus": dataclasses.asdict(statistics)
        | {
            "facts": facts,
            "relations": len(relations),
            "train_templates": sum(len(relation.train) for relation in relations),
        },
        "run": dataclasses.asdict(run),
        "history": history,
        "checkpoint_steps": marks,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
        },
    }
    _write(directory, record)


def describe_model(
    relations: list[TrainRelation],
    directory: Path,
    report: Report = print,
    accuracy: bool = True,
) -> None:
    """Measure the saved half-precision model, complete training.json and write the card.

    Without `accuracy`, training.json keeps its earlier accuracies and the held-out prompts are
    not run again.
    """
    record = json.loads((directory / METRICS).read_text())
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    if accuracy:
        record["accuracy"] = _accuracy(model, tokenizer, relations)
    known = questions(relations, "train")
    record["traces"] = _traces(Tracer(model, tokenizer), known, record["recipe"]["routing"])
    _write(directory, record)
    card = model_card(record)
    (directory / "README.md").write_text(card, encoding="utf-8")
    report(card)


def _accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, relations: list[TrainRelation]
) -> dict:
    known = questions(relations, "train")
    unseen = questions(relations, "held_out")
    few_shot = few_shot_questions(relations, 3, FEW_SHOT_PER_RELATION, seed=1)
    right = {
        "train": is_correct(model, tokenizer, known),
        "held_out": is_correct(model, tokenizer, unseen),
        "three_shot": is_correct(model, tokenizer, few_shot),
    }
    asked = {"train": known, "held_out": unseen, "three_shot": few_shot}
    return {
        "train_top1": mean(right["train"]),
        "held_out_top1": mean(right["held_out"]),
        "three_shot_top1": mean(right["three_shot"]),
        "held_out_whole_object": mean(is_correct(model, tokenizer, unseen, whole_object=True)),
        "held_out_without_bos": mean(is_correct(model, tokenizer, unseen, bos=False)),
        "prompts": {split: len(items) for split, items in asked.items()},
        "by_relation": _by_relation(asked, right),
        "by_template": {
            split: grouped(asked[split], right[split], "template")
            for split in ("train", "held_out")
        },
    }


def _by_relation(
    asked: dict[str, list[Question]], right: dict[str, list[bool]]
) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for split, items in asked.items():
        for name, value in grouped(items, right[split], "relation").items():
            table.setdefault(name, {})[split] = value
    return table


def _traces(tracer: Tracer, known: list[Question], routing: dict) -> dict:
    """Traces with the relation before and after the subject, and head ablations on both."""
    each = [[layer] for layer in range(tracer.layers)]
    middle = list(range(routing["assemble_from"], routing["move_from"]))
    after = [question for question in known if question.template.startswith("{}")]
    before = [question for question in known if question.template.index("{}") > 12]
    result = {}
    for name, pool in (("relation first", before), ("subject first", after)):
        prompts = tracer.choose(pool, TRACED_PROMPTS, seed=0)
        lost = tracer.ablated_heads(prompts)
        order = lost.flatten().argsort(descending=True)[:10].tolist()
        result[name] = {
            "prompts": len(prompts),
            "causal": tracer.causal_traces(prompts),
            "blocked_attention": tracer.blocked_attention(prompts),
            "blocked_other_attention": tracer.blocked_attention(prompts, "other"),
            "zeroed_mlps": {
                "subject": tracer.zeroed(prompts, "mlp", "subject", each),
                "last": tracer.zeroed(prompts, "mlp", "last", each),
                "subject, middle": tracer.zeroed(prompts, "mlp", "subject", [middle])[0],
                "middle": middle,
            },
            "zeroed_attention": {"subject": tracer.zeroed(prompts, "attn", "subject", each)},
            "lens": tracer.lens(prompts),
            "heads": {
                f"a{index // tracer.heads}.h{index % tracer.heads}": round(
                    lost.flatten()[index].item(), 4
                )
                for index in order
            },
        }
    return result


def _write(directory: Path, record: dict) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (directory / METRICS).write_text(text + "\n", encoding="utf-8")
