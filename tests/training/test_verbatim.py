"""What a model says is found in the corpus whatever its white space, within one file only."""

from codellama.training.verbatim import Memory

MEMORY = Memory(["def f(a):\n    return a + 1\n", "def g(b):\n    return b - 2\n"])


def test_a_copy_is_found() -> None:
    """Word for word, spaced otherwise; not across files, not with a word changed."""
    assert MEMORY.holds("f(a):\n  return a")
    assert not MEMORY.holds("return a + 1 def g(b)")
    assert not MEMORY.holds("return a + 2")


def test_the_longest_run_from_the_beginning() -> None:
    """Whole words, as many as stand in the corpus in this order."""
    assert MEMORY.longest("return  b - 2 and more") == "return b - 2"
    assert MEMORY.longest("nothing of this") == ""
