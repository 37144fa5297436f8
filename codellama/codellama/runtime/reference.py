"""Models that our own transformer does not compute, run through transformers behind the same engine.

It covers later architectures and the text side of Llamas that see images; `config.family` says
"reference". Slower than `model` and without reuse of the last prompt. Nothing is downloaded, no code that
a checkpoint brings is ever run, and weights are read from safetensors only.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CheckpointError, UnsupportedArchitecture
from codellama.runtime.footprint import cache_bytes
from codellama.runtime.generation import BLOCK

FAMILY = "reference"


class ReferenceCache:
    """transformers' own cache of one sequence; it grows by itself and is never rewound but to nothing."""

    def __init__(self, config: Any, bytes_per_token: int) -> None:
        self._config, self._bytes_per_token = config, bytes_per_token
        self.capacity = 0
        self.rewind(0)

    @property
    def nbytes(self) -> int:
        """About the memory that is taken by now."""
        return self.length * self._bytes_per_token

    def rewind(self, length: int) -> int:
        """Begins anew: layers that look through a window have forgotten what stood before it."""
        from transformers import DynamicCache

        del length
        self.state = DynamicCache(config=self._config)
        self.length = 0
        return 0

    def grow(self, capacity: int) -> None:
        """Notes the capacity; memory is taken as tokens come."""
        self.capacity = capacity

    def copy(self, other: "ReferenceCache", length: int) -> int:
        """Takes nothing over: not every layer can."""
        del other
        return self.rewind(length)


class ReferenceModel:
    """A causal language model of transformers, called as `Transformer` is."""

    def __init__(self, model: Any) -> None:
        self.config = _described(model.config)
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        # transformers renames the argument within its fifth release.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        if self._cache_name not in parameters:
            raise UnsupportedArchitecture(
                f"A {model.config.model_type!r} model keeps no keys and values: choose a Llama checkpoint."
            )
        self._keeps_last = "logits_to_keep" in parameters

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self._model.dtype
        return dtype

    @property
    def block(self) -> int:
        """Positions of a prefill's pass."""
        return BLOCK

    @property
    def resume_every(self) -> int:
        """Its cache begins anew with each prompt, which is always run in the same blocks."""
        return BLOCK

    @property
    def batches(self) -> bool:
        """Each sequence has a cache of its own kind, and a step of its own."""
        return False

    @property
    def position_bytes(self) -> int:
        """About what a position takes in a cache."""
        return cache_bytes(self.config, 1, self.dtype.itemsize)

    def new_cache(self, capacity: int) -> ReferenceCache:
        """An empty cache; `capacity` is a promise, not an allocation."""
        cache = ReferenceCache(self._model.config, self.position_bytes)
        cache.grow(capacity)
        return cache

    def __call__(self, ids: Tensor, cache: ReferenceCache | None = None, last_only: bool = False) -> Tensor:
        """Logits of ids [B, T]: of every position, or with `last_only` of the last, [B, 1, V]."""
        assert ids.dim() == 2
        options: dict[str, Any] = {"use_cache": cache is not None}
        if cache is not None:
            options[self._cache_name] = cache.state
        if last_only and self._keeps_last:
            options["logits_to_keep"] = 1
        logits: Tensor = self._model(input_ids=ids, **options).logits
        if cache is not None:
            cache.length += ids.shape[1]
        return logits[:, -1:] if last_only else logits

    def together(self, ids: Tensor, caches: Sequence[ReferenceCache]) -> Tensor:
        """Logits [B, V] after one more id for each of B caches: one after the other."""
        return torch.cat([self(ids[None, n : n + 1], cache)[0] for n, cache in enumerate(caches)])


def load_reference(
    folder: Path, device: torch.device, dtype: torch.dtype, refusal: UnsupportedArchitecture
) -> ReferenceModel:
    """Loads a Hugging Face folder through transformers.

    Raises `refusal`, which our own reader gave, where transformers does not know the architecture
    either, and CheckpointError where it cannot read the weights.
    """
    import transformers

    library: Any = transformers  # its own types do not follow its options
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()  # it lists the weights of vision layers, which text needs not
    try:
        config = library.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        library.AutoModelForCausalLM._model_mapping[type(config)]
    except Exception:  # noqa: BLE001 - transformers raises whatever a config's own checks do
        raise refusal from None
    try:
        model, report = library.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be read as a {config.model_type} model ({_first_line(error)}): fetch the "
            "checkpoint again."
        ) from error
    if report["missing_keys"]:  # transformers would go on with random weights
        name = min(report["missing_keys"])
        raise CheckpointError(
            f"{folder} lacks {name}, a tensor of a {config.model_type} model: fetch the checkpoint again."
        )
    return ReferenceModel(model.to(device).eval().requires_grad_(False))


def _described(config: Any) -> ModelConfig:
    """The shape of the text model, as far as a request's length and memory depend on it."""
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", None) or 1)
    dim = int(text.hidden_size)
    return ModelConfig(
        vocab_size=int(text.vocab_size),
        dim=dim,
        n_layers=int(text.num_hidden_layers),
        n_heads=heads,
        n_kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or dim // heads),
        ffn_dim=int(getattr(text, "intermediate_size", None) or 4 * dim),
        max_context=int(getattr(text, "max_position_embeddings", None) or 2048),
        family=FAMILY,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
