"""Trains the pocket model: `python -m codellama.training.train --corpus FILE --minutes 50 --out runs/pocket`.

On the CPU or one CUDA device, in bfloat16 with torch.compile. The learning rate follows the clock: it warms
up, stays, and falls linearly to nothing over the last part, so that whatever the time allows ends as a
usable model. A checkpoint is written every few minutes; a run that finds one goes on from it. Loss goes to
`loss.csv`.

Under torchrun each process trains on its own samples, one thread each, and every few updates they take
the mean of their weights (local SGD, arXiv 1805.09767): on two shared CPU cores that wastes far less than
two threads that wait for each other in every operation.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from codellama.runtime.model import Transformer
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer
from codellama.training import corpus
from codellama.training.batches import Batch, batches, loader
from codellama.training.export import export
from codellama.training.recipe import Recipe, gpu_recipe, new_model, optimizers, set_rates
from codellama.training.samples import SampleStream, Sources
from codellama.training.tokenizer import train_ranks, write_ranks


class Run:
    """One process's part of a run: the model, its optimisers, and how long they have been at it."""

    def __init__(self, recipe: Recipe, model: Transformer, out: Path) -> None:
        self.recipe, self.model, self.out = recipe, model, out
        self.optimizers = optimizers(recipe, model)
        self.spent, self.step, self.tokens = 0.0, 0, 0
        self.began = time.monotonic()
        if (out / "checkpoint.pt").exists():
            state = torch.load(out / "checkpoint.pt", weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.spent, self.step, self.tokens = state["spent"], state["step"], state["tokens"]

    @property
    def clock(self) -> float:
        """Seconds trained, earlier runs counted."""
        return self.spent + time.monotonic() - self.began

    def update(self, loss_of: Callable[..., Tensor], batch: Batch) -> Tensor:
        """One step of the optimisers; returns the loss."""
        set_rates(self.recipe, self.optimizers, self.clock / (self.recipe.minutes * 60))
        loss = loss_of(self.model, batch.ids, batch.weights)
        loss.backward()  # type: ignore[no-untyped-call] # torch ships this one unannotated
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.weights.numel() * _world()
        return loss.detach()

    def finished(self) -> bool:
        """Whether the time is up; now and then also the moment to take the mean of all processes."""
        if _world() > 1 and self.step % self.recipe.every:
            return False
        progress = self.clock / (self.recipe.minutes * 60)
        return _mean_of_processes(self.model, progress) >= 1

    def save(self) -> None:
        """Writes the checkpoint; one torn off leaves the last one whole."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "spent": self.clock,
            "step": self.step,
            "tokens": self.tokens,
        }
        torch.save(state, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").replace(self.out / "checkpoint.pt")


@dataclass(frozen=True, slots=True)
class Material:
    """What a run reads, how many processes make its batches, and what computes a loss."""

    train: Sources
    held_out: Sources
    workers: int
    loss_of: Callable[..., Tensor]


def train(
    recipe: Recipe, model: Transformer, tokenizer: Tokenizer, material: Material, out: Path
) -> Transformer:
    """Trains until the recipe's minutes are spent; resumes OUT/checkpoint.pt where there is one."""
    device = model.embed_tokens.weight.device
    checks = held_out_batches(recipe, tokenizer, material.held_out, device)
    run = Run(recipe, model, out)
    first = recipe.seed + run.step * _world() + _rank()
    made = partial(mixed, recipe, tokenizer, material.train, first)
    batches = loader(made, material.workers, device)
    if device.type == "cuda":
        warm(material.loss_of, model, batches)
    run.began = saved = time.monotonic()
    mean: Tensor | float = 0.0
    while not run.finished():
        loss = run.update(material.loss_of, next(batches))
        mean = 0.98 * mean + 0.02 * loss if run.step > 1 else loss
        if run.step % 100 == 0 and _rank() == 0:
            _log(run, float(mean), checks if run.step % 500 == 0 else [])
        if time.monotonic() - saved > 180 and run.step % recipe.every == 0 and _rank() == 0:
            saved = time.monotonic()
            run.save()
    if _rank() == 0:
        run.save()
        _log(run, float(mean), checks)
    return model.cpu()


def main() -> None:
    """Reads the arguments, trains, and exports the model to OUT/model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="what codellama.training.corpus wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, required=True, help="of updates; what precedes them is not counted"
    )
    parser.add_argument(
        "--initial", type=Path, help="a model folder whose weights and tokenizer to start from"
    )
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the recipe")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    recipe = (gpu_recipe if cuda else Recipe)(arguments.minutes)
    recipe = replace(recipe, **changes(recipe, arguments.set))
    files = corpus.read(arguments.corpus)
    print(f"{len(files)} files, {sum(len(f.text) for f in files) / 1e6:.1f} MB; {recipe}", flush=True)
    tokenizer = _tokenizer(recipe, files, out, arguments.initial)
    held_out = Sources(corpus.read(arguments.corpus.with_name("held-out.jsonl.xz")))
    workers = max(1, (os.cpu_count() or 1) - 2) if cuda else 0
    material = Material(Sources(files), held_out, workers, loss_function(not arguments.no_compile))
    model = started(recipe, tokenizer, arguments.initial, torch.device("cuda" if cuda else "cpu"))
    model = train(recipe, model, tokenizer, material, out)
    if _rank() == 0:
        export(model, out / "tokenizer.model", out / "model")


def changes(recipe: Recipe, settings: Sequence[str]) -> dict[str, Any]:
    """What `name=value` settings say, each of the type that the recipe has there."""
    found = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        found[name] = type(getattr(recipe, name))(value)
    return found


def started(recipe: Recipe, tokenizer: Tokenizer, initial: Path | None, device: torch.device) -> Transformer:
    """A new model, or the folder's in float32 for the recipe's context, ready to learn on."""
    torch.manual_seed(recipe.seed)
    if initial is None:
        model = new_model(recipe, tokenizer.vocab_size)
    else:
        model = load_transformer(open_checkpoint(initial), torch.device("cpu"), torch.float32)
        model.config = replace(model.config, max_context=recipe.long_length)
    model = model.to(device).train().requires_grad_(True)
    model.rope.rows(0, recipe.long_length, device)  # made once, outside of what is compiled
    if device.type == "cuda":
        # What passes from layer to layer is bfloat16 too: half the bytes to move.
        model.embed_tokens.register_forward_hook(lambda module, ids, rows: rows.bfloat16())
    return model


def loss_function(compiled: bool) -> Callable[..., Tensor]:
    """What computes a batch's loss."""
    return torch.compile(_loss, dynamic=False) if compiled else _loss


def warm(loss_of: Callable[..., Tensor], model: nn.Module, batches: Iterator[Batch]) -> None:
    """Compiles the loss and its gradient for every shape of batch, and forgets the gradient."""
    began, seen = time.monotonic(), set()
    for batch in islice(batches, 8 * 4):
        if batch.ids.shape not in seen:
            loss_of(model, batch.ids, batch.weights).backward()  # type: ignore[no-untyped-call]
            seen.add(batch.ids.shape)
        if len(seen) == 2:
            break
    model.zero_grad(set_to_none=True)
    print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)


