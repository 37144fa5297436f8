"""A model's name to an engine: where it runs, in what, with which kernels, and how long its context is."""

import math
from dataclasses import replace
from typing import Literal

import torch

from codellama.runtime.cache import CacheKind
from codellama.runtime.chat import chat_format
from codellama.runtime.device import find_cache_kind, find_device, find_dtype, find_quantisation
from codellama.runtime.engine import Engine
from codellama.runtime.errors import InvalidRequest, UnsupportedArchitecture
from codellama.runtime.generation import BLOCK, LanguageModel, warm_up
from codellama.runtime.graphs import GraphedModel
from codellama.runtime.identify import identify
from codellama.runtime.kernels import Kernels, choose_kernels
from codellama.runtime.linear import Quantisation
from codellama.runtime.locate import locate
from codellama.runtime.memory import generation_needs, usable_bytes
from codellama.runtime.native import NativeModel, fits
from codellama.runtime.native_build import PATIENCE_S, cache_folder, native_library
from codellama.runtime.reference import load_reference
from codellama.runtime.tokenizer import Tokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.loading import Progress, load_transformer
from codellama.runtime.weights.tensors import Checkpoint

# Whose arithmetic int8 and int4 weights are computed with: what was measured to be faster, torch's, or the
# compiled.
KernelChoice = Literal["auto", "torch", "compiled"]


def load_engine(  # noqa: PLR0913 - all by name, and each a setting that users have
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    max_context: int | None = None,
    progress: Progress | None = None,
    quantize_cache: str | None = None,
    kernels: KernelChoice = "auto",
    draft: str | None = None,
) -> Engine:
    """Loads the model `name` (see `locate`) onto a device.

    `device`: auto (CUDA, then MPS, then CPU) or torch's name of one. `dtype`: auto (float32 on a CPU,
    bfloat16 elsewhere), float32, bfloat16 or float16. `quantize`: int8 or int4 weights, fp8 on a GPU that
    has it, None for the checkpoint's own, auto for int8 on a CPU and None elsewhere. `max_context`: this many
    tokens in prompt and answer together, be it more than the model was made for (as Code Llama reads
    100,000); by default its own context, or what memory has room for. `progress`: called with the bytes of
    weights that are loaded, and all there are. `quantize_cache`: int8 or fp8 keys and values, None for the
    dtype's. `kernels`: for int8 and int4 on a CPU. `draft`: a smaller model with the same tokenizer, which
    guesses ids that this one checks. Raises UnknownModel, CheckpointError or InvalidRequest.
    """
    if max_context is not None and max_context < 2:
        raise InvalidRequest(f"max_context is {max_context}: give at least 2 tokens.")
    path = locate(name)
    place = find_device(device)
    kind = find_dtype(dtype, place)
    fewer_bits = find_quantisation(quantize, place)
    packed = find_cache_kind(quantize_cache, place)
    model: LanguageModel
    try:
        checkpoint = open_checkpoint(path)
    except UnsupportedArchitecture as refusal:
        if (fewer_bits and quantize != "auto") or packed:
            raise InvalidRequest(
                f"The model {name} runs through transformers, which keeps its weights and its cache as they "
                "are: leave quantize at auto or none, and quantize_cache at none."
            ) from refusal
        model = load_reference(path, place, kind, refusal)
        family = model.config.family
        tokenizer = load_tokenizer(path)
        tokenizer.fit(model.config.vocab_size, str(path))
    else:
        tokenizer = load_tokenizer(path)
        tokenizer.fit(checkpoint.config.vocab_size, str(path))
        model = _load_ours(checkpoint, place, kind, progress, fewer_bits, packed, kernels)
        family = identify(checkpoint.config, path.name).family
    needs = generation_needs(model.config, model.dtype, model.block, model.position_bytes)
    # Packing fills the context, so it must not promise what memory cannot hold.
    room = max(needs.tokens_within(usable_bytes(place)) // BLOCK, 2) * BLOCK
    context = max_context or min(model.config.max_context, room)
    model.config = replace(model.config, max_context=context)
    drafts = None
    if draft:
        drafts = load_engine(
            draft,
            device=device,
            dtype=dtype,
            quantize=quantize,
            max_context=context,
            quantize_cache=quantize_cache,
            kernels=kernels,
        )
    if drafts is not None and not _same_ids(tokenizer, drafts.tokenizer):
        raise InvalidRequest(
            f"The model {draft} cannot draft for {name}: their tokenizers differ. Choose a smaller model of "
            "the same family."
        )
    chat = chat_format(path, tokenizer, model.config)
    return Engine(name, model, tokenizer, chat, family, drafts.model if drafts else None)


def _same_ids(tokenizer: Tokenizer, other: Tokenizer) -> bool:
    return tokenizer.pieces == other.pieces and tokenizer.control == other.control


def _load_ours(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None,
    quantize: Quantisation | None,
    packed: CacheKind | None,
    kernels: KernelChoice,
) -> LanguageModel:
    """The transformer, or the compiled one where that computes such a model and is to be used."""
    config = checkpoint.config
    on_cpu = device.type == "cpu"
    few_bits = on_cpu and quantize in ("int8", "int4")
    compilable = few_bits and dtype == torch.float32 and packed != "fp8" and fits(config)
    patience = PATIENCE_S if kernels == "auto" else math.inf
    library = native_library(patience_s=patience) if compilable and kernels != "torch" else None
    if kernels == "compiled" and library is None:
        raise InvalidRequest(
            "The compiled kernels are for dense models in int8 or int4 on a CPU and need a C compiler: leave "
            "kernels at auto."
        )
    choice = Kernels()
    if few_bits:
        choice = choose_kernels(2 * config.ffn_dim, config.dim, library, cache_folder())
    choice = replace(choice, compiled=library is not None and (choice.compiled or kernels == "compiled"))
    model = load_transformer(checkpoint, device, dtype, progress, quantize, choice)
    if library is not None and choice.compiled:
        return NativeModel(model, library, packed == "int8")
    model.cache_kind = packed
    if device.type != "cuda":
        return model
    on_gpu: LanguageModel = model if config.llama4 else GraphedModel(model)
    warm_up(on_gpu)
    return on_gpu
