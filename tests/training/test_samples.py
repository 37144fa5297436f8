"""Training samples are the runtime's prompts, and nothing of a file is lost in them."""

from collections.abc import Iterator
from itertools import islice

import torch

from codellama.runtime import load_tokenizer
from codellama.runtime.locate import POCKET, locate
from codellama.runtime.prompts import extra_text, infill_ids
from codellama.training.batches import Batch, batches, loader
from codellama.training.corpus import SourceFile
from codellama.training.samples import MIDDLE_WEIGHT, Sample, SampleStream, Sources

TEXT = "".join(f"def part_{n}(a, b):\n    return a + b * {n}  # é☺\n\n\n" for n in range(9))
TOKENIZER = load_tokenizer(locate(POCKET))
assert TOKENIZER.infill is not None
TOKENS = TOKENIZER.infill


def _stream(*files: SourceFile, seed: int = 0) -> SampleStream:
    return SampleStream(Sources(list(files)), TOKENIZER, seed)


def _parts(ids: list[int]) -> tuple[str, list[int], list[int], list[int]]:
    """Layout, and the ids of what precedes, what follows, and what is answered (with SPM: empty)."""
    suf, mid = ids.index(TOKENS.suf), ids.index(TOKENS.mid)
    assert ids[:2] == [TOKENIZER.bos_id, TOKENS.pre]
    assert ids[-1] == TOKENS.eot
    if suf == 2:
        return "spm", ids[mid + 1 : -1], ids[3:mid], []
    return "psm", ids[2:suf], ids[suf + 1 : mid], ids[mid + 1 : -1]


def _weighted(sample: Sample, weight: float) -> str:
    return TOKENIZER.decode([i for i, w in zip(sample.ids, sample.weights, strict=True) if w == weight])


def test_samples_decode_back_to_the_files_text() -> None:
    """Prefix, middle and suffix of every sample join to the text; both layouts and plain text occur."""
    file = SourceFile("p", "a.py", TEXT)
    stream = _stream(file)
    seen = {"psm": 0, "spm": 0, "plain": 0}
    for _ in range(300):
        ids = stream.sample(file, TEXT).ids
        if TOKENS.pre not in ids:
            assert (ids[0], ids[-1]) == (TOKENIZER.bos_id, TOKENIZER.eos_id)
            assert TOKENIZER.decode(ids[1:-1]) == TEXT
            seen["plain"] += 1
            continue
        layout, before, after, answer = _parts(ids)
        assert "".join(map(TOKENIZER.decode, (before, answer, after))) == TEXT
        seen[layout] += 1
    assert 5 < seen["plain"] < 60
    assert abs(seen["psm"] - seen["spm"]) < 80


def test_samples_are_laid_out_as_the_runtimes_prompts() -> None:
    """Up to its middle a PSM sample is what `infill_ids` gives for the same parts; so is SPM's head."""
    file = SourceFile("p", "a.py", TEXT)
    stream = _stream(file, seed=1)
    encode = TOKENIZER.encode
    for _ in range(100):
        ids = stream.sample(file, TEXT).ids
        if TOKENS.pre not in ids:
            continue
        layout, before, after, answer = _parts(ids)
        prefix, suffix = TOKENIZER.decode(before), TOKENIZER.decode(after)
        if layout == "psm":
            prompt = infill_ids(TOKENS, TOKENIZER.bos_id, "psm", encode(prefix), encode(suffix))
            assert ids == [*prompt, *answer, TOKENS.eot]
        else:
            head = infill_ids(TOKENS, TOKENIZER.bos_id, "spm", [], encode(suffix))
            assert ids[: len(head)] == head


def test_parts_of_other_files_head_the_prefix_under_their_path() -> None:
    """Extras are lines of another file of the package under its path, and the path is not learned."""
    file = SourceFile("p", "a.py", TEXT)
    other = SourceFile("p", "b.py", "import os\n" * 50)
    stranger = SourceFile("q", "c.py", "import sys\n" * 50)
    stream = _stream(file, other, stranger, seed=2)
    found = 0
    for _ in range(200):
        sample = stream.sample(file, TEXT)
        if TOKENS.pre not in sample.ids:
            continue
        before = TOKENIZER.decode(_parts(sample.ids)[1])
        assert "import sys" not in before
        if before.startswith("# Path: b.py\n"):
            found += 1
            assert _weighted(sample, 0.0) == "# Path: b.py\n"
            lines = before.removeprefix("# Path: b.py\n").splitlines()
            quoted = "\n".join(line for line in lines if line == "import os")
            assert before.startswith(extra_text("b.py", quoted))
    assert 5 < found < 120


