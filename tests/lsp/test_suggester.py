"""How much is asked at a place that the model server does not know, and what is asked while nobody waits.

The model is a stand-in that keeps what it was asked for; everything else is real.
"""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from codellama.assist.completion import Completion
from codellama.assist.pace import Room
from codellama.runtime.records import FinishReason, Stats
from codellama_lsp import completion, suggester
from codellama_lsp.cache import Cursor
from codellama_lsp.completion import Place
from codellama_lsp.settings import CompletionSettings, Settings
from codellama_lsp.status import StatusBoard
from codellama_lsp.suggester import Suggester, Wanted

TEXT = "def first():\n    pass\n\n\n" + "x = 1\n" * 400
SETTINGS = Settings(CompletionSettings(debounce=False))
NOT_AHEAD = Settings(CompletionSettings(debounce=False, speculate=False))


def wanted(offset: int, uri: str = "file:///a.py", text: str = TEXT) -> Wanted:
    return Wanted(Cursor.at(uri, text, offset), Place("a.py", text, offset), 0, offset)


class Model:
    """Answers `says` by offset, "" else, and `ends` so; keeps offsets and rooms in order."""

    def __init__(self, says: dict[int, str], ends: FinishReason) -> None:
        self.says, self.ends = says, ends
        self.asked: list[tuple[int, Room]] = []

    async def suggest(
        self, client: Any, place: Place, settings: Any, room: Room, *, invoked: bool
    ) -> Completion:
        self.asked.append((place.offset, room))
        text = self.says.get(place.offset, "")
        stats = Stats(prompt_tokens=400, prefill_s=0.1, decode_s=0.05, tokens=10)
        return Completion(text, (), (), stats, self.ends, (), said=text)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Model]:
    """Runs a scenario with a suggester whose server told its rates, and hands back the model."""
    monkeypatch.setattr(suggester, "_LOOK_S", 0.02)

    def begin(
        says: dict[int, str],
        scenario: Callable[[Suggester], Coroutine[Any, Any, None]],
        ends: FinishReason = "stop",
    ) -> Model:
        model = Model(says, ends)
        monkeypatch.setattr(completion, "suggest", model.suggest)

        async def client(settings: Settings) -> None:
            return None

        async def all_of_it() -> None:
            engine: Any = SimpleNamespace(
                client=client, info=SimpleNamespace(prefill_rate=4000.0, decode_rate=200.0)
            )
            asks = Suggester(engine, StatusBoard(lambda now: None))
            await scenario(asks)
            asks.cancel_all()

        asyncio.run(all_of_it())
        return model

    return begin


def test_an_unknown_place_gets_a_short_prompt_and_then_a_long_one(run: Callable[..., Model]) -> None:
    """The long one goes with what is asked ahead; from then on it is the prompt around there."""

    async def scenario(asks: Suggester) -> None:
        assert await asks.ask(wanted(100), SETTINGS) == "value"
        await asyncio.sleep(0.1)
        typed = TEXT[:100] + "value.name" + TEXT[100:]
        await asks.ask(wanted(110, text=typed), SETTINGS)
        await asks.ask(wanted(2203), SETTINGS)
        await asks.ask(wanted(100, "file:///b.py"), SETTINGS)

    model = run({100: "value"}, scenario)
    offsets = [offset for offset, _ in model.asked]
    assert offsets == [100, 105, 110, 2203, 100]
    first, ahead, near, far, other = (room.prompt_bytes for _, room in model.asked)
    assert ahead > 3 * first
    assert near > 3 * far
    assert far < 1.5 * first
    assert other < 1.5 * first


def test_where_the_short_prompt_gave_nothing_the_long_one_is_tried(run: Callable[..., Model]) -> None:
    """Once, while nobody waits; the place is answered from the cache then."""

    async def scenario(asks: Suggester) -> None:
        assert await asks.ask(wanted(100), SETTINGS) == ""
        await asyncio.sleep(0.1)
        assert asks.at_once(wanted(100), SETTINGS) == ""
        typed = TEXT[:100] + "more" + TEXT[100:]
        assert await asks.ask(wanted(104, text=typed), SETTINGS) == ""
        await asyncio.sleep(0.1)

    model = run({}, scenario)
    assert [offset for offset, _ in model.asked] == [100, 100, 104]
    assert model.asked[1][1].prompt_bytes > 3 * model.asked[0][1].prompt_bytes


def test_what_is_not_asked_ahead_yet_is_not_waited_for(run: Callable[..., Model]) -> None:
    """Accepted at once, a suggestion's next one is asked for as any other."""

    async def scenario(asks: Suggester) -> None:
        await asks.ask(wanted(100), SETTINGS)
        accepted = TEXT[:100] + "value" + TEXT[100:]
        assert await asks.ask(wanted(105, text=accepted), SETTINGS) == "()"
        await asyncio.sleep(0.05)

    model = run({100: "value", 105: "()"}, scenario)
    assert [offset for offset, _ in model.asked][:2] == [100, 105]


def test_where_nothing_is_asked_ahead_every_prompt_is_long(run: Callable[..., Model]) -> None:
    """Nothing else would make a place known to the server; nor is an empty answer's place asked again."""

    async def scenario(asks: Suggester) -> None:
        for offset in (100, 2203):
            await asks.ask(wanted(offset), NOT_AHEAD)
            await asyncio.sleep(0.1)
        await asks.ask(wanted(100, "file:///b.py"), SETTINGS)

    model = run({100: "value"}, scenario)
    assert [offset for offset, _ in model.asked] == [100, 2203, 100]
    said, empty, short = (room.prompt_bytes for _, room in model.asked)
    assert min(said, empty) > 3 * short


def test_an_answer_that_was_cut_off_teaches_nothing(
    run: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked for next is sized as before, and the place is as unknown to the server as another."""
    monkeypatch.setattr(suggester, "_LOOK_S", 60.0)

    async def scenario(asks: Suggester) -> None:
        await asks.ask(wanted(100), NOT_AHEAD)
        for uri in ("file:///a.py", "file:///b.py"):
            await asks.ask(wanted(100, uri), SETTINGS)

    model = run({100: "value"}, scenario, ends="cancelled")
    long, *short = (room for _, room in model.asked)
    assert short[0] == short[1]
    assert long.max_tokens == short[0].max_tokens
    assert long.prompt_bytes == 4 * short[0].prompt_bytes
