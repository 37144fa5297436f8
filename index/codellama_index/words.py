"""Text to the words that are searched: identifiers in their parts, lower case. Pure.

`parseHTTPHeader_v2` is the four words parse, http, header, v2. The same splitting serves what is stored
and what is asked, so that a change here changes the index's version (see `schema`).
"""

import re

_PART = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+|[^\W\d_A-Za-z]+")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")

# The commonest words of code: they tell nothing about a passage and would make up a third of the index.
_COMMON = frozenset(
    """and as bool const def elif else end false fi fn for func if in int is let mut nil none not null of
    or pub return self str string the then this to true var""".split()  # noqa: SIM905 - reads better
)

# Words that a question is made of and that code is not about.
STOP_WORDS = _COMMON | frozenset(
    """a about actually all an any are at be been being both but by called can code codebase could did do
    does doing done each every exactly file files find for from get gets give had happen happening
    happens has have here how i implemented implementation into it its let lives located look made make
    makes me my one only onto our out place project repo repository responsible should show so some
    somewhere source tell than that their them there these they those through under up us use used uses
    using was way we were what when where which while who whose why will with work works would you
    your""".split()  # noqa: SIM905 - reads better
)

# What a question asks about a thing, not the thing: searched for, but no reason of its own.
WEAK_WORDS = frozenset(
    """applied chosen class computed constant contain controlled decide decided declared define defined
    definition determined function handle handled handles kept method module performed set stored
    variable""".split()  # noqa: SIM905 - reads better
)


def parts(identifier: str) -> list[str]:
    """The words of one identifier, lower case, in order."""
    return [part.lower() for part in _PART.findall(identifier)]


def identifiers(text: str) -> list[str]:
    """The identifiers and words of a text, as written, in order."""
    return _IDENTIFIER.findall(text)


def searchable(text: str) -> str:
    """The words to index for a text, in order, without the commonest and single letters."""
    return " ".join(
        part for part in map(str.lower, _PART.findall(text)) if len(part) > 1 and part not in _COMMON
    )


def query_terms(text: str) -> list[str]:
    """The distinct words of a question that are worth searching; the weak ones only if no other is."""
    seen = dict.fromkeys(word for word in parts(text) if len(word) > 1)
    content = [word for word in seen if word not in STOP_WORDS]
    strong = [word for word in content if word not in WEAK_WORDS]
    return strong or content or [word for word in seen if word not in _COMMON]
