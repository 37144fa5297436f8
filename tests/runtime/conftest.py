"""Tiny checkpoints, and one engine for the tests that do not care which."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from formats_support import copy, make_llama, write_gguf, write_hugging_face, write_meta, write_pickled
from runtime_support import write_llama, write_tokenizer

from codellama.runtime import Engine, load_engine

torch.set_num_threads(1)  # tiny models' threads mostly wait for each other, on a busy machine for seconds


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny checkpoint."""
    folder = tmp_path_factory.mktemp("tiny")
    write_llama(folder)
    return folder


@pytest.fixture
def engine(tiny: Path) -> Engine:
    """A cold engine on it."""
    return load_engine(str(tiny), device="cpu")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders `untied` and `sharded`, the same weights in one file and in several.

    Only printable ASCII and the merges are likely, so that greedy text is readable text.
    """
    root = tmp_path_factory.mktemp("checkpoints")
    folders = {name: root / name for name in ("untied", "sharded")}
    model = write_llama(folders["untied"])
    vocabulary = model.config.vocab_size
    model.lm_head.weight.data[[*range(32), *range(127, 256), *range(vocabulary - 6, vocabulary)]] = 0
    model.config.max_position_embeddings = 1024
    model.save_pretrained(folders["untied"])
    model.save_pretrained(folders["sharded"], max_shard_size="60KB")
    write_tokenizer(folders["sharded"])
    return folders


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every format."""
    root = tmp_path_factory.mktemp("whole")
    model = make_llama(hidden_size=64, intermediate_size=256)
    return {
        "safetensors": write_hugging_face(root / "st", model, "100KB"),
        "bin": write_pickled(root / "bin", model, 2),
        "meta": write_meta(root / "meta", model, 2),
        "gguf": write_gguf(root / "m.gguf", model),
    }


@pytest.fixture
def bad(whole: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy to be damaged."""
    return lambda kind: copy(whole[kind], tmp_path / whole[kind].name)
