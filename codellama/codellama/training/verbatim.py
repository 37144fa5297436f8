"""Verbatim memory: `python -m codellama.training.verbatim --model DIR --corpus runs/corpus.jsonl.xz`.

Lets a model go on in held-out files, greedily, and looks for what it says in the corpus, white space
aside: how many completions of over 50 tokens stand there word for word, and the longest such run.
"""

import argparse
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

from codellama.runtime.load import load_engine
from codellama.runtime.records import InfillRequest
from codellama.training import corpus

_TOKENS = 96
_LONG = 50  # tokens of a completion that counts
_BEFORE = 1_500


class Memory:
    """A corpus to look texts up in, white space aside."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._text = "\0".join(_bare(text) for text in texts)

    def holds(self, text: str) -> bool:
        """Whether the whole text stands somewhere in one file."""
        return _bare(text) in self._text

    def longest(self, text: str) -> str:
        """The longest run of the text's words, from its beginning, that stands somewhere."""
        words = _bare(text).split(" ")
        known, unknown = 0, len(words) + 1
        while unknown - known > 1:
            middle = (known + unknown) // 2
            if " ".join(words[:middle]) in self._text:
                known = middle
            else:
                unknown = middle
        return " ".join(words[:known])


def _bare(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def main() -> None:
    """Asks at seeded places of the held-out files and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--corpus", type=Path, required=True, help="held-out.jsonl.xz lies beside it")
    parser.add_argument("--limit", type=int, default=200)
    arguments = parser.parse_args()
    memory = Memory(file.text for file in corpus.read(arguments.corpus))
    held_out = corpus.read(arguments.corpus.with_name("held-out.jsonl.xz"))
    engine = load_engine(arguments.model, quantize="auto")
    chance = random.Random(0)  # noqa: S311 - seeded places, not a secret
    long, copied, longest = 0, 0, ""
    for _ in range(arguments.limit):
        text = chance.choice(held_out).text
        place = text.rfind("\n", 0, chance.randrange(len(text)) + 1) + 1
        before = text[max(0, place - _BEFORE) : place]
        result = engine.run(InfillRequest(before, "", max_tokens=_TOKENS))
        longest = max(longest, memory.longest(result.text), key=len)
        if result.stats.tokens > _LONG:
            long += 1
            copied += memory.holds(result.text)
    report = {"asked": arguments.limit, "over_50_tokens": long, "word_for_word": copied, "longest": longest}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
