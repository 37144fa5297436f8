"""What universal-ctags says of files: its tags by path, line and name."""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[str, int, str]

NAMES = {
    "python": "Python",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "go": "Go",
    "rust": "Rust",
    "c": "C",
    "cpp": "C++",
    "java": "Java",
    "ruby": "Ruby",
}
SUFFIXES = {
    "python": (".py",),
    "javascript": (".js", ".mjs", ".cjs"),
    "typescript": (".ts",),
    "go": (".go",),
    "rust": (".rs",),
    "c": (".c", ".h"),
    "cpp": (".cpp", ".cc", ".cxx", ".h", ".hpp"),
    "java": (".java",),
    "ruby": (".rb",),
}
# Its kinds that the contract calls symbols: no locals, parameters, imports, packages, labels, prototypes.
_C = "macro enumerator function enum member struct typedef union variable"
_LISTS = {
    "python": "class function member variable",
    "javascript": "function class method constant variable property generator getter setter field",
    "typescript": "function class interface enum enumerator method namespace property variable constant"
    " generator alias",
    "go": "func const type var struct interface member anonMember methodSpec talias",
    "rust": "module struct interface function enum enumerator typedef field method macro variable constant",
    "c": _C,
    "cpp": f"{_C} class namespace",
    "java": "class enumConstant field interface method enum annotation",
    "ruby": "class method module singletonMethod accessor alias constant",
}
KINDS = {language: frozenset(kinds.split()) for language, kinds in _LISTS.items()}
# Besides these it may list what we may: prototypes count as nothing missing and nothing extra.
_MORE = ("--kinds-C=+px", "--kinds-C++=+px")
# Names it makes up for what has none.
_MADE_UP = re.compile(r"__anon[0-9a-f]+|[Aa]nonymous(Function|Object|Class)[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag: its kind, and the scope it stands in."""

    kind: str
    scope: str


def version() -> str:
    """The first line that it says of itself."""
    return subprocess.run(
        ["ctags", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]


def tags(language: str, paths: Iterable[str]) -> dict[Key, Tag]:
    """All tags of these files; the name of an operator without spaces, a setter's without its `=`."""
    command = ["ctags", "--options=NONE", "--output-format=json", "--fields=+nKzS", *_MORE]
    command += [f"--language-force={NAMES[language]}", "-f", "-", "-L", "-"]
    output = subprocess.run(
        command, check=True, input="\n".join(paths), capture_output=True, text=True, errors="replace"
    )
    found: dict[Key, Tag] = {}
    for line in output.stdout.splitlines():
        tag = json.loads(line)
        if tag.get("_type") == "tag" and not _MADE_UP.fullmatch(tag["name"]):
            name = plain(tag["name"])
            if tag["kind"] == "accessor":
                name = name.removesuffix("=")
            found.setdefault((tag["path"], tag["line"], name), Tag(tag["kind"], tag.get("scope", "")))
    return found


def plain(name: str) -> str:
    """A name as both sides are compared: `operator ==` and `operator==` are one."""
    return re.sub(r"\s+", "", name) if name.startswith("operator") else name
