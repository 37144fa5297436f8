"""Infill prompts, built from ids. Free of torch.

Text never becomes a prompt by way of a template string: control ids are put between lists of ids, so
nothing a file holds can pose as one. The layouts are those of Code Llama (arXiv 2308.12950, section
2.3); extras head the prefix in both:

    PSM  BOS PRE extras prefix SUF suffix MID
    SPM  BOS PRE SUF suffix MID extras prefix
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

from codellama.runtime.families import InfillTokens

# As the index's table of languages has them; a test compares the two.
_SLASHES = frozenset(
    """.js .jsx .mjs .cjs .ts .mts .cts .tsx .go .rs .c .h .cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .inl .ipp
    .java .cs .php .phtml .kt .kts .scala .sc .swift .zig .zon""".split()  # noqa: SIM905 - easier to read
)
_DASHES = frozenset((".lua", ".sql", ".hs"))


def extra_text(filename: str, text: str) -> str:
    """An extra as it stands in the prompt: its path as a comment, its text, and a newline.

    Line breaks in the name are dropped, so that it cannot leave its comment.
    """
    suffix = PurePosixPath(filename).suffix.lower()
    comment = "//" if suffix in _SLASHES else "--" if suffix in _DASHES else "#"
    name = "".join(filename.splitlines())
    return f"{comment} Path: {name}\n{text}\n"


def infill_ids(
    tokens: InfillTokens,
    bos: int,
    mode: Literal["psm", "spm"],
    prefix: Sequence[int],
    suffix: Sequence[int],
    extras: Sequence[Sequence[int]] = (),
) -> list[int]:
    """The exact prompt for encoded parts; every argument but the control ids comes from text."""
    head = [i for extra in extras for i in extra]
    if mode == "psm":
        return [bos, tokens.pre, *head, *prefix, tokens.suf, *suffix, tokens.mid]
    return [bos, tokens.pre, tokens.suf, *suffix, tokens.mid, *head, *prefix]
