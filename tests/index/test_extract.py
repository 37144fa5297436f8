"""What is read out of source text, language by language."""

import time
from pathlib import Path

import pytest
from conftest import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_index import captures as captures_module
from codellama_index.extract import CHUNK_LINES, Extract, decode, extract
from codellama_index.languages import languages

SAMPLES = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[1] / "data" / "extract").glob("sample.*"))
    if path.suffix != ".txt"
}
# What the samples call their locals and parameters.
LOCALS = {"local", "local_too", "hidden", "parameter", "force", "item"}


def outline(found: Extract) -> str:
    rows = [
        f"{s.line}:{s.start_line}-{s.end_line} {s.kind} {s.scope}|{s.name}"
        f" :: {s.signature} :: {s.docstring!r}"
        for s in found.symbols
    ]
    rows.append("imports " + " ".join(sorted(found.imports)))
    rows.append("references " + " ".join(dict.fromkeys(m.name for m in found.references)))
    rows += [f"chunk {c.start_line}-{c.end_line} {c.name}" for c in found.chunks]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", SAMPLES)
def test_symbols_of_each_language(name: str, golden: Golden) -> None:
    """Definitions with kind, scope, lines, signature and docstring; imports, references and chunks."""
    found = extract(name, SAMPLES[name])
    golden.check(f"extract/{name}.txt", outline(found))
    if name not in ("sample.json", "sample.yaml", "sample.toml"):
        assert not LOCALS & {s.name for s in found.symbols}


def test_every_language_has_a_sample() -> None:
    """No language comes without a golden outline."""
    assert len(SAMPLES) == len(languages())


@pytest.mark.parametrize("name", SAMPLES)
def test_line_breaks_do_not_matter(name: str) -> None:
    """CRLF and LF give the same symbols, at the same lines."""
    plain, windows = (extract(name, text) for text in (SAMPLES[name], SAMPLES[name].replace("\n", "\r\n")))
    assert [
        (s.line, s.end_line, s.kind, s.scope, s.name, s.signature, s.docstring) for s in windows.symbols
    ] == [(s.line, s.end_line, s.kind, s.scope, s.name, s.signature, s.docstring) for s in plain.symbols]
    assert windows.chunks == plain.chunks


def holds(found: Extract, text: str) -> None:
    """Every span lies in the text and holds what it says; chunks are in order and of bounded size."""
    source = text.encode()
    lines = text.count("\n") + 1
    for symbol in found.symbols:
        assert 1 <= symbol.start_line <= symbol.line <= symbol.end_line <= lines
        assert symbol.name.encode() in source[symbol.span.start : symbol.span.end]
    for mention in found.references:
        assert source[mention.start :].startswith(mention.name.encode())
        assert 1 <= mention.line <= lines
    for chunk in found.chunks:
        assert 1 <= chunk.start_line <= chunk.end_line <= lines
        assert chunk.end_line - chunk.start_line < CHUNK_LINES


@given(st.data(), st.sampled_from(sorted(SAMPLES)))
@settings(max_examples=200, deadline=None)
def test_broken_source_is_read(data: st.DataObject, name: str) -> None:
    """A sample with a piece torn out and noise put in its place never raises."""
    sample = SAMPLES[name]
    start = data.draw(st.integers(0, len(sample)))
    end = data.draw(st.integers(start, len(sample)))
    noise = data.draw(st.text(alphabet=st.characters(codec="utf-8"), max_size=100))
    text = sample[:start] + noise + sample[end:]
    holds(extract(name, text), text)


