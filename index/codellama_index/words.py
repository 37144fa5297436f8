"""Text to the words that are searched: identifiers whole and in their parts, lower case. Pure."""

import re

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d+|[^\W\d_]+")
_ENDINGS = ("ations", "ation", "ings", "ing", "ions", "ion", "ers", "er", "ed", "es", "s")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")

# Words that a question is made of and code is not about.
STOP_WORDS = frozenset(
    """a about all an and any are as at be been being by can could did do does done each every find for
    from get gets give had happen happens has have here how i if in into is it its let like made make makes
    me my of on one or our out should show so some tell than that the their them then there these they
    this those through to us use used uses using was we what when where which who why will with work works
    would you your decided defined located implemented handled place code file files function class
    method""".split()  # noqa: SIM905 - a list of quoted words is harder to read
)


def parts(identifier: str) -> list[str]:
    """`parseHTTPHeader_v2` to parse, http, header, v, 2."""
    return [part.lower() for part in _PART.findall(identifier)]


def identifiers(text: str) -> list[str]:
    """The identifiers and words of a text, as written, in order."""
    return _IDENTIFIER.findall(text)


def searchable(text: str) -> str:
    """The words to index for a text: each identifier's parts, and the whole where it has several."""
    words: list[str] = []
    for identifier in identifiers(text):
        split = parts(identifier)
        words += split
        # The tokenizer would part snake_case again and count its parts twice.
        if len(split) > 1 and "_" not in identifier.strip("_"):
            words.append(identifier.lower().strip("_"))
    return " ".join(words)


def stem(word: str) -> str:
    """A light stem, lower case, enough to let `ignored` meet `ignores` where no full-text index does it."""
    word = word.lower()
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    return word.rstrip("e") if len(word) > 3 else word


def named(question: str) -> list[str]:
    """Identifiers that stand in a question as such: quoted, with an underscore, or with capitals inside."""
    quoted = [i for n, part in enumerate(question.split("`")) if n % 2 for i in identifiers(part)]
    marked = [
        i for i in identifiers(question) if "_" in i.strip("_") or (len(parts(i)) > 1 and not i.isdigit())
    ]
    return list(dict.fromkeys([*quoted, *marked]))


def query_terms(text: str) -> list[str]:
    """The distinct words of a question that are worth searching; all of them if none is."""
    seen = dict.fromkeys(searchable(text).split())
    content = [word for word in seen if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())]
    return content or list(seen)
