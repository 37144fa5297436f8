"""From an opened checkpoint to a transformer: block by block, straight to its device and dtype."""

from collections.abc import Callable

import torch
from torch import Tensor

from codellama.runtime.errors import CheckpointError
from codellama.runtime.model import Transformer
from codellama.runtime.weights.tensors import AGAIN, Checkpoint, TensorInfo

# Called with the bytes that are loaded and those there are.
Progress = Callable[[int, int], None]


def load_transformer(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> Transformer:
    """The model with its weights on `device` in `dtype`.

    Raises CheckpointError naming file and tensor. Needs little more memory than the weights themselves.
    """
    config = checkpoint.config
    with torch.device("meta"):
        model = Transformer(config)
    wanted = dict(model.named_parameters())
    found = {info.name.removeprefix("model."): info for info in checkpoint.infos()}
    for name, parameter in wanted.items():
        if name not in found:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}: {AGAIN}")
        shape, expected = found[name].shape, tuple(parameter.shape)
        if shape != expected:
            raise CheckpointError(
                f"{found[name].file}: {found[name].name} has the shape {shape}, not {expected}: {AGAIN}"
            )
    total = sum(parameter.numel() for parameter in wanted.values()) * dtype.itemsize
    loaded: dict[str, Tensor] = {}
    done = 0
    for name in wanted:
        loaded[name] = _load(checkpoint, found[name], device, dtype)
        done += loaded[name].nbytes
        if progress:
            progress(done, total)
    model.load_state_dict(loaded, strict=False, assign=True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.to(device).eval().requires_grad_(False)


def _load(checkpoint: Checkpoint, info: TensorInfo, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = torch.empty(info.shape, device=device, dtype=dtype)
    for place, block in checkpoint.blocks(info):
        tensor[place] = block.to(device=device, dtype=dtype)
    return tensor
