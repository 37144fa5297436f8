"""Samples packed into rows: none is cut, what does not fill a row is left empty and weighs nothing.

`loader` makes batches in processes of their own, so that a GPU need not wait for them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from codellama.training.samples import Sample, SampleStream

_WAITING = 24  # samples to choose from, so that little of a row stays empty


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids [B, T + 1] and the weights [B, T] in the loss of being told each token but the first."""

    ids: Tensor
    weights: Tensor


def batches(stream: SampleStream, rows: int, length: int) -> Iterator[Batch]:
    """Endless batches of `rows` rows of `length` + 1 tokens; samples longer than a row are passed over."""
    samples = (sample for sample in stream if len(sample.ids) <= length + 1)
    waiting = [next(samples) for _ in range(_WAITING)]
    while True:
        packed = []
        for _ in range(rows):
            row: list[Sample] = []
            room = length + 1
            while True:
                fitting = [n for n, sample in enumerate(waiting) if len(sample.ids) <= room]
                if not fitting:
                    break
                # The longest first, then whatever fills the rest.
                sample = waiting.pop(max(fitting, key=lambda n: len(waiting[n].ids)) if row else fitting[0])
                waiting.append(next(samples))
                row.append(sample)
                room -= len(sample.ids)
            packed.append(_row(row, length + 1))
        ids, weights = zip(*packed, strict=True)
        yield Batch(torch.tensor(ids), torch.tensor(weights)[:, 1:])


def loader(make: Callable[[int], Iterator[Batch]], workers: int, device: torch.device) -> Iterator[Batch]:
    """Endless batches on `device` of `workers` processes, each of which makes its own from its number."""
    pinned = device.type == "cuda"
    ahead = {"prefetch_factor": 4, "multiprocessing_context": "fork"} if workers else {}
    loading = DataLoader(_Made(make), batch_size=None, num_workers=workers, pin_memory=pinned, **ahead)  # type: ignore[arg-type]
    for ids, weights in loading:
        yield Batch(ids.to(device, non_blocking=True), weights.to(device, non_blocking=True))


class _Made(IterableDataset[tuple[Tensor, Tensor]]):
    def __init__(self, make: Callable[[int], Iterator[Batch]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        for batch in self.make(info.id if info else 0):
            yield batch.ids, batch.weights


def _row(samples: list[Sample], size: int) -> tuple[list[int], list[float]]:
    ids = [i for sample in samples for i in sample.ids]
    # The first token of a sample cannot be told from what precedes it.
    weights = [w for sample in samples for w in (0.0, *sample.weights[1:])]
    empty = size - len(ids)
    return ids + [0] * empty, weights + [0.0] * empty
