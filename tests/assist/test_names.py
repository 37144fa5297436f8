"""Names in a suggestion that exist nowhere: a doubt, found with the real index."""

import pytest

from codellama.assist.names import unknown
from codellama_index import Index

CASES = [
    # text, before, after, unknown
    ("retry_delay(n)", "from retry import retry_delay\nx = ", "", ()),
    ("retry_dalay(n)", "x = ", "", ("retry_dalay",)),
    ("fetch(url).decode()", "x = ", "", ()),
    ("self.nothing_such()", "    ", "", ("nothing_such",)),
    ("lay(n)", "x = retry_de", "", ()),
    ("lai(n)", "x = retry_de", "", ("retry_delai",)),
    ("helper(1)", "def helper(x): ...\n", "", ()),
    ("later(1)", "x = ", "\ndef later(): ...\n", ()),
    ("def fresh(a):\n    return fresh(a - 1)", "", "", ()),
    ('print("nobody_knows(this)")', "", "", ()),
    ("len(sorted(x))", "", "", ()),
    ("gx\n", "    self.conf", "", ("confgx",)),
    ("confgx", "    self.", "", ("confgx",)),
    ("ry_delay(n)", "    self.ret", "", ()),
    ("retry_da", "x = ", "lay(n)", ("retry_dalay",)),
    ("try_de", "x = re", "lay(n)", ()),
    ("retry_dalay", "x = ", "(n)", ("retry_dalay",)),
    ("(retry_dalay(1))", "x = retry_dalay", "", ()),
    ("_dalay(n)", "from retry import retry\nx = retry", "", ("retry_dalay",)),
    ("ody_knows(this)", '    print("nob', '")', ()),
    ("ody_knows(this)}", '    print(f"{nob', '")', ("nobody_knows",)),
    ("retry_dalay(n)", "x = y // ", "", ("retry_dalay",)),
]


@pytest.mark.parametrize(("text", "prefix", "suffix", "expected"), CASES)
def test_names_that_exist_nowhere(
    index: Index, text: str, prefix: str, suffix: str, expected: tuple[str, ...]
) -> None:
    """Not in the file, not in the repository, not in the language; a word counts as a whole, with the dot or
    bracket beside it, wherever in it the cursor stands."""
    assert unknown("new.py", text, prefix, suffix, index) == expected


def test_without_an_index_nothing_is_unknown() -> None:
    """Nobody could say so."""
    assert unknown("new.py", "nobody_knows(1)", "", "", None) == ()
