"""Fits index/codellama_index/wording.txt: which words documentation uses for which words of code.

    python -m benchmarks.wording CACHE

CACHE is the folder of archives that `codellama.training.packages` fetches. Learned from are the documented
functions of its permissively licensed packages, at most 500 of each; what the benchmarks of retrieval
measure on is left out, with what belongs to it. The model and its use: see `codellama_index.wording`. It is
fitted by expectation maximisation (Brown et al., Computational Linguistics 19, 1993).
"""

import argparse
import ast
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codellama.training.packages import Package, read_packages
from codellama_index.rank import is_secondary
from codellama_index.wording import FIELDS, question_words, words_of

OUT = Path(__file__).resolve().parents[1] / "index" / "codellama_index" / "wording.txt"
MEASURED = re.compile(
    r"(flask|requests|httpx|httpcore|click|jinja2|werkzeug|scrapy|celery|kombu|poetry|mypy|pylint|sphinx"
    r"|fastapi|twisted|sympy|astropy|wagtail|ansible|nova|neutron|keystone|cinder|oslo|tox)",
    re.I,
)
PER_PACKAGE = 500
_BYTES = 3_000_000  # read of a package
_LARGEST_FILE = 300_000
_MIN_WORDS = 4
_MIN_USES = 15  # of a word
_ROUNDS = 8
_UNSAID = 0.2  # share of the words that nothing of the definition accounts for
_BUT_RARE = 5  # uses that are taken from a word of code, since rare ones seem to mean too much
_LEAST = 0.02
_PACKAGES = 4  # in which a word was said for a word
_FOR_A_REASON = 0.1


@dataclass(frozen=True, slots=True)
class Documented:
    """A function's documentation and the words of its fields; `package` is a number."""

    words: tuple[str, ...]
    fields: tuple[frozenset[str], ...]
    package: int


def functions(package: Package, number: int) -> list[Documented]:
    """Up to PER_PACKAGE of its documented functions, drawn by seed 0; a sentence counts once."""
    draw = random.Random(0)
    files = [f for f in package.files if f[0].endswith(".py") and not is_secondary(f[0])]
    draw.shuffle(files)
    found: dict[str, Documented] = {}
    read = 0
    for path, content in files:
        if len(found) > PER_PACKAGE or read > _BYTES:
            break
        read += len(content)
        if len(content) <= _LARGEST_FILE:
            found |= dict(_documented(path.partition("/")[2], content, number))
    kept = [found[said] for said in sorted(found)]
    draw.shuffle(kept)
    return kept[:PER_PACKAGE]


def _documented(path: str, content: bytes, number: int) -> Iterator[tuple[str, Documented]]:
    try:
        text = content.decode()
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = text.split("\n")
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        around, scope = waiting.pop()
        for node in ast.iter_child_nodes(around):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            waiting.append((node, f"{scope}.{node.name}"))
            said = ast.get_docstring(node)
            first = node.body[0]
            if isinstance(node, ast.ClassDef) or said is None or first.lineno <= node.lineno:
                continue
            said = " ".join(said.split("\n\n")[0].split())
            if len(said.split()) >= _MIN_WORDS:
                begin = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                rest = lines[first.end_lineno : node.end_lineno][:60]
                body = "\n".join([*lines[begin - 1 : first.lineno - 1], *rest])
                fields = tuple(map(words_of, (node.name, scope, path.rpartition(".")[0], body)))
                yield said, Documented(tuple(question_words(said)), fields, number)


