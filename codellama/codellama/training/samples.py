"""Training samples: files turned into infill sequences, laid out exactly as the runtime's prompts.

Nine samples in ten are infills, half prefix-suffix-middle and half suffix-prefix-middle, split at
characters (arXiv 2207.14255; rates of arXiv 2308.12950, section 2.3). Half of the middles end where a
line ends, which is what an editor asks for. In every fourth sample a part of another file of the same
package heads the prefix, under its path, as `codellama.runtime.prompts` lays out extras.
"""

import random
from collections.abc import Iterator
from typing import Literal

from codellama.runtime.families import InfillTokens
from codellama.runtime.prompts import extra_text, infill_ids
from codellama.runtime.tokenizer import Tokenizer
from codellama.training.corpus import SourceFile

WINDOW = 2_200  # characters of a file in one sample
EXTRA_WINDOW = 700
INFILL_RATE = 0.9
EXTRA_RATE = 0.25


class SampleStream:
    """Endless token ids of seeded samples over a corpus, one epoch's order after the other."""

    def __init__(self, corpus: list[SourceFile], tokenizer: Tokenizer, seed: int) -> None:
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.tokens = _infill_tokens(tokenizer)
        self.random = random.Random(seed)  # noqa: S311 - seeded samples, not a secret
        self.by_package: dict[str, list[SourceFile]] = {}
        for file in corpus:
            self.by_package.setdefault(file.package, []).append(file)

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            windows = [w for file in self.corpus for w in self._windows(file)]
            self.random.shuffle(windows)
            for file, text in windows:
                yield self.sample(file, text)

    def sample(self, file: SourceFile, text: str) -> list[int]:
        """One sequence: an infill, or the text as it stands."""
        if self.random.random() >= INFILL_RATE:
            eos = self.tokenizer.eos_id
            return [self.tokenizer.bos_id, *self.tokenizer.encode(text), eos]
        start, end = self._middle(text)
        prefix, middle, suffix = text[:start], text[start:end], text[end:]
        mode: Literal["psm", "spm"] = "psm" if self.random.random() < 0.5 else "spm"
        encode = self.tokenizer.encode
        answer = encode(middle)
        before = encode(prefix)
        if mode == "spm" and self.random.random() < 0.5:
            # As in the paper, prefix and middle encoded as one; the other half teaches the model to go
            # on after a prefix that ends inside a token.
            before, answer = encode(prefix + middle), []
        ids = infill_ids(self.tokens, self.tokenizer.bos_id, mode, before, encode(suffix), self._extras(file))
        return [*ids, *answer, self.tokens.eot]

    def _windows(self, file: SourceFile) -> Iterator[tuple[SourceFile, str]]:
        """Cuts a file at line ends into pieces of about WINDOW characters, at a random phase."""
        lines = file.text.splitlines(keepends=True)
        size = self.random.randint(WINDOW // 4, WINDOW)
        piece: list[str] = []
        length = 0
        for line in lines:
            piece.append(line)
            length += len(line)
            if length >= size:
                yield file, "".join(piece)
                piece, length, size = [], 0, WINDOW
        if length > 80:
            yield file, "".join(piece)

    def _middle(self, text: str) -> tuple[int, int]:
        if self.random.random() < 0.5:
            first, second = sorted(self.random.randint(0, len(text)) for _ in range(2))
            return first, second
        start = self.random.randint(0, len(text) - 1)
        end = start
        for _ in range(self.random.choice((1, 1, 1, 2, 4))):
            end = text.find("\n", end + 1)
            if end < 0:
                return start, len(text)
        return start, end

    def _extras(self, file: SourceFile) -> list[list[int]]:
        others = self.by_package[file.package]
        if len(others) < 2 or self.random.random() >= EXTRA_RATE:
            return []
        other = self.random.choice(others)
        if other.path == file.path:
            return []
        start = self.random.randint(0, max(0, len(other.text) - EXTRA_WINDOW))
        part = other.text[start : start + EXTRA_WINDOW]
        part = part[part.find("\n") + 1 :]
        return [self.tokenizer.encode(extra_text(other.path, part))]


def _infill_tokens(tokenizer: Tokenizer) -> InfillTokens:
    assert tokenizer.infill is not None, "the pocket model's tokenizer has the four infill tokens"
    return tokenizer.infill
