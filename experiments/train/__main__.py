"""Train one of the embedded models, or measure it again.

    python -m experiments.train --model facts-gpt2 --out circuits/embedded/facts-gpt2

The directory gets the half-precision weights, the tokenizer, training.json (recipe, corpus,
every measurement) and README.md (the model card). One thread, fixed seeds: the same command on
the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from experiments.train.recipe import RECIPES


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=sorted(RECIPES), required=True, help="which recipe")
    parser.add_argument("--out", type=Path, required=True, help="directory of the model")
    parser.add_argument("--atlas", type=Path, help="directory of the facts (default: built in)")
    parser.add_argument("--tokens", type=int, help="length of the training (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="seed of corpus, weights and routing")
    parser.add_argument("--checkpoints", type=Path, help="also save models along the way here")
    parser.add_argument(
        "--checkpoint-count", type=int, default=9, help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--development",
        action="store_true",
        help="hold out one training template a relation and never read the held-out ones",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train-only", action="store_true", help="do not measure, and write no card")
    only.add_argument(
        "--describe-only",
        action="store_true",
        help="do not train: measure --out and write its card",
    )
    only.add_argument(
        "--trace-only",
        action="store_true",
        help="as --describe-only, but keep the accuracies that training.json holds",
    )
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    arguments = _arguments()
    # One thread, or sums are added in another order and the weights differ.
    os.environ.update(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

    import torch
    from transformers.utils.logging import disable_progress_bar

    from circuits.facts.facts import ATLAS_DIR
    from experiments.train.atlas import development_split, training_relations
    from experiments.train.run import describe_model, train_model

    torch.set_num_threads(1)
    disable_progress_bar()
    recipe = RECIPES[arguments.model]
    if arguments.tokens is not None:
        recipe = replace(recipe, tokens=arguments.tokens)
    if arguments.seed is not None:
        recipe = replace(recipe, seed=arguments.seed)
    relations = training_relations(arguments.atlas or ATLAS_DIR)
    if arguments.development:
        relations = development_split(relations, recipe.seed)
    if not (arguments.describe_only or arguments.trace_only):
        train_model(
            arguments.model,
            recipe,
            relations,
            arguments.out,
            arguments.checkpoints,
            arguments.checkpoint_count,
        )
    if not arguments.train_only:
        describe_model(relations, arguments.out, accuracy=not arguments.trace_only)


if __name__ == "__main__":
    main()
