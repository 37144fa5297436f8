"""How much memory a model takes: its weights at each precision, and the keys and values of its context.

Free of torch: the numbers follow from a checkpoint's shape.
"""

from typing import Literal

from codellama.runtime.config import ModelConfig

Precision = Literal["f32", "bf16", "q8_0", "q4_0"]

# Bytes of 32 weights: a block of GGUF's Q8_0 or Q4_0 has a float16 scale beside them.
_BLOCK_BYTES = {"f32": 128, "bf16": 64, "q8_0": 34, "q4_0": 18}


def weight_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of a model's weights.

    A quantised model keeps vectors (and Llama 4's routers) in float32, and the matrix that gives the
    logits in eight bits at least, as `codellama models convert` writes them.
    """
    if precision in ("f32", "bf16"):
        return config.parameters * _BLOCK_BYTES[precision] // 32
    plain = _vectors(config) + _routers(config)
    output = config.vocab_size * config.dim
    others = config.parameters - plain - output
    return others // 32 * _BLOCK_BYTES[precision] + output // 32 * _BLOCK_BYTES["q8_0"] + 4 * plain


def cache_bytes(config: ModelConfig, positions: int, bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of `positions` tokens; a value has 2 bytes in bfloat16, 4 in float32.

    Where it has 1, in int8 or fp8, each position has a float32 scale for each head besides.
    """
    scale = 4 if bytes_per_value == 1 else 0
    head = config.head_dim * bytes_per_value + scale
    return 2 * config.n_layers * config.n_kv_heads * head * positions


def _vectors(config: ModelConfig) -> int:
    norms = (2 * config.n_layers + 1) * config.dim
    queries, shared = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention = queries + 2 * shared + config.dim if config.attention_bias else 0
    feed_forward = 2 * config.ffn_dim + config.dim if config.mlp_bias else 0
    return norms + config.n_layers * (attention + feed_forward)


def _routers(config: ModelConfig) -> int:
    return config.llama4.experts * config.dim * len(config.llama4.moe_layers) if config.llama4 else 0
