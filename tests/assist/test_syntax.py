"""One line or a block, by what the grammar says of the cursor; and what of a suggestion can stand there."""

import pytest

from codellama.assist import syntax

PLACES = [
    # path, before the cursor, after it, within, block
    ("a.py", "def f(x):", "\n", "code", True),
    ("a.py", "def f(x):\n    ", "\n\n\ndef g():\n    pass\n", "code", True),
    ("a.py", "def f(x):\n    ", "\n    return x\n", "code", False),
    ("a.py", "def f(x):\n    y = ", "\n    return x\n", "code", False),
    ("a.py", "def f(x):\n    y = g(", ")\n", "code", False),
    ("a.py", "x = f(", "", "code", True),
    ("a.py", "x = [", " + 1]\n", "code", False),
    ("a.py", "if x:  # so", "\n", "comment", False),
    ("a.py", "# a note on ", "\nx = 1\n", "comment", False),
    ("a.py", 'x = "a ', '"\n', "string", False),
    ("a.py", 'x = "a"', "\n", "code", False),
    ("a.py", 'def f():\n    """Says ', '\n    """\n    return 1\n', "string", False),
    ("a.py", "", "", "code", True),
    ("a.go", "func f() {", "\n}\n", "code", True),
    ("a.go", "func f() {\n\t", "\n}\n", "code", True),
    ("a.go", "func f() {\n\tx := 1\n\t", "\n}\n", "code", False),
    ("a.rs", "fn f() {\n    // count ", "\n}\n", "comment", False),
    ("a.ts", "const f = (x) =>", "\n", "code", True),
    ("a.lua", "if x then", "\nend\n", "code", True),
    ("notes.md", "# Title:", "\n", "code", False),
    ("notes.unknown", "x = {", "\n", "code", True),
]


@pytest.mark.parametrize(("path", "prefix", "suffix", "within", "block"), PLACES)
def test_what_is_wanted_at_a_place(path: str, prefix: str, suffix: str, within: str, block: bool) -> None:
    """A block where one begins or its body is empty, one line inside of lines, strings and comments."""
    found = syntax.surroundings(path, prefix, suffix)
    assert (found.within, found.block) == (within, block)


SUGGESTIONS = [
    # path, text, before, after, what can stand, whether any of it can
    ("a.py", "return x", "def f(x):\n    ", "\n", "return x", True),
    ("a.py", "x = 1\n    def (((\n", "def f(x):\n    ", "\n", "x = 1", True),
    ("a.py", "return ) x (", "def f(x):\n    ", "\n", "return ) x (", False),
    ("a.py", "g(", "def f(x):\n    y = 1 +* ", "\n", "g(", True),
    ("a.txt", "any ) text", "", "", "any ) text", True),
    ("a.yaml", "any: [ text", "", "", "any: [ text", True),
]


@pytest.mark.parametrize(("path", "text", "prefix", "suffix", "kept", "any_of_it"), SUGGESTIONS)
def test_what_of_a_suggestion_breaks_no_syntax(
    path: str, text: str, prefix: str, suffix: str, kept: str, any_of_it: bool
) -> None:
    """Lines that the grammar cannot read are cut from the end; a file that is broken already allows more."""
    assert syntax.sound(path, text, prefix, suffix) == (kept, any_of_it)
