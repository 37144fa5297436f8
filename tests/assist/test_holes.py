"""Holes in a repository: chosen by a seed, asked in five ways, never told what stood in them."""

import asyncio

from codellama.assist import holes
from codellama.runtime.records import InfillRequest, Packed, Result, Stats
from codellama.serve.client import ModelClient
from codellama_index import Index

TEXT = "".join(f"def part_{n}(a, b):\n    total = a + b * {n}\n    return total\n\n\n" for n in range(20))


class Oracle(ModelClient):
    """Says the rest of the line where the prompt has extras, else nothing useful; keeps the requests."""

    def __init__(self, chosen: list[holes.Hole]) -> None:
        super().__init__()
        self.rests = {hole.prefix: hole.rest for hole in chosen}
        self.requests: list[InfillRequest] = []

    async def infill(
        self, request: InfillRequest, *, model: str | None = None, deadline_s: float | None = None
    ) -> Result:
        self.requests.append(request)
        text = self.rests[request.prefix] if request.extras else "zzz"
        packed = tuple(Packed(extra.filename, 5, kept=True) for extra in request.extras)
        return Result(text, (), "stop", Stats(tokens=4, prefill_s=0.01, mean_logprob=-0.001), packed)


def test_a_seed_chooses_places_with_something_after_them() -> None:
    """The same places for the same seed; prefix, rest and suffix join to the file."""
    texts = {"a.py": TEXT, "b.py": TEXT[::-1], "tiny.py": "x = 1\n"}
    chosen = holes.choose(texts, 30, seed=3)
    assert len(chosen) == 30
    assert chosen == holes.choose(texts, 30, seed=3) != holes.choose(texts, 30, seed=4)
    for hole in chosen:
        assert hole.prefix + hole.rest + hole.suffix == texts[hole.path]
        assert len(hole.rest.strip()) >= 3
        assert "\n" not in hole.rest
    assert holes.choose({"tiny.py": "x = 1\n"}, 5, seed=0) == []


def test_the_ways_are_measured_side_by_side(index: Index) -> None:
    """With context and without, evidence alone, and the surer; copies of the file help nobody."""
    copy = TEXT.replace("part_3", "other")
    for name, text in (("new.py", TEXT), ("copy.py", copy), ("user.py", TEXT[:400].replace("total", "sum"))):
        (index.root / name).write_text(text)
    index.sync()
    texts = {name: (index.root / name).read_text() for name in ("new.py", "copy.py", "client.py", "retry.py")}
    chosen = [hole for hole in holes.choose(texts, 40, seed=1) if hole.path == "new.py"][:8]
    client = Oracle(chosen)
    moves: list[int] = []
    report = asyncio.run(holes.measure(client, index, texts, chosen, lambda done, of: moves.append(done)))
    assert moves == list(range(1, len(chosen) + 1))
    assert tuple(report) == holes.WAYS
    assert all(extra.filename not in ("new.py", "copy.py") for r in client.requests for extra in r.extras)
    assert report["model"]["exact_match"] == 0
    assert report["mixed"]["exact_match"] == report["model_with_context"]["exact_match"]
    shown = report["mixed"]["shown"]
    assert shown["coverage"] == 1.0
    assert shown["precision"] == report["mixed"]["exact_match"]
    assert 0 <= report["evidence"]["exact_match"] < 1
