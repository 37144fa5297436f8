"""What a repository holds: files, symbols, references, text, rank. Knows nothing of models.

`open_index` is the front door. Exports are lazy: importing this package loads neither tree-sitter nor
SQLite.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codellama_index.repository import Index, open_index

__all__ = ["Index", "open_index"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from codellama_index import repository

    return getattr(repository, name)
