"""The pocket model's corpus: `python -m codellama.training.corpus --cache DIR --out corpus.jsonl.xz`.

Fetches the pinned packages, keeps what may and should be learned from, leaves out the packages that are
held back for measuring, puts plain and documented files first where a package gives more than its
share, adds the exercises, and packs the result: one JSON line a file, xz, under 50 MiB. Beside it
`corpus.json` records every package's version, licence and bytes.
"""

import argparse
import json
import lzma
import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

from codellama.training.exercises import exercises
from codellama.training.packages import Package, fetch, read_packages, standard_library
from codellama.training.screening import Bands, Benchmark, NearDuplicates, bands, usable_text

PACKAGE_BYTES = 2_500_000
STANDARD_LIBRARY_BYTES = 10_000_000
EXERCISES = 12_000  # files, of a kilobyte each
# Packages held back for measuring: eight of 15 to 120 usable Python files, drawn by seed 0 from the first
# corpus, and held back ever since, so that figures can be compared.
HELD_OUT = frozenset(
    ("SCons", "markdown-it-py", "nibabel", "pyramid", "python-pptx", "returns", "svgwrite", "trimesh")
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One training file: its package, its path in the package, its text."""

    package: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files to train on, the held-out packages' files, and what is recorded of every package."""

    train: list[SourceFile]
    held_out: list[SourceFile]
    facts: dict[str, dict[str, str | int | bool]]


def build(packages: Iterable[Package], benchmark: Benchmark, seed: int = 0, processes: int = 1) -> Corpus:
    """Screens every package, several at once in `processes`; the seed orders the files."""
    chance = random.Random(seed)  # noqa: S311 - a seeded order, not a secret
    copies = NearDuplicates()
    kept: dict[str, list[SourceFile]] = {}
    facts: dict[str, dict[str, str | int | bool]] = {}
    with get_context("fork").Pool(processes) as pool:
        for package, usable in pool.imap(partial(_screened, benchmark), packages, chunksize=4):
            files = _plainest(package.name, usable, copies)
            if not files or package.name in kept:
                continue
            kept[package.name] = files
            taken = sum(len(f.text.encode()) for f in files)
            facts[package.name] = {"version": package.version, "licence": package.licence, "bytes": taken}
    held = HELD_OUT & kept.keys()
    for name in held:
        facts[name]["held_out"] = True
    train = [file for name, files in kept.items() if name not in held for file in files]
    train += [
        SourceFile("exercises", path, text)
        for path, text in exercises(EXERCISES, seed)
        if not benchmark.overlaps(text)
    ]
    chance.shuffle(train)
    return Corpus(train, [file for name in sorted(held) for file in kept[name]], facts)


def plainness(text: str) -> float:
    """How much a file looks like short, documented functions: what a small model can learn from.

    Documented functions and doctest examples a kilobyte, less what is indented deeply.
    """
    kilobytes = len(text) / 1000
    documented = len(re.findall(r'(?:\)|\])[^\n]*:\n\s+[rR]?"""', text)) + text.count("/**")
    examples = text.count(">>> ")
    deep = len(re.findall(r"^ {16,}\S", text, re.M)) / (text.count("\n") + 1)
    return (documented + min(examples, 10) / 4) / (kilobytes + 1) - deep


def write(files: list[SourceFile], path: Path) -> None:
    """Packs files, one JSON line each."""
    with lzma.open(path, "wt", preset=9, encoding="utf-8") as out:
        out.writelines(json.dumps([f.package, f.path, f.text]) + "\n" for f in files)


def read(path: Path) -> list[SourceFile]:
    """The files of a packed corpus, in its order."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [SourceFile(*json.loads(line)) for line in file]


# A file that may be learned from: its path, its text, and what its near-copies are known by.
_Usable = tuple[str, str, Bands]


def _screened(benchmark: Benchmark, package: Package) -> tuple[Package, list[_Usable]]:
    """The package without its files' bytes, and its usable files, the plainest first."""
    usable = [(name, text) for name, content in package.files if (text := usable_text(name, content))]
    usable.sort(key=lambda entry: (-plainness(entry[1]), entry[0]))
    room = 2 * _room(package.name)  # some will turn out to be copies
    found = []
    for name, text in usable:
        room -= len(text)
        if room < 0:
            break
        if not benchmark.overlaps(text):
            found.append((name, text, bands(text)))
    return replace(package, files=()), found


def _plainest(package: str, usable: list[_Usable], copies: NearDuplicates) -> list[SourceFile]:
    """The first files, up to the package's share, of which no near-copy was taken."""
    room = _room(package)
    files = []
    for name, text, known_by in usable:
        if len(text) <= room and not copies.seen(known_by):
            room -= len(text)
            files.append(SourceFile(package, name, text))
    return files


def _room(package: str) -> int:
    return STANDARD_LIBRARY_BYTES if package == "python" else PACKAGE_BYTES


def main() -> None:
    """Builds the corpus and its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where the packages' archives are kept")
    parser.add_argument("--out", type=Path, required=True, help="the packed corpus, named *.jsonl.xz")
    parser.add_argument("--benchmark", type=Path, default=Path("../shared/data/human-eval-infilling"))
    parser.add_argument("--offline", action="store_true", help="read the cache as it is")
    arguments = parser.parse_args()
    if not arguments.offline:
        fetch(arguments.cache)
    packages = chain([standard_library()], read_packages(arguments.cache))
    benchmark = Benchmark.human_eval(arguments.benchmark)
    corpus = build(packages, benchmark, processes=os.cpu_count() or 1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write(corpus.train, arguments.out)
    write(corpus.held_out, arguments.out.with_name("held-out.jsonl.xz"))
    record = json.dumps(corpus.facts, indent=1, sort_keys=True) + "\n"
    arguments.out.with_name("corpus.json").write_text(record, encoding="utf-8")
    size = sum(len(f.text) for f in corpus.train) / 1e6
    print(f"{len(corpus.train)} files, {size:.1f} MB; packed {arguments.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