def fit(pairs: list[Documented]) -> str:
    """The table as text; see `codellama_index.wording`."""
    words = _frequent(word for pair in pairs for word in pair.words)
    terms = _frequent(word for pair in pairs for word in frozenset[str]().union(*pair.fields))
    uses = Counter(word for pair in pairs for word in pair.words)
    background = np.array([uses[word] for word in words]) / sum(uses.values())
    cells = _cells(pairs, words, terms)
    names, code = np.array(list(words)), np.array(list(terms))
    term, word = cells.kinds // len(words), cells.kinds % len(words)
    chance = background[word] + 0.2 * (code[term] == names[word])
    weight = np.full(len(FIELDS), (1 - _UNSAID) / len(FIELDS))
    reason = np.zeros(len(cells.kind))
    for n in range(_ROUNDS):
        reason = weight[cells.field] * cells.share * chance[cells.kind]
        whole = np.bincount(cells.said, reason, len(cells.word)) + _UNSAID * background[cells.word]
        reason /= whole[cells.said]
        count = np.bincount(cells.kind, reason, len(cells.kinds))
        chance = count / (np.bincount(term, count, len(code))[term] + _BUT_RARE)
        weight = np.bincount(cells.field, reason, len(FIELDS))
        weight *= (1 - _UNSAID) / weight.sum()
        print(f"round {n}: {np.log(whole).mean():.4f} nats a word, fields {weight.round(3)}", flush=True)

    telling = reason > _FOR_A_REASON
    where = np.unique(np.stack([cells.kind[telling], cells.package[cells.said[telling]]]), axis=1)
    spread = np.bincount(where[0], minlength=len(cells.kinds))
    rows: dict[str, list[tuple[float, str]]] = {name: [] for name in words}
    for kind in np.flatnonzero((chance >= _LEAST) & (spread >= _PACKAGES)):
        rows[names[word[kind]]].append((-chance[kind], str(code[term[kind]])))
    head = " ".join(f"{name} {1000 * share:.0f}" for name, share in zip(FIELDS, weight, strict=True))
    lines = [f"# {head} unsaid {1000 * _UNSAID:.0f}"]
    for name, share in zip(words, background, strict=True):
        said_for = " ".join(f"{other} {-1000 * p:.0f}" for p, other in sorted(rows[name]))
        lines.append(f"{name} {1e6 * share:.0f} {said_for}".rstrip())
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Cells:
    """Each word of code that may account for a word of documentation: which of the `kinds` of such a pair
    it is, its field, its share of that, and which word said it is; of those the word and the package."""

    kinds: NDArray[np.int64]
    kind: NDArray[np.int64]
    field: NDArray[np.int8]
    share: NDArray[np.float32]
    said: NDArray[np.int32]
    word: NDArray[np.int64]
    package: NDArray[np.int64]


def _cells(pairs: list[Documented], words: dict[str, int], terms: dict[str, int]) -> _Cells:
    kinds, fields, shares, said, word, package = [], [], [], [], [], []
    for pair in pairs:
        mine = [np.array(sorted(terms[t] for t in field if t in terms), np.int64) for field in pair.fields]
        sizes = [len(field) for field in mine]
        of_field = np.repeat(np.arange(len(mine), dtype=np.int8), sizes)
        share = np.repeat(np.array([1 / max(1, size) for size in sizes], np.float32), sizes)
        for number in (words[w] for w in pair.words if w in words):
            kinds.append(np.concatenate(mine) * len(words) + number)
            fields.append(of_field)
            shares.append(share)
            said.append(np.full(len(of_field), len(word), np.int32))
            word.append(number)
            package.append(pair.package)
    distinct, kind = np.unique(np.concatenate(kinds), return_inverse=True)
    joined = (np.concatenate(fields), np.concatenate(shares), np.concatenate(said))
    return _Cells(distinct, kind, *joined, np.array(word), np.array(package))


def _frequent(found: Iterable[str]) -> dict[str, int]:
    """Numbers of the words that come often enough, in their order."""
    return {
        w: n for n, w in enumerate(sorted(w for w, count in Counter(found).items() if count >= _MIN_USES))
    }


def main() -> None:
    """Reads, fits and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    warnings.simplefilter("ignore")  # of strangers' escapes
    pairs: dict[tuple[str, ...], Documented] = {}
    count = 0
    for number, package in enumerate(read_packages(parser.parse_args().cache)):
        if not MEASURED.match(package.name):
            count += 1
            for pair in functions(package, number):
                pairs.setdefault(pair.words, pair)
    print(f"{len(pairs)} functions of {count} packages")
    OUT.write_text(fit(list(pairs.values())), encoding="utf-8")


if __name__ == "__main__":
    main()