def held_out_batches(
    recipe: Recipe, tokenizer: Tokenizer, held_out: Sources, device: torch.device
) -> list[Batch]:
    """16 batches of held-out files, the same in every run: a row each, of both lengths."""
    small = replace(recipe, rows=2, long_rows=1)
    found = islice(mixed(small, tokenizer, held_out, 1, 0), 16)
    return [Batch(batch.ids.to(device), batch.weights.to(device)) for batch in found]


def mixed(recipe: Recipe, tokenizer: Tokenizer, sources: Sources, seed: int, worker: int) -> Iterator[Batch]:
    """Batches of the recipe's sorts in its turns."""
    seed += 1_000_003 * worker
    long = (recipe.long_rows, recipe.long_length)
    sorts = {
        "s": batches(SampleStream(sources, tokenizer, seed), recipe.rows, recipe.length),
        "l": batches(SampleStream(sources, tokenizer, seed, extras=4, window=2_400), *long),
    }
    for turn in count(worker):  # workers begin at different turns, so that sorts come evenly
        yield next(sorts[recipe.turns[turn % len(recipe.turns)]])


def _tokenizer(recipe: Recipe, files: list[corpus.SourceFile], out: Path, start: Path | None) -> Tokenizer:
    path = out / "tokenizer.model"
    if not path.exists() and start is not None:
        path.write_bytes((start / "tokenizer.model").read_bytes())
    if not path.exists():
        write_ranks(train_ranks((file.text for file in files), recipe.pieces), path)
    return load_tokenizer(path)


def _loss(model: nn.Module, ids: Tensor, weights: Tensor) -> Tensor:
    """The mean loss of a batch by its weights."""
    losses = _losses(model, ids)
    return (losses * weights.flatten()).sum() / weights.sum()


def _losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Each token's loss, flat."""
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = model(ids[:, :-1])  # [B, T, V]
    return functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def held_out_losses(model: nn.Module, checks: list[Batch]) -> tuple[float, float]:
    """The mean loss of the held-out tokens, and of those in middles."""
    losses = torch.cat([_losses(model, batch.ids) for batch in checks])
    weights = torch.cat([batch.weights.flatten() for batch in checks])
    return losses[weights > 0].mean().item(), losses[weights > 1].mean().item()


def _log(run: Run, mean: float, checks: list[Batch]) -> None:
    held = [f"{loss:.4f}" for loss in held_out_losses(run.model, checks)] if checks else ["", ""]
    with (run.out / "loss.csv").open("a", newline="") as file:
        csv.writer(file).writerow([run.step, run.tokens, f"{run.clock:.0f}", f"{mean:.4f}", *held])
    print(f"step {run.step} {run.clock:.0f} s loss {mean:.3f} held-out {' '.join(held)}", flush=True)


@torch.no_grad()
def _mean_of_processes(model: nn.Module, progress: float) -> float:
    """Gives every process the mean of all weights; returns the mean progress, the same for all."""
    if _world() == 1:
        return progress
    weights = [*model.parameters()]
    flat = torch.cat([weight.flatten() for weight in weights] + [torch.tensor([progress])])
    dist.all_reduce(flat)
    flat /= _world()
    place = 0
    for weight in weights:
        weight.copy_(flat[place : place + weight.numel()].view_as(weight))
        place += weight.numel()
    return flat[-1].item()


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


if __name__ == "__main__":
    main()
