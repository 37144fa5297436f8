"""From an opened checkpoint to a transformer: block by block, straight to its device and dtype."""

import re
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from codellama.runtime.errors import CheckpointError
from codellama.runtime.kernels import Kernels
from codellama.runtime.linear import Quantisation, quantised
from codellama.runtime.model import Transformer
from codellama.runtime.weights.tensors import AGAIN, Checkpoint, TensorInfo

# Called with the bytes that are loaded and those there are.
Progress = Callable[[int, int], None]

_LAYER = re.compile(r"layers\.(\d+)\.")
# Linear layers that take the same input become one when they are quantised: fewer steps to start.
_JOINED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
    "lm_head": ("lm_head",),
}
# Above every width, vocabulary and number of layers of any Llama, and low enough to multiply.
_MOST = 2**24
_USUAL = Kernels()


def load_transformer(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
    quantize: Quantisation | None = None,
    kernels: Kernels = _USUAL,
) -> Transformer:
    """The model with its weights on `device` in `dtype`, its linear layers in fewer bits with `quantize`.

    Raises CheckpointError naming file and tensor. Needs little more memory than the weights themselves.
    """
    model, infos = outline(checkpoint)
    total = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    done = 0

    def load(name: str, kind: torch.dtype) -> Tensor:
        nonlocal done
        tensor = load_tensor(checkpoint, infos[name], device, kind)
        done += tensor.numel() * dtype.itemsize
        if progress:
            progress(min(done, total), total)
        return tensor

    return fill(model, set(infos), load, dtype, quantize, kernels).to(device)


def fill(
    model: Transformer,
    names: Collection[str],
    load: Callable[[str, torch.dtype], Tensor],
    dtype: torch.dtype,
    quantize: Quantisation | None = None,
    kernels: Kernels = _USUAL,
) -> Transformer:
    """Gives a model on the device `meta` its weights, which `load` finds by name in a dtype."""
    if quantize:
        _quantise(model, names, lambda name: load(name, torch.float32), quantize, kernels)
    loaded = {name: load(name, dtype) for name, _ in model.named_parameters()}
    model.load_state_dict(loaded, strict=False, assign=True)
    if model.config.tie_embeddings and not quantize:
        model.lm_head.weight = model.embed_tokens.weight
    return model.eval().requires_grad_(False)


def _quantise(
    model: Transformer,
    names: Collection[str],
    load: Callable[[str], Tensor],
    kind: Quantisation,
    kernels: Kernels,
) -> None:
    """Puts quantised layers in the place of linear ones, one group of weights in memory at a time."""
    for path, parent in list(model.named_modules()):
        for target, parts in _JOINED.items():
            if not all(isinstance(getattr(parent, part, None), nn.Linear) for part in parts):
                continue
            here = [f"{path}.{part}".removeprefix(".") for part in parts]
            if here == ["lm_head"] and "lm_head.weight" not in names:
                here = ["embed_tokens"]  # tied
            weight = torch.cat([load(f"{name}.weight") for name in here])
            bias = None
            if f"{here[0]}.bias" in names:
                bias = torch.cat([load(f"{name}.bias") for name in here])
            for part in parts:
                setattr(parent, part, None)
            # The last layer's errors are seen undamped, and it is few of the weights.
            bits: Quantisation = "int8" if target == "lm_head" else kind
            setattr(
                parent, target, quantised(weight, bias, bits, kernels.few, kernels.many, kernels.compiled)
            )


def outline(checkpoint: Checkpoint) -> tuple[Transformer, dict[str, TensorInfo]]:
    """The model without its weights, on the device `meta`, and where each of its parameters is read from.

    Raises CheckpointError where one is missing or has another shape.
    """
    found = {info.name.removeprefix("model."): info for info in checkpoint.infos()}
    _check_sizes(checkpoint, found)
    with torch.device("meta"):
        model = Transformer(checkpoint.config)
    wanted = dict(model.named_parameters())
    _check_tensors(checkpoint, found, wanted)
    return model, {name: found[name] for name in wanted}


def _check_sizes(checkpoint: Checkpoint, found: Mapping[str, TensorInfo]) -> None:
    """Compares the description with the files before anything of its size is built."""
    config = checkpoint.config
    layers = {int(match[1]) for match in map(_LAYER.match, found) if match}
    if layers != set(range(min(config.n_layers, len(layers) + 1))):
        raise CheckpointError(
            f"{checkpoint.path} holds tensors of {len(layers)} layers, and its description says "
            f"{config.n_layers}: {AGAIN}"
        )
    queries = config.n_heads * config.head_dim
    sizes = [config.vocab_size, config.dim, config.ffn_dim, queries]
    if config.llama4:  # its experts are one tensor
        sizes.append(config.llama4.experts * config.llama4.expert_dim)
    for size in sizes:
        if size > _MOST:
            raise CheckpointError(
                f"{checkpoint.path} describes a model with the size {size}, which no Llama has: {AGAIN}"
            )


def _check_tensors(
    checkpoint: Checkpoint, found: Mapping[str, TensorInfo], wanted: Mapping[str, Tensor]
) -> None:
    for name, parameter in wanted.items():
        if name not in found:
            raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}: {AGAIN}")
        info, expected = found[name], tuple(parameter.shape)
        if info.shape != expected:
            raise CheckpointError(
                f"{info.file}: {info.name} has the shape {info.shape}, not {expected}: {AGAIN}"
            )


def load_tensor(checkpoint: Checkpoint, info: TensorInfo, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One tensor on `device` in `dtype`; raises CheckpointError where a number is none, or beyond `dtype`."""
    tensor = torch.empty(info.shape, device=device, dtype=dtype)
    for place, block in checkpoint.blocks(info):
        # Converted in place: copies between the weights would leave holes in memory where they were.
        part = tensor[place].copy_(block)
        # One number that is not finite makes the sum so; a sum may also overflow, then each is looked at.
        if not part.sum().isfinite() and not part.isfinite().all():
            if block.isfinite().all():
                raise CheckpointError(
                    f"{info.file}: {info.name} holds numbers that {dtype} cannot: choose bfloat16 or float32."
                )
            raise CheckpointError(f"{info.file}: {info.name} holds NaN or infinite numbers: {AGAIN}")
    return tensor
