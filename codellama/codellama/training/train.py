"""Trains the pocket model: `python -m codellama.training.train --minutes 50 --out runs/pocket`.

On the CPU or one CUDA device, in bfloat16 with torch.compile. Muon (torch's) moves the matrices inside
the layers, AdamW the embeddings and norms. The learning rate follows the clock: it warms up, stays, and
falls linearly to nothing over the last third, so that whatever the time allows ends as a usable model. A
checkpoint is written every few minutes; a run that finds one goes on from it. Loss goes to `loss.csv`.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from codellama.runtime.config import ModelConfig
from codellama.runtime.model import Transformer
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.training.corpus import SourceFile, read_corpus
from codellama.training.export import export
from codellama.training.samples import SampleStream
from codellama.training.tokenizer import train_ranks, write_ranks


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a run is made of; lengths in tokens, `minutes` of wall time in all."""

    minutes: float
    pieces: int = 4_090
    dim: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 688
    length: int = 1024
    batch: int = 2
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    seed: int = 0


def main() -> None:
    """Reads the arguments, trains, and exports the model to OUT/model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    recipe = Recipe(minutes=arguments.minutes)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    corpus, facts = read_corpus(recipe.seed)
    (out / "corpus.json").write_text(json.dumps(facts, indent=1) + "\n")
    tokenizer = _tokenizer(recipe, corpus, out)
    train, held_out = corpus[: -len(corpus) // 50], corpus[-len(corpus) // 50 :]
    print(f"{len(train)} files, {sum(len(f.text) for f in train) / 1e6:.1f} MB", flush=True)
    model = run(recipe, tokenizer, train, held_out, out, compiled=not arguments.no_compile)
    export(model, out / "tokenizer.model", out / "model")


def run(
    recipe: Recipe,
    tokenizer: Tokenizer,
    train: list[SourceFile],
    held_out: list[SourceFile],
    out: Path,
    *,
    compiled: bool,
) -> Transformer:
    """Trains until the recipe's minutes are spent; resumes OUT/checkpoint.pt where there is one."""
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _new_model(recipe, tokenizer.vocab_size).to(device)
    optimizers = _optimizers(recipe, model)
    spent, step = _resume(out, model, optimizers)
    batches = _batches(recipe, SampleStream(train, tokenizer, recipe.seed + step))
    checks = _fixed_batches(recipe, SampleStream(held_out, tokenizer, 1), count=16)
    forward = torch.compile(model) if compiled else model
    began = saved = time.monotonic()
    with (out / "loss.csv").open("a", newline="") as file:
        log = csv.writer(file)
        mean = 0.0
        while (clock := spent + time.monotonic() - began) < recipe.minutes * 60:
            _set_rates(optimizers, clock / (recipe.minutes * 60))
            loss = _step(forward, optimizers, next(batches).to(device))
            mean = loss if not mean else 0.98 * mean + 0.02 * loss
            step += 1
            if step % 250 == 0:
                held = _held_out_loss(model, checks, device) if step % 1000 == 0 else ""
                log.writerow([step, step * recipe.batch * recipe.length, f"{clock:.0f}", f"{mean:.4f}", held])
                file.flush()
                print(f"step {step} {clock:.0f} s loss {mean:.3f} held-out {held}", flush=True)
            if time.monotonic() - saved > 240:
                saved = time.monotonic()
                _save(out, model, optimizers, spent + saved - began, step)
        final = _held_out_loss(model, checks, device)
        log.writerow([step, step * recipe.batch * recipe.length, f"{clock:.0f}", f"{mean:.4f}", final])
    print(f"finished at step {step}, held-out loss {final}", flush=True)
    return model.cpu()


def _tokenizer(recipe: Recipe, corpus: list[SourceFile], out: Path) -> Tokenizer:
    path = out / "tokenizer.model"
    if not path.exists():
        write_ranks(train_ranks((file.text for file in corpus), recipe.pieces), path)
    return load_tokenizer(path)


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
        max_context=recipe.length,
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


def _set_rates(optimizers: list[torch.optim.Optimizer], progress: float) -> None:
    factor = min(1.0, progress / 0.01 + 0.02, (1 - progress) / 0.35)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_lr", group["lr"]) * max(factor, 0.0)


def _step(forward: Callable[[Tensor], Tensor], optimizers: list[torch.optim.Optimizer], ids: Tensor) -> float:
    loss = _loss(forward, ids)
    loss.backward()  # type: ignore[no-untyped-call] # torch ships this one unannotated
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _loss(forward: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        logits = forward(ids[:, :-1])  # [B, T, V]
    return functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


@torch.no_grad()
def _held_out_loss(model: nn.Module, checks: list[Tensor], device: torch.device) -> str:
    return f"{sum(_loss(model, ids.to(device)).item() for ids in checks) / len(checks):.4f}"


def _batches(recipe: Recipe, stream: SampleStream) -> Iterator[Tensor]:
    """Samples packed end to end into rows of `length` + 1 tokens; each begins with BOS."""
    size = recipe.batch * (recipe.length + 1)
    ids: list[int] = []
    for sample in stream:
        ids += sample
        while len(ids) >= size:
            yield torch.tensor(ids[:size]).view(recipe.batch, -1)  # [B, T + 1]
            del ids[:size]


def _fixed_batches(recipe: Recipe, stream: SampleStream, count: int) -> list[Tensor]:
    batches = _batches(recipe, stream)
    return [next(batches) for _ in range(count)]


def _save(
    out: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], spent: float, step: int
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "spent": spent,
        "step": step,
    }
    torch.save(state, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").replace(out / "checkpoint.pt")


def _resume(out: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[float, int]:
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0.0, 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return float(state["spent"]), int(state["step"])


if __name__ == "__main__":
    main()
