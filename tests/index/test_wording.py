"""What documentation says for what code says: the table, and passages found by it."""

from pathlib import Path

import pytest
from index_support import write

from codellama_index import Index, open_index
from codellama_index.wording import FIELDS, _shares, _table, likelihood, question_words, words_of

DELETING = ("purge", "", "store", "def purge(key):\n    del entries[key]\n")
READING = ("peek", "", "store", "def peek(key):\n    return entries[key]\n")


def of(question: str, code: tuple[str, str, str, str]) -> float:
    """The likelihood of a question for a name, scope, path and body."""
    return likelihood(question_words(question), [words_of(field) for field in code])


def test_documentation_uses_other_words_than_code() -> None:
    """`del` is called delete and `is_` whether, though neither word stands in the code."""
    assert of("Deletes an entry.", DELETING) > 2 * of("Deletes an entry.", READING)
    closed, close = ("is_closed", "", "", "return closed"), ("close", "", "", "closed = True")
    assert of("Whether the door is closed.", closed) > of("Whether the door is closed.", close)


def test_a_repository_s_own_words_count_for_themselves() -> None:
    """A word that the table has never seen is likely where it stands, and more so in a name."""
    body, name = ("run", "", "", "zorbify(x)"), ("zorbify", "", "", "run(x)")
    assert of("zorbify", name) > of("zorbify", body) > of("zorbify", ("run", "", "", "x")) == 1.0
    assert of("", name) == of("zorbify", ("", "", "", "")) - 1 == 0.0


def test_the_table_is_sound() -> None:
    """Shares come to one; each row has a chance and words with theirs, none of them twice."""
    shares, unsaid = _shares()
    assert len(shares) == len(FIELDS)
    assert sum(shares) + unsaid == pytest.approx(1, abs=0.005)
    for word, row in _table().items():
        if word != "#":
            chance, *pairs = row.split()
            assert 0 <= int(chance) < 1_000_000
            assert all(0 < int(p) <= 1000 for p in pairs[1::2]), word
            assert len(pairs) % 2 == 0
            assert len(set(pairs[::2])) == len(pairs) // 2, word


def first(index: Index, question: str, **signals: float) -> str:
    """The name of the definition that comes first."""
    symbol = index.retrieve(question, 5, signals)[0].symbol
    assert symbol is not None
    return symbol.name


def test_passages_are_found_by_it(tmp_path: Path) -> None:
    """Of two functions that share as many words with the question, the one comes first that it would be
    said of; and a function stands for the one inside it."""
    write(tmp_path, "store.py", f"{READING[3]}\n\n{DELETING[3]}")
    wrapping = (
        "def limited(most):\n    def wrapper(call):\n        throttle(call, most)\n    return wrapper\n"
    )
    write(tmp_path, "calls.py", wrapping)
    with open_index(tmp_path, tmp_path.parent / f"{tmp_path.name}-cache") as index:
        index.sync()
        assert first(index, "what deletes a key of the entries?", text=1.0) == "peek"
        assert first(index, "what deletes a key of the entries?", text=1.0, wording=3.0) == "purge"
        assert first(index, "where do we throttle a wrapper's call?", text=1.0) == "limited"
        assert [h.symbol.name for h in index.retrieve("throttle", 5) if h.symbol] == ["limited"]
