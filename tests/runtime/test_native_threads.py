"""The number of threads follows what is faster now, and is seldom tried in vain."""

from codellama.runtime.native_threads import ThreadCount


def _run(team: ThreadCount, passes: int, all_of_them: float, one: float) -> list[int]:
    """The counts that are chosen for so many passes, which take so long with all threads and with one."""
    chosen = []
    for _ in range(passes):
        count = team.choose()
        chosen.append(count)
        team.took(one if count == 1 else all_of_them)
    return chosen


def test_the_faster_count_is_taken() -> None:
    """On a quiet machine all threads, but for few tries; on a busy one a single one, soon; and back again."""
    team = ThreadCount(4)
    quiet = _run(team, 2000, all_of_them=1.0, one=1.8)
    assert quiet.count(1) < 15
    busy = _run(team, 100, all_of_them=12.0, one=2.5)
    assert busy.count(4) < 10, "a slow pass is answered by a try"
    again = _run(team, 4000, all_of_them=1.0, one=1.8)
    assert again[-1000:].count(4) > 980


def test_one_thread_stays_one() -> None:
    """Where there is one core there is nothing to choose."""
    assert set(_run(ThreadCount(1), 50, 1.0, 1.0)) == {1}
