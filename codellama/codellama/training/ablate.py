"""Short runs of changed recipes, one after the other: `python -m codellama.training.ablate --corpus FILE`.

Each starts from the same drawn weights and the same samples, trains for some seconds with the rates falling
to nothing, and is told by its held-out losses. Recipes of one shape share a model and what was compiled for
it, which is not counted.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from codellama.runtime.config import ModelConfig
from codellama.runtime.model import Transformer
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.training import corpus
from codellama.training.batches import loader
from codellama.training.recipe import Recipe, draw, gpu_recipe
from codellama.training.samples import Sources
from codellama.training.train import (
    Material,
    Run,
    changes,
    held_out_batches,
    held_out_losses,
    loss_function,
    mixed,
    started,
    warm,
)


def main() -> None:
    """Reads the arguments, runs every trial, prints and writes a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.model")
    parser.add_argument("--out", type=Path, required=True, help="a folder for ablations.jsonl")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument(
        "--try",
        action="append",
        dest="trials",
        default=[],
        metavar="NAME=VALUE,...",
        help="'' for the recipe as it is",
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="in all trials")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.is_available()
    base = (gpu_recipe if cuda else Recipe)(arguments.seconds / 60)
    base = replace(base, **changes(base, arguments.set))
    held_out = Sources(corpus.read(arguments.corpus.with_name("held-out.jsonl.xz")))
    workers = max(1, (os.cpu_count() or 1) - 2) if cuda else 0
    loss_of = loss_function(not arguments.no_compile)
    material = Material(Sources(corpus.read(arguments.corpus)), held_out, workers, loss_of)
    tokenizer = load_tokenizer(arguments.tokenizer)
    device = torch.device("cuda" if cuda else "cpu")
    models: dict[ModelConfig, Transformer] = {}
    for trial in arguments.trials:
        recipe = replace(base, **changes(base, trial.split(",") if trial else []))
        model = started(recipe, tokenizer, None, device)
        model = models.setdefault(model.config, model)
        line = json.dumps({"trial": trial, **_run(recipe, model, material, tokenizer)})
        print(line, flush=True)
        with (arguments.out / "ablations.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _run(recipe: Recipe, model: Transformer, material: Material, tokenizer: Tokenizer) -> dict[str, float]:
    device = model.device
    checks = held_out_batches(recipe, tokenizer, material.held_out, device)
    batches = loader(partial(mixed, recipe, tokenizer, material.train, 0), material.workers, device)
    if device.type == "cuda":
        warm(material.loss_of, model, batches)
    torch.manual_seed(0)
    draw(model)
    run = Run(recipe, model, Path(os.devnull))
    run.began = time.monotonic()
    while not run.finished():
        run.update(material.loss_of, next(batches))
    held, middles = held_out_losses(model, checks)
    seconds = run.clock
    return {
        "steps": run.step,
        "tokens": run.tokens,
        "tokens_a_second": round(run.tokens / seconds),
        "held_out": round(held, 4),
        "held_out_middles": round(middles, 4),
    }


if __name__ == "__main__":
    main()
