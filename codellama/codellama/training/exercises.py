"""Exercises: short documented functions made from templates, for the plainest part of the corpus.

Packages are full of frameworks and hold few plain functions, and those are what a small model can learn.
Each exercise is a template of `exercises.txt` with a condition, a function, names and a way of writing
chosen by a seed; examples in its documentation were computed by running it. Nothing is taken from a
benchmark: `corpus` screens exercises like any other file.
"""

import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

# Phrases and expressions of {x}; {k} is a small number.
_NUMBER_TESTS = (
    *(("that are even", "{x} % 2 == 0"), ("that are odd", "{x} % 2 != 0"), ("above 0", "{x} > 0")),
    *(("below 0", "{x} < 0"), ("divisible by {k}", "{x} % {k} == 0"), ("greater than {k}", "{x} > {k}")),
    *(("of at most {k}", "{x} <= {k}"), ("other than 0", "{x} != 0"), ("from {k} to 20", "{k} <= {x} <= 20")),
)
_TEXT_TESTS = (
    *(("longer than {k} characters", "len({x}) > {k}"), ("made of digits only", "{x}.isdigit()")),
    *(("that start with a capital letter", "{x}[:1].isupper()"), ("in lower case", "{x} == {x}.lower()")),
    *(("that contain an underscore", '"_" in {x}'), ("without spaces", '" " not in {x}')),
    *(("that end with an s", '{x}.endswith("s")'), ("that start with #", '{x}.startswith("#")')),
)
_NUMBER_MAPS = (
    *(("the square", "{x} * {x}"), ("the double", "2 * {x}"), ("the absolute value", "abs({x})")),
    *(("the sum with {k}", "{x} + {k}"), ("the remainder by {k}", "{x} % {k}"), ("the half", "{x} / 2")),
    *(("the negation", "-{x}"), ("the cube", "{x} ** 3"), ("the maximum with {k}", "max({x}, {k})")),
)
_TEXT_MAPS = (
    *(("the upper case", "{x}.upper()"), ("the lower case", "{x}.lower()"), ("the length", "len({x})")),
    *(
        ("the stripped text", "{x}.strip()"),
        ("the reverse", "{x}[::-1]"),
        ("the first {k} letters", "{x}[:{k}]"),
    ),
    *(("the last letter", "{x}[-1:]"), ("the dashed text", '{x}.replace(" ", "-")')),
)
_NUMBERS = (
    *("items", "values", "numbers", "data", "elements", "samples", "scores", "sizes", "costs", "nums"),
    *("prices", "heights", "grades", "points"),
)
_TEXTS = (
    "words",
    "names",
    "lines",
    "texts",
    "labels",
    "keys",
    "paths",
    "tokens",
    "titles",
    "tags",
    "strings",
)
# What a template's name may become; the first is its own.
_NAMES = {
    "out": ("out", "result", "result", "found", "output", "res", "collected", "answer"),
    "count": ("count", "count", "n", "counter", "matches", "number"),
    "total": ("total", "total", "result", "acc", "amount"),
    "best": ("best", "largest", "current", "chosen", "candidate"),
    "counts": ("counts", "tally", "histogram", "frequencies", "result"),
    "groups": ("groups", "grouped", "buckets", "result"),
    "mapping": ("mapping", "scores", "prices", "ages", "table", "stock", "d"),
    "left": ("left", "first", "a", "xs", "old", "list1"),
    "right": ("right", "second", "b", "ys", "new", "list2"),
    "target": ("target", "goal", "wanted", "k"),
    "size": ("size", "width", "length", "step", "k"),
    "text": ("text", "line", "string", "s", "message", "sentence"),
    "char": ("char", "c", "letter", "ch"),
    "rows": ("rows", "matrix", "grid", "table"),
    "pairs": ("pairs", "result", "found"),
    "n": ("n", "number", "value", "num"),
    "parts": ("parts", "pieces", "result"),
}
_WORDS = (
    "alpha",
    "Beta",
    "gamma_ray",
    "delta",
    "42",
    "red apples",
    "#tag",
    "Oslo",
    "x",
    "tokens",
    "sum",
    "left",
)
_PARAMETER = re.compile(r"(\w+): ((?:list|dict|tuple)\[.*?\]+|int|str)(?=[,)])")


