"""Trains the pocket model: `python -m codellama.training.train --corpus FILE --minutes 50 --out runs/pocket`.

On the CPU or one CUDA device, in bfloat16 with torch.compile. Muon (torch's) moves the matrices inside
the layers, AdamW the embeddings and norms. The learning rate follows the clock: it warms up, stays, and
falls linearly to nothing over the last part, so that whatever the time allows ends as a usable model. A
checkpoint is written every few minutes; a run that finds one goes on from it. Loss goes to `loss.csv`.

Under torchrun each process trains on its own samples, one thread each, and every few updates they take
the mean of their weights (local SGD, arXiv 1805.09767): on two shared CPU cores that wastes far less than
two threads that wait for each other in every operation.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from codellama.runtime.config import ModelConfig
from codellama.runtime.model import Transformer
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import load_transformer
from codellama.training import corpus
from codellama.training.batches import Batch, batches
from codellama.training.export import export
from codellama.training.samples import SampleStream
from codellama.training.tokenizer import train_ranks, write_ranks


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run is made of; lengths in tokens, `minutes` of wall time in all."""

    minutes: float
    pieces: int = 8_186
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 688
    length: int = 768
    rows: int = 2
    long_length: int = 2_048  # every fourth batch is one row of this length, with several extras
    muon_rate: float = 0.015
    adam_rate: float = 0.003
    decay: float = 0.4  # the share of the time over which the rates fall
    every: int = 8  # updates between two means of the processes' weights
    seed: int = 0


class Run:
    """One process's part of a run: the model, its optimisers, and how long they have been at it."""

    def __init__(self, recipe: Recipe, model: Transformer, out: Path) -> None:
        self.recipe, self.model, self.out = recipe, model, out
        self.optimizers = _optimizers(recipe, model)
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

    def update(self, forward: Callable[[Tensor], Tensor], batch: Batch) -> float:
        """One step of the optimisers; returns the loss."""
        _set_rates(self.recipe, self.optimizers, self.clock / (self.recipe.minutes * 60))
        losses, weights = _losses(forward, batch)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships this one unannotated
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.weights.numel() * _world()
        return loss.item()

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


def train(recipe: Recipe, model: Transformer, tokenizer: Tokenizer, files: "Files", out: Path) -> Transformer:
    """Trains until the recipe's minutes are spent; resumes OUT/checkpoint.pt where there is one."""
    run = Run(recipe, model, out)
    device = model.embed_tokens.weight.device
    stream = _mixed(recipe, tokenizer, files.held_out, 1)
    checks = [next(stream) for _ in range(16)]
    stream = _mixed(recipe, tokenizer, files.train, recipe.seed + run.step * _world() + _rank())
    forward = torch.compile(model, dynamic=False) if files.compiled else model
    saved, mean = time.monotonic(), 0.0
    while not run.finished():
        batch = next(stream)
        loss = run.update(forward, Batch(batch.ids.to(device), batch.weights.to(device)))
        mean = loss if not mean else 0.98 * mean + 0.02 * loss
        if run.step % 100 == 0 and _rank() == 0:
            _log(run, mean, checks if run.step % 500 == 0 else [])
        if time.monotonic() - saved > 180 and run.step % recipe.every == 0 and _rank() == 0:
            saved = time.monotonic()
            run.save()
    if _rank() == 0:
        run.save()
        _log(run, mean, checks)
    return model.cpu()


@dataclass(frozen=True, slots=True)
class Files:
    """What a run reads, and whether its model is compiled."""

    train: list[corpus.SourceFile]
    held_out: list[corpus.SourceFile]
    compiled: bool


