"""Loss on held-out code: `python -m codellama.training.held_out --model DIR --corpus runs/corpus.jsonl.xz`.

Joins the files of each held-out package to one long text and tells the loss by position, up to far beyond
the rows of training, and the same in int8, by the code that serves it: what that costs. Prints one JSON
document, in nats a token and bits a byte.
"""

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from codellama.runtime.generation import LanguageModel
from codellama.runtime.linear import Quantisation
from codellama.runtime.load import load_engine
from codellama.runtime.locate import locate
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.training import corpus

BOUNDS = (0, 512, 1_024, 2_048, 4_096, 8_192, 16_384)
_BLOCK = 1_024  # positions whose logits stand in memory at once


def sequences(files: Iterable[corpus.SourceFile], tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """The first `length` ids of each package's files one after the other; shorter packages are left out."""
    by_package: dict[str, list[str]] = {}
    for file in files:
        by_package.setdefault(file.package, []).append(file.text)
    found = []
    for texts in by_package.values():
        ids = [tokenizer.bos_id]
        for text in texts:
            ids += tokenizer.encode(text)
            if len(ids) > length:
                found.append(ids[: length + 1])
                break
    return found


@torch.inference_mode()
def losses(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """The loss of being told each id but the first, [T - 1] float32, in nats."""
    cache = model.new_cache(len(ids))
    told = []
    for start in range(0, len(ids) - 1, _BLOCK):
        block = torch.tensor([ids[start : min(start + _BLOCK, len(ids) - 1)]])
        logits = model(block, cache)[0].float()
        after = torch.tensor(ids[start + 1 : start + 1 + block.shape[1]])
        told.append(functional.cross_entropy(logits, after, reduction="none"))
    return torch.cat(told)


def by_position(found: Tensor) -> dict[str, float]:
    """Mean losses [N, T] between BOUNDS."""
    return {
        f"{low}-{high}": round(found[:, low:high].mean().item(), 4)
        for low, high in pairwise(BOUNDS)
        if low < found.shape[1]
    }


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--corpus", type=Path, required=True, help="held-out.jsonl.xz lies beside it")
    parser.add_argument("--length", type=int, default=2_048, help="tokens of each text")
    arguments = parser.parse_args()
    path = locate(arguments.model)
    tokenizer = load_tokenizer(path)
    files = corpus.read(arguments.corpus.with_name("held-out.jsonl.xz"))
    texts = sequences(files, tokenizer, arguments.length)
    size = sum(len(tokenizer.decode(ids[1:]).encode()) for ids in texts)
    report: dict[str, object] = {"texts": len(texts), "tokens": len(texts) * arguments.length}
    kinds: tuple[Quantisation | None, ...] = (None, "int8")
    for kind in kinds:
        model = load_engine(str(path), device="cpu", quantize=kind).model
        found = torch.stack([losses(model, ids) for ids in texts])
        report[kind or "as stored"] = {
            "nats_a_token": round(found.mean().item(), 4),
            "bits_a_byte": round(found.sum().item() / size / math.log(2), 4),
            "by_position": by_position(found),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
