"""Decode steps on a GPU as CUDA graphs: a step's hundreds of kernels are started by one call.

A graph repeats kernels on fixed addresses, so all that changes between steps stands in buffers. Where the
kernels of `fused_step` compute the model, one graph serves every cache, one for each number of sequences.
For other models a step of torch's kernels writes keys and values where the position says, and looks at a
fixed span of one cache, masked behind the position. The same step runs on a CPU, where tests compare it
with the plain one; only the capture is CUDA's own.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from codellama.runtime.cache import KVCache
from codellama.runtime.config import ModelConfig
from codellama.runtime.layers import Pass
from codellama.runtime.model import Transformer

if TYPE_CHECKING:
    from codellama.runtime.fused_step import FusedStep

_log = logging.getLogger(__name__)

# A step looks at a multiple of so many positions: few captures for a growing text, little looked at in vain.
SPAN = 512


class StaticStep:
    """One id through a model with a cache, everything that changes between steps in buffers.

    It keeps no cache alive: whoever holds the cache holds the step.
    """

    def __init__(self, model: Transformer, cache: KVCache, span: int) -> None:
        self._model, self._cache = model, ref(cache)
        self.keys = cache.keys  # whose address the step holds
        self.span = min(span, cache.capacity)
        self.ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        self.position = torch.zeros(1, dtype=torch.long, device=model.device)
        self._places = torch.arange(self.span, device=model.device)
        self._tables = model.rope.rows(0, self.span, model.device)
        self._zero = torch.zeros(1, self.span, device=model.device, dtype=model.dtype)

    def set(self, token: Tensor, position: int) -> None:
        """Fills the buffers: the id [1, 1] and where it stands."""
        self.ids.copy_(token)
        self.position.fill_(position)

    def compute(self) -> Tensor:
        """Logits [1, 1, V] of what stands in the buffers; no number of the host's goes in."""
        cache = self._cache()
        assert cache is not None, "the step's caller holds it"
        cos, sin = (table.index_select(0, self.position) for table in self._tables)
        mask = self._zero.masked_fill(self._places > self.position, -torch.inf)  # [1, S]
        now = Pass(0, cos, sin, mask, _At(cache, self.position, self.span))
        return self._model.run(self.ids, now)


class _At(KVCache):
    """A cache written at a position that a tensor holds."""

    def __init__(self, cache: KVCache, position: Tensor, span: int) -> None:
        self._cache, self._position, self._span = cache, position, span

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values [1, KV, 1, D]; returns all of the span."""
        return self._cache.extend_at(layer, self._position, self._span, keys, values)


def capture(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """A call that computes a step again: a CUDA graph on a GPU, the step itself elsewhere."""
    if device.type != "cuda":
        return compute
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose their kernels before they are recorded, Triton compiles
        compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = compute()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def fused_step(model: Transformer) -> "FusedStep | None":
    """The step of our own kernels, where there is Triton and they compute such a model."""
    if model.device.type != "cuda" or not find_spec("triton"):
        return None
    from codellama.runtime.fused_step import FusedStep, fits

    return FusedStep(model) if fits(model) else None


class GraphedModel:
    """A transformer whose decode steps run as captured; prompts and drafts run as they were.

    A step of one sequence is captured at load (`warm_up`). Where our kernels compute the model, steps of 2 to
    16 sequences are captured too, each number when it is first used; all other batches run as they were.
    """

    def __init__(self, model: Transformer) -> None:
        assert model.config.llama4 is None, "its chunks depend on numbers of the host"
        self._model = model
        self._fused = fused_step(model)
        self._captured: dict[tuple[int, torch.dtype], Callable[[], Tensor]] = {}
        self._steps: WeakKeyDictionary[KVCache, tuple[StaticStep, Callable[[], Tensor]]] = WeakKeyDictionary()

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._model.config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._model.config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """As `Transformer.forward`."""
        if cache is None or ids.shape[1] != 1:
            logits: Tensor = self._model(ids, cache, last_only)
            return logits
        assert cache.length < cache.capacity, "the engine checks a request's length before it starts"
        if self._fused and (fused := self._fused_step(self._fused, ids[0], [cache])) is not None:
            return fused[None]
        step, again = self._step(cache)
        step.set(ids, cache.length)
        out = again()
        cache.reach(cache.length + 1)
        return out.clone()  # the graph's next run writes over it

    def together(self, ids: Tensor, caches: Sequence[KVCache]) -> Tensor:
        """As `Transformer.together`."""
        kinds = {cache.keys.dtype for cache in caches}
        if self._fused and len(caches) <= self._fused.rows and len(kinds) == 1:
            logits = self._fused_step(self._fused, ids, caches)
            if logits is not None:
                return logits
        return self._model.together(ids, caches)

    def _fused_step(self, step: "FusedStep", ids: Tensor, caches: Sequence[KVCache]) -> Tensor | None:
        """Logits [B, V] after one more id for each of B caches, ids [B]; None where torch has to."""
        rows, kind = len(caches), caches[0].keys.dtype
        if not step.reads(kind):
            return None
        step.set(ids, caches)
        again = self._captured.get((rows, kind))
        if again is None:
            try:
                again = capture(partial(step.compute, rows, kind), ids.device)
            except Exception as refusal:  # noqa: BLE001 - no compiler, no memory, another GPU: torch computes instead
                _log.warning("A fused kernel does not run on this GPU (%s): answers come slower.", refusal)
                self._fused = None
                return None
            self._captured[rows, kind] = again
        out = again()
        for cache in caches:
            cache.reach(cache.length + 1)
        return out.clone()  # the graph's next run writes over it

    def _step(self, cache: KVCache) -> tuple[StaticStep, Callable[[], Tensor]]:
        span = -(-(cache.length + 1) // SPAN) * SPAN
        kept = self._steps.get(cache)
        if kept and kept[0].keys is cache.keys and kept[0].span == min(span, cache.capacity):
            return kept
        step = StaticStep(self._model, cache, span)
        step.set(step.ids, cache.length)
        self._steps[cache] = step, capture(step.compute, step.ids.device)
        return self._steps[cache]
