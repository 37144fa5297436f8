"""Samples packed into rows: none is cut, what does not fill a row is left empty and weighs nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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


def _row(samples: list[Sample], size: int) -> tuple[list[int], list[float]]:
    ids = [i for sample in samples for i in sample.ids]
    # The first token of a sample cannot be told from what precedes it.
    weights = [w for sample in samples for w in (0.0, *sample.weights[1:])]
    empty = size - len(ids)
    return ids + [0] * empty, weights + [0.0] * empty
