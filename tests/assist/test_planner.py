"""The planner: what the index can answer exactly is recognised, everything else is left to retrieval."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama.assist.exact import Section, sections
from codellama.assist.planner import plan
from codellama_index import Index, open_index

FILES = {
    "shapes.py": "class Shape:\n    def area(self) -> float:\n        raise NotImplementedError\n\n\n"
    "class Square(Shape):\n    def area(self) -> float:\n        return 4.0\n\n\n"
    "class Box(Square):\n    pass\n",
    "draw.py": "import shapes\nfrom shapes import Square\n\n\ndef draw_all() -> None:\n"
    "    Square().area()\n\n\n"
    "def target() -> None:\n    draw_all()\n",
    "tests/test_shapes.py": "from shapes import Square\n\n\ndef test_square():\n"
    "    assert Square().area() == 4\n",
    "store.go": "package store\n\ntype Getter interface {\n\tGet(key string) string\n\tLen() int\n}\n\n"
    "type Memory struct{}\n\nfunc (m *Memory) Get(key string) string { return key }\n"
    "func (m *Memory) Len() int { return 0 }\n\ntype Half struct{}\n\nfunc (h Half) Len() int { return 0 }\n",
    "bounds.rs": "struct Wide<T: Sink>(T);\n\nimpl<T: Sink> Drop for Wide<T> {}\n\n"
    "impl<T: Sink> Sink for Wide<T> {\n    fn take(&self) {}\n}\n",
    "jobs.py": "class Queue:\n    def run(self):\n        self.run()\n\n\nclass Timer:\n    def run(self):\n"
    "        pass\n\n\ndef start(job_queue, timer, other):\n    job_queue.run(); job_queue.run()\n"
    "    timer.run()\n    other.run()\n\n\ndef later(q: Queue):\n    q.run()\n",
    "many.py": "from draw import target\n\n\ndef often():\n" + "    target()\n" * 40,
    "a_opener.go": "package store\n\n"
    + "".join(f"type T{n} struct{{}}\n\nfunc (t T{n}) Opener() int {{ return {n} }}\n\n" for n in range(5)),
    "z_opener.go": "package store\n\ntype Opener interface {\n\tOpener() int\n}\n",
    "pets.rb": "class Animal\nend\n\nclass Dog < Animal\nend\n",
    "boxes.ts": "class Crate {}\nclass Pile<T extends Crate> extends Array<T> {}\n"
    "class Tin<T> extends Crate {}\n",
    "sink.rs": "pub trait Sink {\n    fn take(&self);\n}\n\nstruct Null;\n\nimpl Sink for Null {\n"
    "    fn take(&self) {}\n}\n\nimpl Null {\n    fn other(&self) {}\n}\n",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index of FILES, with one commit."""
    root = tmp_path_factory.mktemp("planned") / "repository"
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Draw shapes"]):
        subprocess.run([*git, *arguments], check=True)
    with open_index(root, cache_dir=tmp_path_factory.mktemp("cache")) as opened:
        opened.sync()
        yield opened


def answered(index: Index, question: str) -> tuple[Section, ...]:
    """The exact answer; empty where there is none."""
    planned = plan(question, index)
    return sections(planned, index) if planned else ()


@pytest.mark.parametrize(
    ("question", "kind", "name"),
    [
        ("where is draw_all defined?", "definition", "draw_all"),
        ("who calls draw_all?", "callers", "draw_all"),
        ("where is `Square` used?", "callers", "Square"),
        ("what are the callers of Square.area?", "callers", "area"),
        ("which classes extend Shape?", "implementers", "Shape"),
        ("which types implement the Sink trait?", "implementers", "Sink"),
        ("which files import shapes?", "importers", "shapes"),
        ("what depends on shapes.py?", "importers", "shapes"),
        ("which tests cover Square?", "tests", "Square"),
        ("what would break if I changed draw_all?", "impact", "draw_all"),
        ("what changed in draw.py recently?", "changes", ""),
        ("what does Square inherit from?", "definition", "Square"),
    ],
)
def test_what_is_recognised(index: Index, question: str, kind: str, name: str) -> None:
    """Kind and name of what is asked for."""
    planned = plan(question, index)
    assert planned is not None
    assert (planned.kind, planned.name) == (kind, name)


@pytest.mark.parametrize(
    "question",
    [
        "how does a shape get onto the screen?",
        "where is it warned that a reference has no target, and what uses it?",  # `target` is no name here
        "who calls no_such_name?",
        "why?",
        "",
    ],
)
def test_what_is_left_to_retrieval(index: Index, question: str) -> None:
    """Other questions, and names that are not here."""
    assert answered(index, question) == ()