def test_the_definition_that_a_text_needs_is_among_its_extras() -> None:
    """Where another file defines a name that is used, its definition is quoted often, from its first line."""
    user = SourceFile("p", "a.py", "def run(items):\n    return compute_total(items, 3)\n" * 20)
    noise = [SourceFile("p", f"n{n}.py", f"value_{n} = {n}\n" * 60) for n in range(12)]
    body = "def compute_total(items, factor):\n    return factor * sum(items)"
    home = SourceFile("p", "home.py", "import os\n\n\n" + body + "\n\n\n" + "x = 1\n" * 200)
    stream = SampleStream(Sources([user, home, *noise]), TOKENIZER, 7, extras=4)
    prompts = [TOKENIZER.decode(stream.sample(user, user.text[:200]).ids) for _ in range(60)]
    defined = sum(f"# Path: home.py\n{body}" in prompt for prompt in prompts)
    assert 25 < defined < 60


def test_a_middle_lies_where_it_may_and_weighs_more() -> None:
    """Within the range given, whole lines and rests of lines among them; its tokens weigh MIDDLE_WEIGHT."""
    file = SourceFile("p", "a.py", TEXT)
    stream = _stream(file, seed=4)
    first, last = TEXT.index("def part_3"), TEXT.index("def part_5")
    whole = rest = 0
    for _ in range(200):
        start, end = stream.middle(TEXT, first, last)
        assert first <= start <= end
        whole += TEXT[start:end].startswith(("def ", "    return")) and TEXT[start:end].count("\n") <= 1
        rest += TEXT[end : end + 1] == "\n" and "\n" not in TEXT[start:end]
    assert whole > 40
    assert rest > 40
    while TOKENS.pre not in (sample := stream.sample(file, TEXT, first, last)).ids or "\n" in _weighted(
        sample, MIDDLE_WEIGHT
    ):
        pass
    assert _weighted(sample, MIDDLE_WEIGHT) in TEXT


def test_a_stretch_is_text_of_the_file_and_holds_a_function() -> None:
    """Pieces of the file's own lines; often a whole function, which the middle is then taken from."""
    stream = _stream(SourceFile("p", "a.py", "import os\n" + TEXT), seed=5)
    whole = 0
    for _ in range(200):
        text, first, last = stream.stretch("import os\n" + TEXT)
        assert 0 <= first <= last <= len(text)
        assert all(line in TEXT + "import os\n" for line in text.splitlines())
        whole += text[first:last].startswith("def part_") and text[first:last].count("def ") == 1
    assert whole > 80


def test_a_seed_repeats() -> None:
    """The same seed gives the same samples, another one others."""
    file = SourceFile("p", "a.py", TEXT)
    one, again, other = (list(islice(_stream(file, seed=seed), 20)) for seed in (3, 3, 4))
    assert one == again != other


def test_processes_make_batches_of_their_own() -> None:
    """Batches of two processes come in turns, each process's from its own seed."""
    sources = Sources([SourceFile("p", f"{n}.py", TEXT.replace("part", f"part{n}")) for n in range(5)])

    def made(worker: int) -> Iterator[Batch]:
        return batches(SampleStream(sources, TOKENIZER, worker), 2, 300)

    alone = [list(islice(made(worker), 2)) for worker in (0, 1)]
    together = list(islice(loader(made, 2, torch.device("cpu")), 4))
    for batch, expected in zip(together, (alone[0][0], alone[1][0], alone[0][1], alone[1][1]), strict=True):
        assert torch.equal(batch.ids, expected.ids)
        assert torch.equal(batch.weights, expected.weights)


def test_rows_hold_whole_samples() -> None:
    """Every row begins with BOS, no sample is cut, and what is left empty weighs nothing."""
    stream = _stream(SourceFile("p", "a.py", TEXT), seed=6)
    for batch in islice(batches(stream, 2, 500), 20):
        assert batch.ids.shape == (2, 501)
        assert batch.weights.shape == (2, 500)
        for ids, weights in zip(batch.ids, batch.weights, strict=True):
            assert ids[0] == TOKENIZER.bos_id
            used = int(weights.nonzero()[-1]) + 2
            assert ids[used - 1] in (TOKENS.eot, TOKENIZER.eos_id)
            assert not torch.any(ids[used:])
            assert not torch.any(weights[ids[1:] == TOKENIZER.bos_id])
