"""Exercises are whole, true programs, the same for the same seed, and never a benchmark's."""

import ast
import doctest
import re
from pathlib import Path

from codellama.training.exercises import exercises
from codellama.training.screening import Benchmark


def test_examples_are_true() -> None:
    """Every example in the documentation of two hundred files is what running it gives."""
    tried = 0
    for path, text in exercises(200):
        scope: dict[str, object] = {}
        exec(text, scope)
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        assert functions, path
        for node in functions:
            examples = doctest.DocTestParser().get_doctest(
                ast.get_docstring(node) or "", scope, node.name, path, 0
            )
            tried += len(examples.examples)
            assert doctest.DocTestRunner(verbose=False).run(examples).failed == 0
    assert tried > 200


def test_nothing_of_a_template_is_left() -> None:
    """Marks are filled in, every function is documented, and names stay apart."""
    for _, text in exercises(300):
        assert not re.search(r"\b(?:TEST|MAP|K|T)\b|_K\b|_NAME|_WORDS|\{[xk]\}", text), text
        for node in ast.parse(text).body:
            assert isinstance(node, ast.FunctionDef)
            assert ast.get_docstring(node)
            names = [argument.arg for argument in node.args.args]
            assert len(names) == len(set(names))


def test_a_seed_gives_the_same(shared_data: Path) -> None:
    """Files are made from the seed and their number; none shares twenty words with the benchmark."""
    assert list(exercises(5)) == list(exercises(9))[:5]
    assert list(exercises(5)) != list(exercises(5, seed=1))
    benchmark = Benchmark.human_eval(shared_data / "human-eval-infilling")
    assert not any(benchmark.overlaps(text) for _, text in exercises(300))
