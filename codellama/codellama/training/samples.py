"""Training samples: files turned into infill sequences, laid out exactly as the runtime's prompts.

Nine samples in ten are infills, half prefix-suffix-middle and half suffix-prefix-middle, split at
characters (arXiv 2207.14255; rates of arXiv 2308.12950, section 2.3). The rest is text as it stands. A
sample shows one function with a little around it, or a stretch of a file. Most middles are what an editor
and the benchmark ask for: a line or a few, the rest of a line, a short span; some are long. Passages of
other files of the package head the prefix, under their paths, as `codellama.runtime.prompts` lays out
extras: often the definitions of names that the text uses, as retrieval finds them, else of several drawn
those that share most words with the file.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from codellama.runtime.families import InfillTokens
from codellama.runtime.prompts import extra_text, infill_ids
from codellama.runtime.tokenizer import Tokenizer
from codellama.training.corpus import SourceFile, plainness

WINDOW = 1_500  # characters of a file in one sample
EXTRA_WINDOW = 700
INFILL_RATE = 0.9
EXTRA_RATE = 0.3
DEFINITION_RATE = 0.6  # of the samples with extras, those that are given definitions where there are any
PYTHON_SHARE = 0.92
# What a middle weighs in the loss against the text around it: it is a twentieth of the tokens, and all
# that is ever asked for. The path that heads an extra weighs nothing: the model must not write it.
MIDDLE_WEIGHT = 3.0

_FUNCTION = re.compile(r"^( *)(?:async )?(?:def |(?:export )?(?:default )?function\b|class )", re.M)
_IMPORT = re.compile(r"^(?:from \S+ )?import .*\n", re.M)
_CODE = re.compile(
    r"[=\[{]|\w\(|^\s*(?:return|pass|else|try|finally|break|continue|raise|yield|if|for|while)\b|^\s*[)\]}]"
)
_WORD = re.compile(r"[A-Za-z_]\w{2,}")
_DEFINED = re.compile(
    r"^[ ]{0,4}(?:async |export |default )*(?:def|class|function\*?) +([A-Za-z_]\w{2,})", re.M
)
_COMMON = 4  # a name defined in more files of a package than this says little


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids and, one each, what being told the token weighs in the loss."""

    ids: list[int]
    weights: list[float]


class Sources:
    """A corpus as samples are drawn from it: by weight, by package, by the names defined in a package."""

    def __init__(self, corpus: list[SourceFile]) -> None:
        self.corpus = corpus
        self.odds = list(accumulate(_odds(corpus)))  # plain, documented files come more often
        self.by_package: dict[str, list[SourceFile]] = {}
        for file in corpus:
            self.by_package.setdefault(file.package, []).append(file)
        self.definitions = {name: _definitions(files) for name, files in self.by_package.items()}


