"""Prefill: a prompt's ids into a model, block by block; and the text of an answer as its ids come.

A result never depends on what was cached before it. torch's kernels sum in an order that depends on the
rows they get, so on a CPU prefill runs in blocks that begin at multiples of `block` positions, whether the
cache was empty or not; the compiled code of `native` computes a position alike wherever a block begins. On a
GPU, which rounds to 16 bits anyway, the promise holds to rounding: blocks begin and end where it suits, and
two ways to the same prompt may part where two ids are as good as equally likely.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from codellama.runtime.config import ModelConfig

# Positions of a pass on a CPU, and the most and fewest on a GPU, where fewer would not fill its processors.
BLOCK, GPU_BLOCK, LEAST_GPU_BLOCK = 128, 2048, 1024
# Operations of a GPU's pass, after which others may go first: about a tenth of a second on a Hopper.
_PASS_WORK = 4.5e13


class Cache(Protocol):
    """What a model remembers of one sequence; `KVCache` says more."""

    length: int

    @property
    def capacity(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def rewind(self, length: int) -> int: ...

    def grow(self, capacity: int) -> None: ...

    def copy(self, other: Any, length: int) -> int: ...


class LanguageModel(Protocol):
    """What the engine drives: `Transformer`, or `ReferenceModel` for what that does not compute."""

    config: ModelConfig

    @property
    def block(self) -> int:
        """The most positions of a prefill's pass, between which others may overtake."""
        ...

    @property
    def resume_every(self) -> int:
        """A cache may be gone on with at multiples of so many positions, and gives what a cold one does.

        On a CPU bit for bit, on a GPU to rounding.
        """
        ...

    @property
    def batches(self) -> bool:
        """Whether a decode step of several sequences takes much less time than theirs one by one."""
        ...

    @property
    def position_bytes(self) -> int:
        """What a position takes in a cache."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def new_cache(self, capacity: int) -> Cache: ...

    def __call__(self, ids: Tensor, cache: Any = None, last_only: bool = False) -> Any:
        """Logits of ids [B, T] (Transformer.forward says more)."""
        ...

    def together(self, ids: Tensor, caches: Sequence[Any]) -> Tensor:
        """Logits [B, V] after one more id for each of B caches, ids [B]."""
        ...


def prefill_block(model: LanguageModel, cache: Cache, ids: Sequence[int]) -> Tensor:
    """Runs the next block of `ids`, from position `cache.length` on; logits [V] of its last one."""
    assert cache.length % model.resume_every == 0
    assert cache.length < len(ids)
    end = cache.length + pass_rows(model, cache.length)
    rows = torch.tensor([ids[cache.length : end]], device=model.device)  # [1, T]
    last: Tensor = model(rows, cache, last_only=True)[0, -1]
    if model.device.type == "cuda" and cache.length < len(ids):
        # Or the host would queue pass after pass, and nobody could go between them.
        torch.cuda.current_stream(model.device).synchronize()
    return last


def pass_rows(model: LanguageModel, start: int) -> int:
    """Positions of the pass behind `start` cached ones: on a GPU fewer behind many, which each looks at."""
    if model.device.type != "cuda":
        return model.block
    config = model.config
    looks = 4 * config.n_layers * config.n_heads * config.head_dim * start
    rows = model.block
    while rows > LEAST_GPU_BLOCK and rows * (2 * config.parameters + looks) > _PASS_WORK:
        rows //= 2
    return rows


@torch.inference_mode()
def prefill(model: LanguageModel, cache: Cache, ids: Sequence[int]) -> Tensor:
    """Runs all of `ids` that the cache does not hold; logits [V] of the last one."""
    logits = prefill_block(model, cache, ids)
    while cache.length < len(ids):
        logits = prefill_block(model, cache, ids)
    return logits


@torch.inference_mode()
def warm_up(model: LanguageModel) -> None:
    """A short prompt and a step, so that a GPU's kernels for them are compiled before anyone waits.

    Of one sequence alone: steps of 2 to 16 together are compiled and captured when each is first used.
    """
    cache = model.new_cache(BLOCK)
    ids = [0] * 32
    prefill(model, cache, ids)
    model(torch.tensor([ids[:1]], device=model.device), cache)


class StreamedText:
    """Turns ids into text as they come: whole characters only, and nothing of a stop text.

    Text that might be the beginning of a stop text is held back until it is decided.
    """

    def __init__(self, decode_ids: Callable[[Sequence[int]], str], stop: Iterable[str]) -> None:
        self._decode = decode_ids
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._sent = 0
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that `token` completes; sets `stopped` where a stop text appears."""
        self._ids.append(token)
        text = self._decode(self._ids)
        for stop in self._stop:
            place = text.find(stop)
            if place >= 0:
                text, self.stopped = text[:place], True
        self.text = text
        return self._release(len(text) if self.stopped else self._decided(text))

    def finish(self) -> str:
        """What was held back, once nothing more comes; a character cut off at the end is dropped."""
        if not self.stopped:
            self.text = self.text.rstrip("\ufffd")
        return self._release(len(self.text))

    def _decided(self, text: str) -> int:
        end = len(text.rstrip("\ufffd"))  # the last character may be incomplete
        for stop in self._stop:
            for size in range(min(len(stop) - 1, end), 0, -1):
                if text[:end].endswith(stop[:size]):
                    end -= size
                    break
        return end

    def _release(self, end: int) -> str:
        piece = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece
