"""Which file is in which language, and what the table of languages promises to others."""

import re
import subprocess
import sys
from typing import get_args

import pytest

from codellama.runtime.prompts import extra_text
from codellama_index.languages import comment_prefix, grammar, language_of, languages, suffixes
from codellama_index.records import SymbolKind


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("a/b.PY", "", "python"),
        ("a.tsx", "", "tsx"),
        ("Rakefile", "", "ruby"),
        ("notes.txt", "", None),
        ("README", "# Title", None),
        ("bin/run", "#!/bin/sh\necho", "bash"),
        ("bin/run", "#!/usr/bin/env python3.11\n", "python"),
        ("bin/run", "#!/usr/bin/env -S ruby -w\n", "ruby"),
        ("bin/run", "#!/usr/bin/python3 -u\n", "python"),
        ("bin/run", "#!/opt/unknown\n", None),
        ("run.txt", "#!/bin/sh\n", None),
        ("box.h", "struct box { int size; };\n", "c"),
        ("box.h", "int a;\nnamespace b {\n}\n", "cpp"),
        ("box.h", '#ifdef __cplusplus\nextern "C" {\n#endif\nint a(void);\n', "c"),
    ],
)
def test_language_of(path: str, text: str, language: str | None) -> None:
    """Suffix, file name, first line of a script; a header is C++ where its text is."""
    assert language_of(path, text) == language


@pytest.mark.parametrize("suffix", [*suffixes(), ".txt", ""])
def test_comments_are_those_of_the_runtime(suffix: str) -> None:
    """The two packages are strangers, but write a snippet's path with the same mark."""
    path = f"folder/name{suffix}"
    assert extra_text(path, "text").startswith(f"{comment_prefix(path)} Path: ")


@pytest.mark.parametrize("language", languages())
def test_queries_fit_their_grammar(language: str) -> None:
    """Each query compiles, captures what the table's docstring lists, and names the contract's kinds."""
    compiled = grammar(language)
    kinds = {kind for _, kind in compiled.kinds}
    assert kinds <= {*get_args(SymbolKind), "scope", "none", "promoted"}
    uses = {compiled.uses.capture_name(n) for n in range(compiled.uses.capture_count)}
    known = r"reference|import|comment|attribute|doc|doc\.inside|local|outer|_\w+"
    assert all(re.fullmatch(known, name) for name in uses), uses


def test_grammars_are_loaded_one_by_one() -> None:
    """A process that meets only Python imports no other grammar."""
    code = (
        "import sys; from codellama_index.extract import extract; extract('a.py', 'x = 1');"
        "print(*sorted(m for m in sys.modules if m.startswith('tree_sitter_') and '.' not in m))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["tree_sitter_python"]