class SampleStream:
    """Endless seeded samples over a corpus."""

    def __init__(
        self,
        sources: Sources,
        tokenizer: Tokenizer,
        seed: int,
        *,
        extras: int = 1,
        window: int = WINDOW,
    ) -> None:
        self.sources, self.tokenizer = sources, tokenizer
        self.extras, self.window = extras, window
        self.tokens = _infill_tokens(tokenizer)
        self.random = random.Random(seed)  # noqa: S311 - seeded samples, not a secret

    def __iter__(self) -> Iterator[Sample]:
        while True:
            file = self.random.choices(self.sources.corpus, cum_weights=self.sources.odds)[0]
            yield self.sample(file, *self.stretch(file.text))

    def sample(self, file: SourceFile, text: str, first: int = 0, last: int | None = None) -> Sample:
        """One sequence: an infill whose middle lies in text[first:last], or the text as it stands."""
        encode = self.tokenizer.encode
        if self.random.random() >= INFILL_RATE:
            ids = [self.tokenizer.bos_id, *encode(text), self.tokenizer.eos_id]
            return Sample(ids, [1.0] * len(ids))
        start, end = self.middle(text, first, len(text) if last is None else last)
        prefix, middle, suffix = text[:start], text[start:end], text[end:]
        mode: Literal["psm", "spm"] = "psm" if self.random.random() < 0.5 else "spm"
        answer, before = encode(middle), encode(prefix)
        length = len(answer) + 1
        if mode == "spm" and self.random.random() < 0.5:
            # As in the paper, prefix and middle encoded as one; the other half teaches the model to go
            # on after a prefix that ends inside a token.
            before, answer = encode(prefix + middle), []
        extras = self._extras(file, text, middle)
        bos = self.tokenizer.bos_id
        ids = infill_ids(self.tokens, bos, mode, before, encode(suffix), [[*h, *t] for h, t in extras])
        ids += [*answer, self.tokens.eot]
        weights = [1.0] * (len(ids) - length) + [MIDDLE_WEIGHT] * length
        place = 2 if mode == "psm" else ids.index(self.tokens.mid) + 1
        for header, rest in extras:
            weights[place : place + len(header)] = [0.0] * len(header)
            place += len(header) + len(rest)
        return Sample(ids, weights)

    def stretch(self, text: str) -> tuple[str, int, int]:
        """A piece of a file, and the range in it to take a middle from."""
        starts = [found.start() for found in _FUNCTION.finditer(text)]
        if starts and self.random.random() < 0.6:
            start = self.random.choice(starts)
            end = min(_end_of_block(text, start), start + self.window)
            # Often nothing around a function, or a few characters.
            before = self.random.randint(0, 400) if self.random.random() < 0.5 else 0
            after = self.random.randint(0, 300) if self.random.random() < 0.5 else 0
            first = text.rfind("\n", 0, max(0, start - before)) + 1 if before else start
            last = text.find("\n", min(len(text), end + after)) + 1 or len(text) if after else end
            imports = "".join(_IMPORT.findall(text[:first])[:4]) if self.random.random() < 0.3 else ""
            head = imports + "\n\n" if imports else ""
            shift = len(head) - first
            return head + text[first:last], start + shift, end + shift
        size = self.random.randint(self.window // 3, self.window)
        start = text.rfind("\n", 0, self.random.randint(0, max(0, len(text) - size)) + 1) + 1
        end = text.find("\n", min(len(text), start + size)) + 1 or len(text)
        return text[start:end], 0, end - start

    def middle(self, text: str, first: int, last: int) -> tuple[int, int]:
        """Where a middle begins and ends in text[first:last]."""
        kind = self.random.random()
        start = self._place(text, first, last)
        if kind < 0.45:  # whole lines
            start = text.rfind("\n", 0, start) + 1
            while start < last and text[start : start + 1] == "\n":
                start += 1
            end = _line_end(text, start, self.random.choice((1, 1, 1, 1, 2, 3)))
            if self.random.random() < 0.3:  # after the indentation, as an editor leaves the cursor
                start += len(text[start:end]) - len(text[start:end].lstrip(" "))
            return start, end if self.random.random() < 0.3 else min(len(text), end + 1)
        if kind < 0.78:  # the rest of a line, or of the next ones too
            return start, _line_end(text, start, self.random.choice((1, 1, 1, 2, 4)))
        longest = 300 if kind < 0.92 else last - first
        return start, min(last, start + self.random.randint(0, longest))

    def _place(self, text: str, first: int, last: int) -> int:
        """A character in text[first:last], more often in a line of code than in prose."""
        place = first
        for _ in range(4):
            place = self.random.randint(first, max(first, last - 1))
            line = text[text.rfind("\n", 0, place) + 1 : _line_end(text, place, 1)]
            if _CODE.search(line):
                break
        return place

    def _extras(self, file: SourceFile, text: str, middle: str) -> list[tuple[list[int], list[int]]]:
        """Passages of other files of the package, encoded: the header line, and the rest."""
        if len(self.sources.by_package[file.package]) < 2:
            return []
        if self.extras == 1 and self.random.random() >= EXTRA_RATE:
            return []
        words = set(_WORD.findall(text))
        asked = set(_WORD.findall(middle))
        chosen = self._defining(file, words, asked) if self.random.random() < DEFINITION_RATE else []
        chosen = (chosen + self._drawn(file, words))[: self.extras]
        self.random.shuffle(chosen)
        parts = []
        for path, part in chosen:
            header, newline, rest = extra_text(path, part).partition("\n")
            parts.append((self.tokenizer.encode(header + newline), self.tokenizer.encode(rest)))
        return parts

    def _defining(self, file: SourceFile, words: set[str], asked: set[str]) -> list[tuple[str, str]]:
        """Where other files define what the text names, path and passage; half the time what is asked for."""
        known = self.sources.definitions[file.package]
        if self.random.random() < 0.5 and not asked.isdisjoint(known):
            words = asked
        places = [
            (other, start)
            for word in sorted(words & known.keys())
            for other, start in known[word]
            if other.path != file.path
        ]
        chosen = self.random.sample(places, min(len(places), self.random.randint(1, self.extras)))
        return [(other.path, _passage(other.text, start)) for other, start in chosen]

    def _drawn(self, file: SourceFile, words: set[str]) -> list[tuple[str, str]]:
        """Of passages drawn from other files, path and text, those first that share most words."""
        others = self.sources.by_package[file.package]
        drawn: list[tuple[float, str, str]] = []
        for _ in range(6 + 2 * self.extras):
            other = self.random.choice(others)
            if other.path == file.path:
                continue
            start = self.random.randint(0, max(0, len(other.text) - EXTRA_WINDOW))
            part = _passage(other.text, other.text.find("\n", start) + 1)
            found = set(_WORD.findall(part))
            drawn.append((len(words & found) / (len(found) + 8), other.path, part))
        return [(path, part) for _, path, part in sorted(drawn, reverse=True)]


def _definitions(files: list[SourceFile]) -> dict[str, list[tuple[SourceFile, int]]]:
    """Where a package's functions and classes begin, by name, common names left out."""
    found: dict[str, list[tuple[SourceFile, int]]] = {}
    for file in files:
        for match in _DEFINED.finditer(file.text):
            found.setdefault(match[1], []).append((file, match.start()))
    return {name: places for name, places in found.items() if len(places) <= _COMMON}


def _passage(text: str, start: int) -> str:
    """Whole lines from `start`, the beginning of one, at most EXTRA_WINDOW characters."""
    part = text[start : start + EXTRA_WINDOW]
    return part[: part.rfind("\n")] if len(part) == EXTRA_WINDOW else part.rstrip("\n")


def _odds(corpus: list[SourceFile]) -> list[float]:
    """How often each file is drawn: by its length and plainness, Python PYTHON_SHARE of all."""
    worth = [len(file.text) * (0.3 + min(1.5, max(0.0, plainness(file.text)))) for file in corpus]
    python = [file.path.endswith(".py") for file in corpus]
    sums = {kind: sum(w for w, p in zip(worth, python, strict=True) if p is kind) for kind in (True, False)}
    shares = {True: PYTHON_SHARE, False: 1 - PYTHON_SHARE}
    return [shares[p] * w / sums[p] for w, p in zip(worth, python, strict=True)]


def _end_of_block(text: str, start: int) -> int:
    """Where the block ends whose first line begins at `start`: before the next line as little indented."""
    depth = len(text[start:]) - len(text[start:].lstrip(" "))
    place = text.find("\n", start) + 1
    while 0 < place < len(text):
        end = text.find("\n", place) + 1 or len(text)
        line = text[place:end]
        if line.strip() and len(line) - len(line.lstrip(" ")) <= depth and line.lstrip()[0] not in ")]}":
            return place
        place = end
    return len(text)


def _line_end(text: str, start: int, lines: int) -> int:
    end = start - 1
    for _ in range(lines):
        end = text.find("\n", end + 1)
        if end < 0:
            return len(text)
    return end


def _infill_tokens(tokenizer: Tokenizer) -> InfillTokens:
    assert tokenizer.infill is not None, "the pocket model's tokenizer has the four infill tokens"
    return tokenizer.infill