def main() -> None:
    """Reads the arguments, trains, and exports the model to OUT/model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="what codellama.training.corpus wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument(
        "--initial", type=Path, help="a model folder whose weights and tokenizer to start from"
    )
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    held_out = corpus.read(arguments.corpus.with_name("held-out.jsonl.xz"))
    files = Files(corpus.read(arguments.corpus), held_out, not arguments.no_compile)
    recipe = Recipe(minutes=arguments.minutes)
    torch.manual_seed(recipe.seed)
    tokenizer = _tokenizer(recipe, files.train, out, arguments.initial)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = (
        _new_model(recipe, tokenizer.vocab_size)
        if arguments.initial is None
        else _started(recipe, arguments.initial)
    )
    print(f"{len(files.train)} files, {sum(len(f.text) for f in files.train) / 1e6:.1f} MB", flush=True)
    model = train(recipe, model.to(device), tokenizer, files, out)
    if _rank() == 0:
        export(model, out / "tokenizer.model", out / "model")


def _mixed(
    recipe: Recipe, tokenizer: Tokenizer, files: list[corpus.SourceFile], seed: int
) -> Iterator[Batch]:
    """Three short batches, then a long one: a row of samples with several files each."""
    short = batches(SampleStream(files, tokenizer, seed), recipe.rows, recipe.length)
    long = batches(SampleStream(files, tokenizer, seed, extras=4, window=2_400), 1, recipe.long_length)
    while True:
        for _ in range(3):
            yield next(short)
        yield next(long)


def _tokenizer(recipe: Recipe, files: list[corpus.SourceFile], out: Path, start: Path | None) -> Tokenizer:
    path = out / "tokenizer.model"
    if not path.exists() and start is not None:
        path.write_bytes((start / "tokenizer.model").read_bytes())
    if not path.exists():
        write_ranks(train_ranks((file.text for file in files), recipe.pieces), path)
    return load_tokenizer(path)


def _started(recipe: Recipe, folder: Path) -> Transformer:
    """The folder's model in float32, ready to learn on, for the recipe's context."""
    model = load_transformer(open_checkpoint(folder), torch.device("cpu"), torch.float32)
    model.config = replace(model.config, max_context=recipe.long_length)
    return model.train().requires_grad_(True)


def _new_model(recipe: Recipe, vocabulary: int) -> Transformer:
    config = ModelConfig(
        vocab_size=vocabulary,
        dim=recipe.dim,
        n_layers=recipe.layers,
        n_heads=recipe.heads,
        n_kv_heads=recipe.kv_heads,
        head_dim=recipe.dim // recipe.heads,
        ffn_dim=recipe.ffn,
        rope_theta=1e6,
        max_context=recipe.long_length,
        tie_embeddings=True,
        family="pocket",
    )
    model = Transformer(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.02 if "embed" in name else weight.shape[1] ** -0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(weight)  # each layer starts as the identity
    return model


def _optimizers(recipe: Recipe, model: Transformer) -> list[torch.optim.Optimizer]:
    matrices = [w for n, w in model.named_parameters() if w.dim() == 2 and "layers" in n]
    others = [w for n, w in model.named_parameters() if w.dim() != 2 or "layers" not in n]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.muon_rate, weight_decay=0.01, ns_steps=4, adjust_lr_fn="original"
        ),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_rates(recipe: Recipe, optimizers: list[torch.optim.Optimizer], progress: float) -> None:
    factor = min(1.0, progress / 0.01 + 0.02, (1 - progress) / recipe.decay)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_lr", group["lr"]) * max(factor, 0.0)


def _losses(forward: Callable[[Tensor], Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Each token's loss and weight, flat."""
    with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16):
        logits = forward(batch.ids[:, :-1])  # [B, T, V]
    told = batch.ids[:, 1:].flatten()
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), told, reduction="none"
    ), batch.weights.flatten()


@torch.no_grad()
def _held_out_losses(model: nn.Module, checks: list[Batch]) -> tuple[float, float]:
    """The mean loss of the held-out tokens, and of those in middles."""
    pairs = [_losses(model, batch) for batch in checks]
    losses, weights = (torch.cat([pair[n] for pair in pairs]) for n in (0, 1))
    return losses[weights > 0].mean().item(), losses[weights > 1].mean().item()


def _log(run: Run, mean: float, checks: list[Batch]) -> None:
    held = [f"{loss:.4f}" for loss in _held_out_losses(run.model, checks)] if checks else ["", ""]
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