def exercises(files: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """The paths and texts of `files` files of a few functions each."""
    for number in range(files):
        writer = _Writer(random.Random(f"{seed}/{number}"))  # noqa: S311 - seeded, not a secret
        yield f"exercises/part_{number:05}.py", writer.file()


@cache
def _templates() -> tuple[str, ...]:
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return tuple(part.strip() for part in text.split("\n\n\n")[1:])


class _Writer:
    """Writes one file's functions in one style."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.typed, self.examples = chance.random() < 0.5, chance.random() < 0.6

    def file(self) -> str:
        """Two to six different functions."""
        made: dict[str, str] = {}
        for template in self.chance.sample(_templates(), self.chance.randint(2, 6)):
            text = self.written(self.filled(template))
            made.setdefault(text.partition("(")[0], text)
        return "\n\n".join(made.values())

    def filled(self, template: str) -> str:
        """The template with types, conditions and names in their places."""
        numbers = "list[T]" not in template or self.chance.random() < 0.5
        k = self.chance.randint(2, 9)
        test = self.chance.choice(_NUMBER_TESTS if numbers else _TEXT_TESTS)
        function = self.chance.choice(_NUMBER_MAPS if numbers else _TEXT_MAPS)
        # Names first, so that none is found in what is put in their midst.
        text = self.renamed(template, _NUMBERS if numbers else _TEXTS)
        for mark, (words, code) in (("TEST", test), ("MAP", function)):
            said, done = words.replace("{k}", str(k)), code.replace("{k}", str(k))
            text = text.replace(f"{mark}_WORDS", said).replace(f"{mark}_NAME", _slug(said))
            for found in set(re.findall(rf"{mark}\((\w+)\)", text)):
                text = text.replace(f"{mark}({found})", done.replace("{x}", found))
        text = re.sub(r"\bT\b", "int" if numbers else "str", text)
        return re.sub(r"\bK\b|(?<=_)K(?=\()", str(k), text)

    def renamed(self, template: str, lists: Sequence[str]) -> str:
        """The template with other names; two that would become one keep their own."""
        names = {name: self.chance.choice(others) for name, others in _NAMES.items()}
        names["items"] = self.chance.choice(lists)
        one = {"data": "number"}.get(names["items"], names["items"].removesuffix("s"))
        names["item"] = self.chance.choice((one, one, "item", "x", "value", "element"))
        used = set(re.findall(r"\w+", template))
        new = {name: other for name, other in names.items() if name in used and other not in used}
        taken = [*new.values()]
        new = {name: other for name, other in new.items() if taken.count(other) == 1}
        return re.sub(r"(?<![.\w])\w+", lambda found: new.get(found[0], found[0]), template)

    def written(self, text: str) -> str:
        """The function with its documentation, and an example where that can be computed."""
        comment, code = text.split("\n", 1)
        head, body = code.split("\n", 1)
        parameters = dict(_PARAMETER.findall(head))
        name = head[4 : head.index("(")]
        doc = comment.removeprefix("# ")
        example = self.example(code, name, [*parameters.values()]) if self.examples else ""
        doc = f'    """{doc}\n\n{example}\n    """' if example else f'    """{doc}"""'
        if not self.typed:
            head = f"def {name}({', '.join(parameters)}):"
        return f"{head}\n{doc}\n{body}\n"

    def example(self, code: str, name: str, kinds: Sequence[str]) -> str:
        """A call and what it gives, as doctest has it; nothing where it fails, gives None or is long."""
        arguments = ", ".join(repr(self.value(kind)) for kind in kinds)
        scope: dict[str, object] = {}
        exec(code, scope)  # noqa: S102 - our own templates
        try:
            given = eval(f"{name}({arguments})", scope)  # noqa: S307 - our own templates
        except (ArithmeticError, LookupError, ValueError, TypeError):
            return ""
        if given is None or len(arguments) + len(repr(given)) > 110:
            return ""
        return f"    >>> {name}({arguments})\n    {given!r}"

    def value(self, kind: str) -> object:
        """An argument of a type."""
        chance = self.chance
        if kind == "int":
            return chance.randint(1, 12)
        if kind == "str":
            return " ".join(chance.sample(_WORDS, chance.randint(1, 3)))
        if kind.startswith("dict"):
            return {word: chance.randint(-9, 30) for word in chance.sample(_WORDS, 3)}
        if kind == "list[list[int]]":
            return [[chance.randint(0, 9) for _ in range(3)] for _ in range(3)]
        if kind == "list[str]":
            return chance.sample(_WORDS, chance.randint(2, 5))
        return [chance.randint(-9, 30) for _ in range(chance.randint(3, 6))]


def _slug(words: str) -> str:
    """Words as part of a name."""
    kept = re.findall(r"[a-z0-9]+", words.lower())
    return "_".join(word for word in kept if word not in ("the", "of", "a", "an", "that", "are", "with"))
