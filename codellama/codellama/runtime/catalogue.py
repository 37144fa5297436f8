"""The published models of the Llama family: names, shapes, abilities. Free of torch.

`codellama models list` and docs/models.md tell them. How a model is run stands in its checkpoint, never
here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from codellama.runtime.config import Llama4, ModelConfig

Infill = Literal["yes", "unsure", "no"]

# By size: dim, layers, heads, key/value heads, width of the feed-forward.
_SIZES = {
    "7b": (4096, 32, 32, 32, 11008),
    "13b": (5120, 40, 40, 40, 13824),
    "30b": (6656, 60, 52, 52, 17920),
    "34b": (8192, 48, 64, 8, 22016),
    "65b": (8192, 80, 64, 64, 22016),
    "70b": (8192, 80, 64, 8, 28672),
    "1B": (2048, 16, 32, 8, 8192),
    "3B": (3072, 28, 24, 8, 8192),
    "8B": (4096, 32, 32, 8, 14336),
    "70B": (8192, 80, 64, 8, 28672),
    "405B": (16384, 126, 128, 8, 53248),
}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One published model.

    `name` is its name on the Hugging Face hub, `shape` its sizes and context (no rotary scaling); `infill` is
    as `families.trained_to_infill` tells it.
    """

    name: str
    family: str
    shape: ModelConfig
    infill: Infill = "no"
    chat: bool = False


def known_models() -> tuple[KnownModel, ...]:
    """The family, oldest first."""
    return (*_llama1(), *_llama2(), *_code_llama(), *_llama3(), *_llama4())


def _llama1() -> Iterator[KnownModel]:
    for size in ("7b", "13b", "30b", "65b"):
        yield KnownModel(f"huggyllama/llama-{size}", "Llama 1", _shape(size, 32_000, 1e4, 2048))


def _llama2() -> Iterator[KnownModel]:
    for size in ("7b", "13b", "70b"):
        shape = _shape(size, 32_000, 1e4, 4096)
        for variant in ("", "-chat"):
            name = f"meta-llama/Llama-2-{size}{variant}-hf"
            yield KnownModel(name, "Llama 2", shape, chat=bool(variant))


def _code_llama() -> Iterator[KnownModel]:
    for size in ("7b", "13b", "34b", "70b"):
        for variant in ("", "-Python", "-Instruct"):
            # The 70B variants keep Llama 2's RoPE base and were trained at 4,096 tokens.
            short = size == "70b" and variant != ""
            plain = size == "34b" or (variant == "-Python" and size != "70b")
            shape = _shape(
                size, 32_000 if plain else 32_016, 1e4 if short else 1e6, 4096 if short else 16_384
            )
            infill: Infill = "no" if plain else "unsure" if short else "yes"
            name = f"codellama/CodeLlama-{size}{variant}-hf"
            yield KnownModel(name, "Code Llama", shape, infill, variant == "-Instruct")


def _llama3() -> Iterator[KnownModel]:
    for version, stem, sizes, variants, context in (
        ("3", "Meta-Llama-3", ("8B", "70B"), ("", "-Instruct"), 8192),
        ("3.1", "Llama-3.1", ("8B", "70B", "405B"), ("", "-Instruct"), 131_072),
        ("3.2", "Llama-3.2", ("1B", "3B"), ("", "-Instruct"), 131_072),
        ("3.3", "Llama-3.3", ("70B",), ("-Instruct",), 131_072),
    ):
        for size in sizes:
            shape = _shape(size, 128_256, 5e5, context, tied=version == "3.2")
            for variant in variants:
                name = f"meta-llama/{stem}-{size}{variant}"
                yield KnownModel(name, f"Llama {version}", shape, chat=bool(variant))


def _llama4() -> Iterator[KnownModel]:
    for stem, experts, step, context in (
        ("Scout-17B-16E", 16, 1, 10_485_760),
        ("Maverick-17B-128E", 128, 2, 1_048_576),
    ):
        for variant in ("", "-Instruct"):
            shape = _llama4_shape(experts, step, context if variant else 262_144)
            yield KnownModel(f"meta-llama/Llama-4-{stem}{variant}", "Llama 4", shape, "unsure", bool(variant))


def _shape(size: str, vocabulary: int, theta: float, context: int, tied: bool = False) -> ModelConfig:
    dim, layers, heads, kv_heads, ffn = _SIZES[size]
    return ModelConfig(
        vocab_size=vocabulary,
        dim=dim,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=dim // heads,
        ffn_dim=ffn,
        rope_theta=theta,
        max_context=context,
        tie_embeddings=tied,
    )


def _llama4_shape(experts: int, step: int, context: int) -> ModelConfig:
    layers = range(48)
    return ModelConfig(
        vocab_size=202_048,
        dim=5120,
        n_layers=len(layers),
        n_heads=40,
        n_kv_heads=8,
        head_dim=128,
        ffn_dim=16_384,
        rope_theta=5e5,
        max_context=context,
        llama4=Llama4(
            experts=experts,
            experts_per_token=1,
            expert_dim=8192,
            moe_layers=tuple(layers[step - 1 :: step]),
            nope_layers=tuple(layers[3::4]),
            qk_norm=step == 1,
        ),
    )
