"""The Llama runtime: checkpoints, tokenizers, prompts, the transformer, generation.

Exports are lazy, so that importing this package costs nothing and does not import torch; `load_engine`
does, on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codellama.runtime.engine import Engine
    from codellama.runtime.load import load_engine
    from codellama.runtime.tokenizer_files import load_tokenizer

__all__ = ["Engine", "load_engine", "load_tokenizer"]

_HOME = {"Engine": "engine", "load_engine": "load", "load_tokenizer": "tokenizer_files"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
