#!/usr/bin/env python3
"""Module."""
import os.path
from typing import Any as Anything, List
from . import sibling

LIMIT = 3
__version__: str = "1"
first, (second, third) = 1, (2, 3)
type Pair[T] = tuple[T, T]

# What a box is
# made of.
MATERIALS: dict[str, int]


@decorated
class Box(Base, metaclass=Meta):
    """A box."""

    size: int = 0
    LIMIT = 4
    __slots__ = ("a",)

    def open(self, lid: Any,
             force=False) -> None:
        r"""Opens it.

        With care.
        """
        local = 1
        self.lid = lid
        with lid as local_too:
            pass

        def inner(parameter) -> int:
            return local

    @property
    def lid(self): return os.path

    class Inner:
        deep = lambda self: 1


async def fetch(url): ...


if LIMIT:
    def conditional(*args): return f"{args} and {LIMIT}"
    flag = True
else:
    flag = False
for index in range(3):
    total = index
