"""llama.cpp as a peer, through llama-cpp-python's low-level interface.

What it prints goes nowhere. Keys and values stay float32, so that only its weights, and the eight-bit
activations that it multiplies quantised weights by, set it apart from us. `Peer` frees what it holds.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch
from torch import Tensor

# ggml's and llama.cpp's numbers, from ggml.h and llama.h.
_GGML_F32 = 0
_NO_FLASH_ATTENTION = 0
FILE_TYPES = {"Q8_0": 7, "Q4_0": 2, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18}  # K-quants: the M mixtures


def llama_cpp() -> Any:
    """The module; skips loudly where it is absent, fails under CI=true."""
    try:
        import llama_cpp
    except (ImportError, RuntimeError) as error:
        message = f"llama-cpp-python cannot be imported ({error}): pip install codellama[peers]"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    llama_cpp.llama_log_set(_SILENCE, ctypes.c_void_p(0))
    for file in (llama_cpp._utils.outnull_file, llama_cpp._utils.errnull_file):
        file.close()  # opened at import, never used here, and a warning at exit
    return llama_cpp


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _SILENCE(level: int, text: bytes, data: int) -> None:
    pass


class Peer:
    """One GGUF file in llama.cpp."""

    def __init__(self, file: Path, positions: int = 512, vocabulary_only: bool = False) -> None:
        self._library = lib = llama_cpp()
        parameters = lib.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.vocab_only = vocabulary_only
        self._context = None
        self._model = lib.llama_model_load_from_file(str(file).encode(), parameters)
        assert self._model, f"llama.cpp does not load {file}"
        self.vocabulary = lib.llama_model_get_vocab(self._model)
        self.vocab_size = int(lib.llama_vocab_n_tokens(self.vocabulary))
        if not vocabulary_only:
            self._context = self._new_context(positions)

    def _new_context(self, positions: int) -> Any:
        lib = self._library
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = positions
        # More threads would spin at barriers while other work holds the cores.
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = _GGML_F32
        parameters.flash_attn_type = _NO_FLASH_ATTENTION
        context = lib.llama_init_from_model(self._model, parameters)
        assert context, "llama.cpp makes no context"
        return context

    def encode(self, text: str) -> list[int]:
        """Ids of `text` without BOS; control tokens are not read from it."""
        content = text.encode()
        room = (ctypes.c_int32 * (len(content) + 16))()
        count = self._library.llama_tokenize(
            self.vocabulary, content, len(content), room, len(room), False, False
        )
        assert count >= 0
        return list(room[:count])

    def piece(self, token: int) -> bytes:
        """What `token` adds to a text; nothing for control tokens."""
        room = ctypes.create_string_buffer(256)
        count = self._library.llama_token_to_piece(self.vocabulary, token, room, len(room), 0, False)
        assert count >= 0
        return room.raw[:count]

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits of every position, [T, V] float32, from an empty cache."""
        lib = self._library
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place] = token
                batch.pos[place] = place
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = 0
                batch.logits[place] = True
            assert lib.llama_decode(self._context, batch) == 0
            return self._rows(lib.llama_get_logits(self._context), len(ids))
        finally:
            lib.llama_batch_free(batch)

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest `count` tokens after `ids`, each from its cache; ends at an end token."""
        lib = self._library
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        found: list[int] = []
        feed = list(ids)
        while len(found) < count:
            tokens = (ctypes.c_int32 * len(feed))(*feed)
            assert lib.llama_decode(self._context, lib.llama_batch_get_one(tokens, len(feed))) == 0
            token = int(self._rows(lib.llama_get_logits_ith(self._context, -1), 1).argmax())
            if lib.llama_vocab_is_eog(self.vocabulary, token):
                break
            found.append(token)
            feed = [token]
        return found

    def _rows(self, pointer: Any, count: int) -> Tensor:
        room = (ctypes.c_float * (count * self.vocab_size)).from_address(ctypes.addressof(pointer.contents))
        return torch.frombuffer(bytearray(room), dtype=torch.float32).view(count, self.vocab_size)

    def special(self, name: str) -> int:
        """A special id: bos, eos, eot, fim_pre, fim_suf, fim_mid."""
        return int(getattr(self._library, f"llama_vocab_{name}")(self.vocabulary))

    def is_end(self, token: int) -> bool:
        return bool(self._library.llama_vocab_is_eog(self.vocabulary, token))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context:
            self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)


def quantise(source: Path, target: Path, file_type: str, pure: bool = False) -> None:
    """Writes `source` (F32) as `file_type` through llama.cpp's own quantiser."""
    lib = llama_cpp()
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[file_type]
    parameters.nthread = 1
    parameters.pure = pure
    status = lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    assert status == 0, f"llama.cpp does not quantise {source}"