def places(section: Section) -> list[tuple[str, int]]:
    return [(citation.path, citation.start_line) for citation, _ in section.places]


def test_callers(index: Index) -> None:
    """Calls with the function around them, then imports, tests apart, and the definition."""
    uses, tests, definition = answered(index, "who calls Square?")
    assert places(uses) == [("draw.py", 6), ("shapes.py", 11), ("draw.py", 2)]
    assert uses.places[0][1] == "in draw_all"
    assert places(tests) == [("tests/test_shapes.py", 5), ("tests/test_shapes.py", 1)]
    assert places(definition) == [("shapes.py", 6)]


def test_uses_of_a_name_that_others_have(index: Index) -> None:
    """Those whose receiver sounds like the owner or is declared so; the others apart; each line once."""
    own, others, definition = answered(index, "what calls Queue.run?")
    assert own.heading == "Queue.run is used by:"
    assert places(own) == [("jobs.py", 3), ("jobs.py", 12), ("jobs.py", 18)]
    assert others.heading == "Uses of a run that may be another's:"
    assert places(others) == [("jobs.py", 13), ("jobs.py", 14)]
    assert places(definition) == [("jobs.py", 2)]
    uses, _ = answered(index, "who calls `run`?")
    assert uses.heading == "run, a name that is defined in 2 places, is used by:"


def test_a_list_tells_that_it_is_cut(index: Index) -> None:
    """What is answered exactly is answered whole, or says how much is missing."""
    uses, _ = answered(index, "who calls `target`?")
    assert len(uses.places) == 24
    assert uses.lines == ("- and 17 more: codellama index refs target",)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("which classes extend Shape?", [("shapes.py", 6)]),
        ("which classes extend Animal?", [("pets.rb", 4)]),
        ("which classes extend Crate?", [("boxes.ts", 3)]),
        ("which types implement Sink?", [("bounds.rs", 5), ("sink.rs", 7)]),  # a bound implements nothing
        ("what implements Getter?", [("store.go", 8)]),  # Half lacks a method
    ],
)
def test_implementers(index: Index, question: str, expected: list[tuple[str, int]]) -> None:
    """Said in Python and Rust, met in silence in Go."""
    assert places(answered(index, question)[0]) == expected


def test_a_type_is_told_before_methods_of_its_name(index: Index) -> None:
    """Who asks for a type's implementers sees the type, however many methods are called the same."""
    definition = answered(index, "what implements Opener?")[-1]
    assert places(definition)[0] == ("z_opener.go", 3)
    assert definition.lines == ("- and 3 more: codellama index symbols Opener",)


def test_importers_tests_and_impact(index: Index) -> None:
    """Importers by their import line; tests of a symbol; what a change would touch."""
    assert places(answered(index, "which files import shapes?")[0]) == [
        ("draw.py", 1),
        ("tests/test_shapes.py", 1),
    ]
    assert places(answered(index, "where is Square tested?")[0]) == [
        ("tests/test_shapes.py", 5),
        ("tests/test_shapes.py", 1),
    ]
    headings = [s.heading for s in answered(index, "what would break if I changed Square?")]
    assert headings == [
        "Square is used by:",
        "These extend or implement it:",
        "These tests would tell:",
        "Square is defined here:",
    ]


@pytest.mark.parametrize("question", ["what changed in draw.py?", "who changed `draw_all` last?"])
def test_changes(index: Index, question: str) -> None:
    """Commits of a path, or of a symbol's lines."""
    (section,) = answered(index, question)
    assert len(section.lines) == 1
    assert section.lines[0].endswith("Draw shapes")


def test_changes_of_a_symbol_that_moved(tmp_path: Path) -> None:
    """Git counts in the last commit's lines, the index in the disk's; what is new has no commits yet."""
    root = tmp_path / "repository"
    root.mkdir()
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t"]
    first, second = "def first():\n    return 1\n", "def second():\n    return 2\n"
    subprocess.run([*git, "init", "-q"], check=True)
    for message, text in (("One", first), ("Two", first + second)):
        (root / "a.py").write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", message], check=True)
    new = "def third():\n    return 3\n"
    (root / "a.py").write_text(f"{new}{first.replace('1', '11')}\n\n{second}")
    with open_index(root, cache_dir=tmp_path / "cache") as opened:
        opened.sync()
        for name, last in (("first", ["One"]), ("second", ["Two"])):
            (section,) = answered(opened, f"who changed `{name}` last?")
            assert [line.rpartition("  ")[2] for line in section.lines] == last
        assert answered(opened, "who changed `third` last?") == ()


def test_a_path_that_looks_like_an_option(index: Index, tmp_path: Path) -> None:
    """Git gets a path as a path, whatever it looks like."""
    assert answered(index, "what changed in --output=/tmp/x.py?") == ()
