"""Prefill and decode: ids in, ids out, one at a time, stopping when told to.

Prefill runs in blocks that begin at multiples of `BLOCK` positions, whether the cache was empty or not,
so that a position is always computed by the same arithmetic and a result never depends on what was
cached before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from codellama.runtime.config import ModelConfig
from codellama.runtime.sampling import Sampler

BLOCK = 128


class Cache(Protocol):
    """What a model remembers of one sequence; `KVCache` says more."""

    length: int

    @property
    def capacity(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def rewind(self, length: int) -> int: ...

    def grow(self, capacity: int) -> None: ...


class LanguageModel(Protocol):
    """What the engine drives: `Transformer`, or `ReferenceModel` for what that does not compute."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def new_cache(self, capacity: int) -> Cache: ...

    def __call__(self, ids: Tensor, cache: Any = None, last_only: bool = False) -> Any:
        """Logits of ids [B, T] (Transformer.forward says more)."""
        ...


class Cancelled(Exception):
    """Raised inside the runtime where the caller no longer wants the result; never leaves the engine."""


@torch.inference_mode()
def prefill(model: LanguageModel, cache: Cache, ids: Sequence[int], cancelled: Callable[[], bool]) -> Tensor:
    """Runs `ids` from position `cache.length` on (a multiple of BLOCK); logits [V] of the last one."""
    assert cache.length % BLOCK == 0
    assert cache.length < len(ids)
    logits: Tensor | None = None
    while cache.length < len(ids):
        if cancelled():
            raise Cancelled
        block = ids[cache.length : cache.length + BLOCK]
        rows = torch.tensor([block], device=model.device)  # [1, T]
        logits = model(rows, cache, last_only=True)
    assert logits is not None
    last: Tensor = logits[0, -1]
    return last


@torch.inference_mode()
def decode(
    model: LanguageModel,
    cache: Cache,
    logits: Tensor,
    sampler: Sampler,
    cancelled: Callable[[], bool],
    allowed: Callable[[], Sequence[int] | None] = lambda: None,
) -> Iterator[tuple[int, float]]:
    """Yields ids with their log-probabilities, without end; raises Cancelled between two of them.

    `allowed` is asked before each of them for the ids that may come, None for all.
    """
    while True:
        token, logprob = sampler.choose(logits, allowed())
        yield token, logprob
        if cancelled():
            raise Cancelled
        logits = model(torch.tensor([[token]], device=logits.device), cache)[0, -1]


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
