"""Training samples are the runtime's prompts, and nothing of a file is lost in them."""

from codellama.runtime import load_tokenizer
from codellama.runtime.locate import POCKET, locate
from codellama.runtime.prompts import extra_text, infill_ids
from codellama.training.corpus import SourceFile
from codellama.training.samples import SampleStream

TEXT = "".join(f"def part_{n}(a, b):\n    return a + b * {n}  # é☺\n\n\n" for n in range(9))
TOKENIZER = load_tokenizer(locate(POCKET))
assert TOKENIZER.infill is not None
TOKENS = TOKENIZER.infill


def _stream(*files: SourceFile, seed: int = 0) -> SampleStream:
    return SampleStream(list(files), TOKENIZER, seed)


def _parts(ids: list[int]) -> tuple[str, list[int], list[int], list[int]]:
    """Layout, and the ids of what precedes, what follows, and what is answered (with SPM: empty)."""
    suf, mid = ids.index(TOKENS.suf), ids.index(TOKENS.mid)
    assert ids[:2] == [TOKENIZER.bos_id, TOKENS.pre]
    assert ids[-1] == TOKENS.eot
    if suf == 2:
        return "spm", ids[mid + 1 : -1], ids[3:mid], []
    return "psm", ids[2:suf], ids[suf + 1 : mid], ids[mid + 1 : -1]


def test_samples_decode_back_to_the_files_text() -> None:
    """Prefix, middle and suffix of every sample join to the text; both layouts and plain text occur."""
    file = SourceFile("p", "a.py", TEXT)
    stream = _stream(file)
    seen = {"psm": 0, "spm": 0, "plain": 0}
    for _ in range(300):
        ids = stream.sample(file, TEXT)
        if TOKENS.pre not in ids:
            assert (ids[0], ids[-1]) == (TOKENIZER.bos_id, TOKENIZER.eos_id)
            assert TOKENIZER.decode(ids[1:-1]) == TEXT
            seen["plain"] += 1
            continue
        layout, before, after, answer = _parts(ids)
        assert "".join(map(TOKENIZER.decode, (before, answer, after))) == TEXT
        seen[layout] += 1
    assert seen["plain"] < 60
    assert min(seen.values()) > 10
    assert abs(seen["psm"] - seen["spm"]) < 80


def test_samples_are_laid_out_as_the_runtimes_prompts() -> None:
    """Up to its middle a PSM sample is what `infill_ids` gives for the same parts; so is SPM's head."""
    file = SourceFile("p", "a.py", TEXT)
    stream = _stream(file, seed=1)
    for _ in range(100):
        ids = stream.sample(file, TEXT)
        if TOKENS.pre not in ids:
            continue
        layout, before, after, answer = _parts(ids)
        prefix, suffix = TOKENIZER.decode(before), TOKENIZER.decode(after)
        encode = TOKENIZER.encode
        if layout == "psm":
            prompt = infill_ids(TOKENS, TOKENIZER.bos_id, "psm", encode(prefix), encode(suffix))
            assert ids == [*prompt, *answer, TOKENS.eot]
        else:
            head = infill_ids(TOKENS, TOKENIZER.bos_id, "spm", [], encode(suffix))
            assert ids[: len(head)] == head


def test_parts_of_other_files_head_the_prefix_under_their_path() -> None:
    """Extras are lines of another file of the same package, written as the runtime writes them."""
    file = SourceFile("p", "a.py", TEXT)
    other = SourceFile("p", "b.py", "import os\n" * 50)
    stranger = SourceFile("q", "c.py", "import sys\n" * 50)
    stream = _stream(file, other, stranger, seed=2)
    found = 0
    for _ in range(200):
        ids = stream.sample(file, TEXT)
        if TOKENS.pre not in ids:
            continue
        before = TOKENIZER.decode(_parts(ids)[1])
        assert "import sys" not in before
        if before.startswith("# Path: b.py\n"):
            found += 1
            lines = before.splitlines(keepends=True)
            imports = [line for line in lines[1:] if line == "import os\n"]
            assert before.startswith(extra_text("b.py", "".join(imports)))
    assert 5 < found < 100


def test_windows_cover_a_file_once_and_a_seed_repeats() -> None:
    """The windows of a file join to it, and the same seed gives the same samples."""
    file = SourceFile("p", "a.py", TEXT * 20)
    assert "".join(text for _, text in _stream(file)._windows(file)) == file.text
    first, second = iter(_stream(file, seed=3)), iter(_stream(file, seed=3))
    assert [next(first) for _ in range(20)] == [next(second) for _ in range(20)]
