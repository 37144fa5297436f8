"""What is done to a completion before it is shown, filter by filter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.assist import filters
from codellama.assist.context import (
    BLOCK_LINES,
    PREFIX_LINES,
    SUFFIX_LINES,
    allowed,
    merged,
    refused,
    windows,
)
from codellama_index.records import OpenDocument, Snippet

TABLE = [
    # filter, text, prefix, suffix, expected
    ("stop_at_control_pieces", "x = 1 <EOT> more", "", "", "x = 1"),
    ("stop_at_control_pieces", "a<|eot|>b", "", "", "a"),
    ("strip_escapes", "a\x1b[31mb\x1b]0;t\x07c\x00\td\n", "", "", "abc\td\n"),
    ("strip_escapes", "\x1b]0;unended\nrest \x9b2Jx \x90q\x9c.", "", "", "0;unended\nrest x ."),
    ("strip_escapes", "a\r\nb\x1b", "", "", "a\nb"),
    ("drop_repeated_line_above", "return x", "    return x\n", "", ""),
    ("drop_repeated_line_above", "return x", "    return y\n", "", "return x"),
    ("drop_repeated_line_above", "return x", "return x\n  if a: ", "", "return x"),
    ("cut_repetition", "foo(bar)\nfoo(bar)\nfoo(bar)", "", "", "foo(bar)\nfoo(bar)"),
    ("cut_repetition", "long_call(1)\nlong_call(1)\nx", "", "", "long_call(1)"),
    ("cut_repetition", "x = 2/2/2/2/2/2/2/2/", "", "", "x = "),
    ("cut_repetition", "# ----------------", "", "", "# ----------------"),
    ("cut_at_path_header", "x = 1\n# Path: a.py\nimport b", "", "", "x = 1\n"),
    ("cut_at_path_header", "// Path: a.go", "\n    ", "", ""),
    ("cut_at_path_header", "# Path: of the file", "x = 1  ", "", "# Path: of the file"),
    ("cut_at_suffix", "a = 1\nreturn a\nb", "", "\nreturn a\n", "a = 1"),
    ("cut_at_suffix", "return a\nb", "    ", "\n    return a\n", ""),
    ("cut_at_suffix", "  a();\n  }\n  b();\n}", "{\n", "\n}\n", "  a();\n  }\n  b();"),
    ("cut_at_suffix", "a;\n}\nfunc g() {", "    ", "\n\n}\n", "a;"),
    ("drop_duplicate_closers", "b)\ncall()", "f(a, ", ")", "b"),
    ("drop_duplicate_closers", "b))", "f(g(a, ", ")", "b)"),
    ("drop_duplicate_closers", "g(h(a))", "f(k(", "))", "g(h(a))"),
    ("drop_duplicate_closers", "b\n)", "    x, ", ")", "b\n"),
    ("drop_duplicate_closers", 'abc"', 'x = "', '"', "abc"),
    ("drop_duplicate_closers", 'abc" + "d', 'x = "', '"', 'abc" + "d'),
    ("drop_duplicate_closers", "x = 1;", "", ";", "x = 1"),
    ("drop_duplicate_closers", "1 + x", "y = ", "+ x", "1 "),
    ("drop_duplicate_closers", "a, b)", "f(", ")", "a, b"),
    ("drop_duplicate_closers", "g(a)", "f(", ")", "g(a)"),
    ("drop_duplicate_closers", "a, b):", "def f(", "):", "a, b"),
    ("cut_at_scope_end", "x\n    y\nz", "    ", "", "x\n    y"),
    ("cut_at_scope_end", "[\n1\n]", "    a = ", "", "["),
    ("stop_at_control_pieces", "x<|fim_middle|>y", "", "", "x"),
    ("stop_at_control_pieces", "x</s>", "", "", "x"),
    ("stop_at_control_pieces", "x [INST] do", "", "", "x "),
    ("stop_at_control_pieces", "x<\uff5cfim_end\uff5c>", "", "", "x"),
    ("stop_at_control_pieces", "a[INSTANCE] < s > b", "", "", "a[INSTANCE] < s > b"),
    ("cut_repetition", "a()\nb()\na()\nb()\nc()", "", "", "a()\nb()"),
    ("cut_repetition", "a()\nb()\na()\nc()", "", "", "a()\nb()\na()\nc()"),
    ("fit_indentation", "    return x", "def f():\n    ", "", "return x"),
    ("fit_indentation", "    return x", "if a:\n    b\n    if c:\n    ", "", "    return x"),
    ("fit_indentation", "x:\n\treturn", "def f():\n    a\n    if ", "", "x:\n    return"),
    ("fit_indentation", "{\n        x\n", "f {\n\ta {\n\t\tb\n\tif c ", "", "{\n\t\tx\n"),
    ("fit_indentation", "x,\n    y", "f(", "", "x,\n    y"),
    ("drop_bare_comments", "#", "x = 1\n", "", ""),
    ("drop_bare_comments", "a()\n    # \n", "    ", "", "a()"),
    ("drop_bare_comments", "a()\n// more", "    ", "", "a()\n// more"),
    ("drop_bare_comments", "# why", "", "", "# why"),
    ("balance_brackets", "a[0)]", "f(", "", "a[0"),
    ("balance_brackets", "a), b]", "f(g(", "", "a), b"),
    ("balance_brackets", "a])", "f([", "", "a])"),
    ("balance_brackets", "')', b)", "f(", "", "')', b)"),
    ("balance_brackets", "}", "    ", "", "}"),
    ("balance_brackets", ") or]", 'x = "', "", ") or]"),
    ("trim_end", "x \n  ", "", "", "x"),
    ("trim_end", " \n\t", "", "", ""),
]


@pytest.mark.parametrize(("name", "text", "prefix", "suffix", "expected"), TABLE)
def test_each_filter(name: str, text: str, prefix: str, suffix: str, expected: str) -> None:
    """The table says what each filter does, and what it leaves alone."""
    assert getattr(filters, name)(text, prefix, suffix) == expected


def test_what_changed_is_told() -> None:
    """`apply` names the filters that had an effect, in their order."""
    assert filters.apply("a)<EOT>  ", "f(", ")") == (
        "a",
        ("stop_at_control_pieces", "drop_duplicate_closers"),
    )
    assert filters.apply("clean", "", "") == ("clean", ())


@given(st.text(), st.text(), st.text())
def test_filters_only_take_away(text: str, prefix: str, suffix: str) -> None:
    """Whatever comes in, what is shown begins it but for white space, without escapes."""
    shown, _ = filters.apply(text, prefix, suffix)
    assert shown == shown.rstrip()
    assert "\x1b" not in shown
    assert "".join(filters.strip_escapes(text).split()).startswith("".join(shown.split()))


@pytest.mark.parametrize(
    ("text", "prefix", "trifle"),
    [
        ("", "x", True),
        ("1", "x = ", True),
        ("n:", "if ", True),
        ("rn", "    retu", False),
        (")", "f(x", False),
        ("):", "def f(x", False),
        ("self", "", False),
    ],
)
def test_what_is_typed_sooner_than_read_is_a_trifle(text: str, prefix: str, trifle: bool) -> None:
    """Under four characters, but for what ends a word or closes what is open."""
    assert filters.is_trifle(text, prefix, "") == trifle


def test_lines_are_cut_where_a_limit_cut_them() -> None:
    """One line where one is wanted; no half line after whole ones, but half a line before nothing."""
    assert filters.one_line("a\nb") == "a"
    assert filters.whole_lines("a\nb\nc") == "a\nb"
    assert filters.whole_lines("a") == "a"


@given(st.integers(0, 3000), st.integers(0, 60))
def test_windows_snap_to_blocks(lines: int, column: int) -> None:
    """The prefix begins, and the suffix ends, at a multiple of 64 lines; both join at the cursor."""
    text = "".join(f"line {n}\n" for n in range(3000))
    offset = len("".join(f"line {n}\n" for n in range(lines))) + min(column, 5 if lines < 3000 else 0)
    prefix, suffix = windows(text, offset)
    assert prefix + suffix in text
    assert text.index(prefix + suffix) == 0 or (lines - prefix.count("\n")) % BLOCK_LINES == 0
    assert prefix.count("\n") <= PREFIX_LINES
    assert suffix.count("\n") <= SUFFIX_LINES


@given(st.integers(0, 400), st.integers(0, 20_000), st.sampled_from(["äb\n", "x" * 50 + "\n", "😋"]))
def test_windows_stay_within_their_bytes(lines: int, most: int, line: str) -> None:
    """However long the lines are, no more is sent than may be, and it is what stands around the cursor."""
    text = line * 400
    offset = len((line * lines).encode())
    prefix, suffix = windows(text, offset, most)
    assert len(prefix.encode()) + len(suffix.encode()) <= most
    assert (line * lines).endswith(prefix)
    assert (line * (400 - lines)).startswith(suffix)


def test_files_with_secrets_are_refused() -> None:
    """By name and by content; examples of such files and ordinary ones are not."""
    key = "-----BEGIN PRIVATE KEY-----\n" + "A" * 64
    assert refused(".env", "A=1")
    assert refused("deploy/server.pem", "")
    assert refused("notes.py", key)
    assert not refused(".env.example", "A=1")
    assert not refused("app.py", "x = 1")
    documents = [OpenDocument(".env", "A=1"), OpenDocument("a.py", "x"), OpenDocument("b.py", key)]
    assert allowed(documents) == (documents[1],)


def test_snippets_are_merged_in_a_stable_order() -> None:
    """The best that fit, sorted by place; of two that overlap the better one."""
    index = [
        Snippet("b.py", 1, 5, "b" * 10, 2.0, "defines b"),
        Snippet("c.py", 1, 5, "c" * 10, 0.5, "similar"),
    ]
    edits = [Snippet("a.py", 1, 5, "a" * 10, 1.0, "edited"), Snippet("b.py", 4, 9, "x" * 10, 1.0, "edited")]
    assert [s.path for s in merged(index, edits, 20)] == ["a.py", "b.py"]
    assert [s.path for s in merged(index, edits, 100)] == ["a.py", "b.py", "c.py"]
    assert merged(index, edits, 100)[1].score == 2.0


@given(st.lists(st.text("\x1b\x9b\x90\x9c[]Pm;\\\x07\na0 ", max_size=6), max_size=8))
def test_a_stream_is_stripped_as_its_whole(pieces: list[str]) -> None:
    """However an answer is cut into pieces, what was shown so far begins what is shown in the end."""
    whole = filters.strip_escapes("".join(pieces))
    text = ""
    for piece in pieces:
        text += piece
        assert whole.startswith(filters.strip_escapes(filters.settled(text)))
    assert not set(whole) & set("\x1b\x9b\x90\x9c\x07")
