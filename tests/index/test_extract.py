"""What is read out of source text, language by language."""

import pytest
from conftest import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama_index.extract import decode, extract

SOURCES = {
    "sample.py": '''"""Module."""
import os
from typing import Any as Anything

LIMIT = 3
__version__ = "1"


@decorated
class Box(Base):
    """A box."""

    size: int = 0

    def open(self, lid: Any) -> None:
        """Opens it.

        With care.
        """
        local = 1
        self.lid = lid

        def inner() -> int:
            return local

    @property
    def lid(self): return os.path


async def fetch(url): ...
''',
    "sample.js": """import React, { useState as state } from "react";
/** Adds. */
export function add(a, b) { const local = a; return local + b; }
const twice = (x) => add(x, x);
class Point { constructor(x) { this.x = x; } get norm() { return Math.abs(this.x); } #hidden() {} }
module.exports.later = function () {};
const table = { run() {}, walk: () => 1 };
let count = 0;
""",
    "sample.ts": """/** Retry policy. */
export interface Retry { delay: number; next(attempt: number): void }
type Name = string;
enum Level { Low, High }
export default abstract class Job<T> extends Base { private size = 1; abstract go(): void; async run() {} }
declare function outside(a: number): string;
namespace Inner { export const x = 1; }
""",
    "sample.go": """package sample

// Max is the limit.
const Max = 3

var total, other int

// Box holds.
type Box struct { Size int }

type Shape interface { Area() float64 }

type ID = string

// Open opens.
func (b *Box) Open(force bool) error { local := 1; _ = local; return nil }

func New() *Box { return &Box{} }
""",
    "sample.rs": """//! Crate.
use std::collections::{HashMap, HashSet};

/// A box.
pub struct Box1 { size: u32 }
impl<T> Trait for Box1 { fn open(&self) -> u32 { let local = 1; local } }
pub trait Trait { fn open(&self) -> u32; }
enum Level { Low, High(u8) }
const MAX: u32 = 3;
static mut COUNT: u32 = 0;
type Alias = HashMap<u8, u8>;
macro_rules! twice { ($x:expr) => { $x + $x } }
mod inner { pub fn deep() {} }
""",
}


@pytest.mark.parametrize("name", SOURCES)
def test_symbols_of_each_language(name: str, golden: Golden) -> None:
    """Definitions with kind, scope, lines, signature and docstring; locals and parameters are none."""
    found = extract(name, SOURCES[name])
    rows = [
        f"{s.line}:{s.start_line}-{s.end_line} {s.kind} {s.scope}|{s.name}"
        f" :: {s.signature} :: {s.docstring!r}"
        for s in found.symbols
    ]
    rows.append("imports " + " ".join(found.imports))
    rows.append("references " + " ".join(dict.fromkeys(m.name for m in found.references)))
    golden.check(f"extract/{name}.txt", "\n".join(rows) + "\n")
    assert "local" not in {s.name for s in found.symbols}


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300), st.sampled_from(sorted(SOURCES)))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read(noise: str, name: str) -> None:
    """Broken source never raises; every span lies in the text and holds what it says."""
    text = SOURCES[name][: len(noise) * 3] + noise
    found = extract(name, text)
    source = text.encode()
    lines = text.count("\n") + 1
    for symbol in found.symbols:
        assert 1 <= symbol.start_line <= symbol.line <= symbol.end_line <= lines
        assert symbol.name.encode() in source[symbol.span.start : symbol.span.end]
    for mention in found.references:
        assert source[mention.start : mention.end].decode() == mention.name


@given(st.integers(0, 400))
def test_chunks_cover_every_line(count: int) -> None:
    """Text without symbols is cut into windows that leave no line out and do not overlap."""
    chunks = extract("notes.txt", "x\n" * count).chunks
    covered = [n for c in chunks for n in range(c.start_line, c.end_line + 1)]
    assert covered == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"abc", "abc"),
        (b"\xef\xbb\xbfabc", "abc"),
        ("häß".encode("utf-16"), "häß"),
        ("häß".encode("latin-1"), "häß"),
        (b"a\0b", None),
        (b"", ""),
    ],
)
def test_encodings(content: bytes, text: str | None) -> None:
    """UTF-8, UTF-16 with its mark and Latin-1 are text; NUL bytes are not."""
    assert decode(content) == text


def test_deep_nesting_ends() -> None:
    """Thousands of open brackets neither crash nor raise."""
    for opener in "([{":
        assert extract("deep.py", "x = " + opener * 20_000).symbols is not None