HARD = {
    "brackets": "[" * 100_000,
    "parentheses": "(" * 200_000,
    "braces": "{" * 100_000,
    "calls": "f(" * 50_000,
    "tags": "<a>" * 30_000,
    "quotes": "\"'`" * 30_000,
    "minified": "var a1=b(c,d);if(e){f.g=h[0]}" * 10_000,
    "one word": "x" * 300_000,
    "nested definitions": "".join(f"{' ' * n}def f{n}():\n" for n in range(600)),
    "else if": "if (a) { b(); } else " * 3_000,
    "operators": "a + " * 50_000,
    "empty": "",
    "line breaks": "\n" * 50_000,
    "carriage returns": "a = 1\r" * 50_000,
    "separators": "a\u2028b\x0bc\x85d\n" * 1_000,
    "a lone surrogate": "name = '\ud800'",
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("name", ["sample.py", "sample.js", "sample.lua", "sample.scala", "sample.yaml"])
def test_hard_input_ends(name: str, hard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no person writes neither crashes, nor recurses, nor outlasts the deadline by more than a query.

    Lua's and Scala's grammars alone would take minutes for some of it.
    """
    monkeypatch.setattr(captures_module, "_CPU_SECONDS", 0.3)
    began = time.process_time()
    found = extract(name, HARD[hard])
    assert time.process_time() - began < 60
    assert all(c.end_line - c.start_line < CHUNK_LINES for c in found.chunks)


def test_a_late_parse_leaves_the_parser_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that took too long is text, and the next one is read as ever."""
    with monkeypatch.context() as patch:
        patch.setattr(captures_module, "_CPU_SECONDS", -1.0)
        late = extract("late.py", "def f(): ...\n" * 3_000)
    assert (len(late.symbols), len(late.references)) == (0, 0)
    assert late.chunks
    assert [s.name for s in extract("next.py", "def g(): ...\n").symbols] == ["g"]


def test_items_inside_of_rusts_macros() -> None:
    """What `cfg_...!` and the like hold is defined as anywhere; values and rules are left to the grammar."""
    text = """cfg_net! {
    /// A stream.
    #[derive(Debug)]
    pub struct Stream {
        inner: Inner,
    }

    impl Stream {
        fn new() -> Stream { open() }
    }
}
thread_local! {
    static COUNT: Cell<u32> = Cell::new(0);
}
macro_rules! cfg_net {
    ($($item:item)*) => { $( $item )* }
}
const LIST: [u8; 1] = bytes! { 1 };
"""
    found = extract("lib.rs", text)
    defined = {(s.name, s.kind, s.scope, s.line) for s in found.symbols if s.kind != "field"}
    assert defined == {
        ("Stream", "class", "", 4),
        ("new", "method", "Stream", 9),
        ("COUNT", "constant", "", 13),
        ("cfg_net", "macro", "", 15),
        ("LIST", "constant", "", 18),
    }
    assert next(s for s in found.symbols if s.name == "Stream").docstring == "A stream."
    assert next((m.name, m.line) for m in found.references) == ("cfg_net", 1)


def test_many_definitions_take_no_longer_each() -> None:
    """Nothing asks a node for its siblings: 8,000 definitions in a row end within the test's time."""
    text = "".join(f"# About {n}.\ndef f{n}(a):\n    return a\n\n\n" for n in range(8_000))
    found = extract("large.py", text)
    assert len(found.symbols) == 8_000
    assert found.symbols[-1].docstring == "About 7999."


@given(st.integers(0, 400))
def test_chunks_cover_every_line(count: int) -> None:
    """Text without symbols is cut into windows that leave no line out and do not overlap."""
    chunks = extract("notes.txt", "x\n" * count).chunks
    covered = [n for c in chunks for n in range(c.start_line, c.end_line + 1)]
    assert covered == list(range(1, count + 1))


@pytest.mark.parametrize("name", SAMPLES)
def test_chunks_cover_all_words(name: str) -> None:
    """Every line that holds a word is in a chunk, inside of definitions and between them."""
    found = extract(name, SAMPLES[name])
    covered = {n for c in found.chunks for n in range(c.start_line, c.end_line + 1)}
    words = {n for n, line in enumerate(SAMPLES[name].split("\n"), 1) if any(map(str.isalnum, line))}
    assert words <= covered


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"abc", "abc"),
        (b"\xef\xbb\xbfabc", "abc"),
        ("häß".encode("utf-16"), "häß"),
        ("häß".encode("utf-16-le"), None),
        ("häß".encode("latin-1"), "häß"),
        (b"\xff\xfea", None),
        (b"a\0b", None),
        (b"", ""),
    ],
)
def test_encodings(content: bytes, text: str | None) -> None:
    """UTF-8, UTF-16 with its mark and Latin-1 are text; NUL bytes are not."""
    assert decode(content) == text
