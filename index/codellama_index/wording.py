"""How likely a question is, as what the documentation of a piece of code would say.

Documentation calls `del` "delete" and `is_` "whether". A translation model between words knows it (model 1
of Brown et al., Computational Linguistics 19, 1993; for retrieval Berger and Lafferty, SIGIR 1999): each
word of a question was said for a word of the code's name, scope, path or body, or for none of them,

    p(word) = unsaid * p0(word) + sum over fields of share * (mean over the field's words t of p(word | t)).

`wording.txt` holds the shares of the fields, and for each word p0 in millionths and the words t with
p(word | t) in thousandths. It was fitted to 98,148 functions of permissively licensed Python packages by
`benchmarks/wording.py`, none of them of a repository that retrieval is measured on.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files

from codellama_index.words import identifiers, parts, query_terms, stem

FIELDS = ("name", "scope", "path", "body")
_ITSELF = 0.15  # at least p(word | the same word), since the table cannot know a repository's own words
_UNKNOWN = 2e-5  # p0 of a word that the table has not


def question_words(question: str) -> list[str]:
    """The stems of the distinct words of a question that are worth asking for."""
    return list(dict.fromkeys(stem(term) for term in query_terms(question)))


def words_of(text: str) -> frozenset[str]:
    """The stems of all words and parts of identifiers in a text."""
    return frozenset().union(*map(_stems, set(identifiers(text))))


def likelihood(question: Sequence[str], fields: Sequence[frozenset[str]]) -> float:
    """How many times likelier than by chance a question's words are, each on average (geometric mean).

    `fields` are the words of code in the order of FIELDS; a field may be empty.
    """
    shares, unsaid = _shares()
    told = [(share / len(field), field) for share, field in zip(shares, fields, strict=True) if field]
    total = 0.0
    for word in question:
        chance, said_for, terms = _row(word)
        likely = 0.0
        for share, field in told:
            for term in terms & field:
                likely += share * said_for[term]
        total += math.log(1 + likely / (unsaid * chance))
    return math.exp(total / len(question)) if question else 0.0


@lru_cache(maxsize=1 << 16)
def _stems(identifier: str) -> frozenset[str]:
    return frozenset(stem(part) for part in parts(identifier) if len(part) > 1)


@lru_cache(maxsize=4096)
def _row(word: str) -> tuple[float, dict[str, float], frozenset[str]]:
    """p0 of a word, and the words of code that it is said for, with p and alone."""
    chance, *pairs = _table().get(word, "").split() or ["0"]
    terms = {term: int(p) / 1000 for term, p in zip(pairs[::2], pairs[1::2], strict=True)}
    terms[word] = max(_ITSELF, terms.get(word, 0.0))
    return int(chance) / 1e6 or _UNKNOWN, terms, frozenset(terms)


@cache
def _shares() -> tuple[tuple[float, ...], float]:
    """What each field accounts for, and what none does."""
    *shares, unsaid = (int(share) / 1000 for share in _table()["#"].split()[1::2])
    return tuple(shares), unsaid


@cache
def _table() -> dict[str, str]:
    """Rows by their word, read when they are asked for."""
    text = (files("codellama_index") / "wording.txt").read_text(encoding="utf-8")
    return {word: rest for word, _, rest in (line.partition(" ") for line in text.splitlines())}
