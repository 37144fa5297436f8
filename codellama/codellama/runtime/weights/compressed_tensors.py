"""int8 weights as the compressed-tensors library stores them: a scale for each row beside the matrix.

The format is its `int-quantized`: `X.weight` in int8, `X.weight_scale` [rows, 1] or [1], and a table in
`config.json` that says so. Weights are read as the numbers that they stand for; what the table says of
activations is left to the engine. Free of torch at import.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

from codellama.runtime.errors import CheckpointError
from codellama.runtime.weights import safetensors
from codellama.runtime.weights.mapped import check_dtype
from codellama.runtime.weights.tensors import AGAIN, Block, TensorInfo, row_blocks

SCALE = "_scale"
_FORMAT = "int-quantized"
_STRATEGIES = ("channel", "tensor")
# What is written: linear layers alone, weights alone.
DESCRIPTION = {
    "quant_method": "compressed-tensors",
    "format": _FORMAT,
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "format": _FORMAT,
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": None,
            "output_activations": None,
        }
    },
}


def check(table: Any, source: str) -> None:
    """Refuses what is no int8 of this kind; `source` names the file in the error."""
    try:
        kinds = [group["weights"] for group in table["config_groups"].values()]
        read = table["quant_method"] == "compressed-tensors" and table["format"] == _FORMAT and bool(kinds)
        for kind in kinds:
            read = read and (kind["num_bits"], kind["type"], kind.get("symmetric", True)) == (8, "int", True)
            read = read and kind["strategy"] in _STRATEGIES
    except (LookupError, TypeError, AttributeError):
        read = False
    if not read:
        raise CheckpointError(
            f"{source} describes a quantised model, and of those only compressed-tensors' int8 ({_FORMAT}, a "
            "scale for each row) is read: choose the unquantised one, or a .gguf file."
        )


def paired(stored: dict[str, TensorInfo]) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """The int8 matrices and their scales, by the matrices' names; raises CheckpointError."""
    pairs = {}
    for name, info in stored.items():
        if info.dtype != "I8":
            continue
        scale = stored.get(name + SCALE)
        if scale is None:
            raise CheckpointError(f"{info.file}: {name} is stored as I8 and has no {name}{SCALE}: {AGAIN}")
        check_dtype(scale.file, scale.name, scale.dtype)
        if len(info.shape) != 2 or prod(scale.shape) not in (1, info.shape[0]):
            raise CheckpointError(
                f"{scale.file}: {scale.name} has the shape {scale.shape} for {info.shape}: {AGAIN}"
            )
        pairs[name] = (info, scale)
    return pairs


def blocks(weight: TensorInfo, scale: TensorInfo) -> Iterator[Block]:
    """The numbers that the matrix stands for, in blocks of rows, float32."""
    scales = safetensors.rows(scale, slice(None)).float().reshape(-1, 1)
    for here in row_blocks(weight.shape, weight.shape[1] * 4):
        step = scales[here] if len(scales) > 1 else scales
        yield (here,), safetensors.rows(weight, here).float() * step
