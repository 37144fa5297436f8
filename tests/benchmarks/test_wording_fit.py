"""The fit of the table of wordings: what is said for what, in how many packages."""

from benchmarks.wording import Documented, fit, functions

from codellama.training.packages import Package

SOURCE = b'''
class Store:
    def drop_all(self, key):
        """Deletes what the store holds."""
        del self.entries[key]

    def short(self):
        """Too short."""
'''


def test_functions_are_taken_apart() -> None:
    """Documentation is left out of the body; tests, and what says too little, are left out altogether."""
    files = (("shop/store.py", SOURCE), ("shop/tests/store.py", SOURCE), ("shop/broken.py", b"def"))
    (one,) = functions(Package("shop", "1", "MIT", files), 7)
    assert one.package == 7
    assert one.words[0] == "delet"
    assert [sorted(field) for field in one.fields[:3]] == [["all", "drop"], ["stor"], ["stor"]]
    assert "del" in one.fields[3]
    assert "delet" not in one.fields[3]


def test_what_is_said_for_what() -> None:
    """`del` comes to mean delete, `get` return, and what one package alone says is left out."""

    def pairs(word: str, term: str, packages: int) -> list[Documented]:
        body = frozenset({"self", "key", term})
        return [
            Documented((word, "valu"), (frozenset(), frozenset(), frozenset(), body), n % packages)
            for n in range(40)
        ]

    table = fit([*pairs("delet", "del", 5), *pairs("return", "get", 5), *pairs("frob", "zork", 1)])
    rows = dict(line.split(" ", 1) for line in table.splitlines())
    assert "del" in rows["delet"].split()
    assert "get" not in rows["delet"].split()
    assert "get" in rows["return"].split()
    assert "zork" not in rows["frob"].split()
