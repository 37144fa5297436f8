"""What a checkpoint's headers tell about it. Free of torch; nothing of the weights is read."""

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import CodellamaError
from codellama.runtime.families import trained_to_infill
from codellama.runtime.footprint import cache_bytes, weight_bytes
from codellama.runtime.identify import identify
from codellama.runtime.tokenizer import SentencePieceTokenizer
from codellama.runtime.tokenizer_files import load_tokenizer
from codellama.runtime.weights.checkpoint import open_checkpoint
from codellama.runtime.weights.gguf_checkpoint import GgufCheckpoint
from codellama.runtime.weights.tensors import Checkpoint, TensorInfo, read_json

# Tables that old checkpoints hold beside their weights.
_NO_WEIGHTS = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """`kind` is sentencepiece or byte-pair; `pieces` counts control pieces too."""

    kind: str
    pieces: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at one precision: the weights, one token of cache, and the cache of the whole context."""

    weights: int
    cache_per_token: int
    cache: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint's facts, as `codellama models inspect --json` prints them.

    `published` names the models on the hub that it may be, `dtypes` counts weights by what they are stored
    in, `notes` says what is odd about it. `infill_trained` is yes, unsure (done only where asked for
    outright) or no; `infill` is whether it is yes.
    """

    name: str
    family: str
    parameters: int
    context: int
    infill: bool
    path: str
    format: str
    published: tuple[str, ...]
    infill_trained: str
    dtypes: dict[str, int]
    vocabulary: int
    tokenizer: TokenizerFacts | None
    memory: dict[str, Memory]
    notes: tuple[str, ...] = field(default=())


def inspect(path: Path, name: str) -> Inspection:
    """Reads the headers of the checkpoint at `path`, which the user calls `name`; raises CheckpointError."""
    checkpoint = open_checkpoint(path)
    config = checkpoint.config
    weights = [info for info in checkpoint.infos() if _is_weight(info, config)]
    dtypes: Counter[str] = Counter()
    for info in weights:
        dtypes[info.dtype] += prod(info.shape)
    notes = []
    if dtypes.total() != config.parameters:
        notes.append(
            f"The files hold {dtypes.total():,} weights and the description says {config.parameters:,}: "
            "loading will tell which tensor differs."
        )
    identity = identify(config, f"{name} {_own_name(checkpoint)}")
    facts, trained = None, identity.infill
    try:
        tokenizer = load_tokenizer(path)
        tokenizer.fit(config.vocab_size, str(path))
        kind = "sentencepiece" if isinstance(tokenizer, SentencePieceTokenizer) else "byte-pair"
        facts, trained = (
            TokenizerFacts(kind, tokenizer.vocab_size),
            trained_to_infill(config, tokenizer.control),
        )
    except CodellamaError as error:
        notes.append(str(error))
    return Inspection(
        name=name,
        family=identity.family,
        parameters=dtypes.total(),
        context=config.max_context,
        infill=trained == "yes",
        path=str(path),
        format=checkpoint.format,
        published=identity.models,
        infill_trained=trained,
        dtypes=dict(dtypes),
        vocabulary=config.vocab_size,
        tokenizer=facts,
        memory={"float32": _memory(config, 4), "bfloat16": _memory(config, 2), "float16": _memory(config, 2)},
        notes=tuple(notes),
    )


def _memory(config: ModelConfig, width: int) -> Memory:
    token = cache_bytes(config, 1, width)
    return Memory(weight_bytes(config, "f32" if width == 4 else "bf16"), token, token * config.max_context)


def _is_weight(info: TensorInfo, config: ModelConfig) -> bool:
    tied = config.tie_embeddings and info.name == "lm_head.weight"
    return not tied and not info.name.endswith(_NO_WEIGHTS)


def _own_name(checkpoint: Checkpoint) -> str:
    """What a checkpoint calls itself, where it does."""
    if isinstance(checkpoint, GgufCheckpoint):
        keys = ("general.name", "general.basename", "general.finetune")
        return " ".join(str(checkpoint.header.metadata.get(key, "")) for key in keys)
    if checkpoint.format == "hugging-face":
        return str(read_json(checkpoint.path / "config.json").get("_name_or_path", ""))
    return ""
