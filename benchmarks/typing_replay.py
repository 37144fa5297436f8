"""Typing, replayed key by key, and what a person would have seen: `python -m benchmarks.typing_replay`.

A function of a real file of this project is typed anew at 60 words a minute, with auto-closed brackets, Enter
with indentation, slips that are deleted again, moves to another line and back, and pauses to think. The
client does as VS Code does: each key is an edit and a request, and cancels the request before.
"""

import argparse
import asyncio
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from benchmarks.lsp import merged
from benchmarks.lsp_client import Client, home, text_of
from benchmarks.report import Figure

PROJECT = Path(__file__).resolve().parent.parent
FILE = "lsp/codellama_lsp/switch.py"
START = "class Switch:"

_KEY_S = 0.2  # 60 words of five letters a minute
_PAUSE_S = 0.7
_CLOSING = {"(": ")", "[": "]", "{": "}", '"': '"'}


@dataclass(frozen=True, slots=True)
class Key:
    """One keystroke: what it replaces in the cursor's line, the cursor after it, and the pause behind it."""

    name: str
    line: int
    start: int
    end: int
    text: str
    after: tuple[int, int]
    pause_s: float


@dataclass(slots=True)
class Seen:
    """What became of one key: its moment, and the suggestion that came for just this state, if one did."""

    key: Key
    at: float
    asked: int
    shown_s: float | None = None
    text: str = ""


def main() -> None:
    """Replays, prints what was seen, and writes the figures beside those of `benchmarks.lsp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=2000)
    keys = parser.parse_args().keys
    with home() as folder:
        root = folder / "project"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "*.safetensors", "results", "data")
        shutil.copytree(PROJECT, root, ignore=ignored)
        text = (root / FILE).read_text(encoding="utf-8")
        head, typed = text[: text.index(START)], text[text.index(START) :]
        (root / FILE).write_text(head, encoding="utf-8")
        client = Client(workspaceFolders=[{"uri": root.as_uri(), "name": "project"}])
        client.ready()
        uri = (root / FILE).as_uri()
        client.open(uri, head)
        figures = replay(client, uri, list(keystrokes(head, typed))[:keys])
        client.stop()
    print(merged("lsp", figures))


def keystrokes(head: str, typed: str) -> Iterator[Key]:
    """The keys that write `typed` after `head`, as a person and an editor do."""
    chance = random.Random(9)
    line, column = head.count("\n"), 0
    closing: list[str] = []  # what the editor has put behind the cursor
    n = 0
    while n < len(typed):
        character = typed[n]
        pause = _pause(chance, character)
        if character == "\n":
            if closing:  # a bracket over several lines: the editor's own closing goes, as people type on
                yield Key("Delete", line, column, column + len(closing), "", (line, column), _KEY_S)
                closing.clear()
            indentation = len(typed[n + 1 :]) - len(typed[n + 1 :].lstrip(" "))
            yield Key("Enter", line, column, column, "\n" + " " * indentation, (line + 1, indentation), pause)
            line, column = line + 1, indentation
            n += 1 + indentation
            continue
        if closing and character == closing[-1]:
            closing.pop()
            column += 1
            yield Key(character, line, column, column, "", (line, column), pause)  # over the bracket
        elif character in _CLOSING and not _in_string(typed[:n], character):
            closing.append(_CLOSING[character])
            pair = character + _CLOSING[character]
            column += 1
            yield Key(character, line, column - 1, column - 1, pair, (line, column), pause)
        else:
            if character.isalpha() and chance.random() < 0.02:  # a slip
                wrong = chance.choice("etaoinsr")
                yield Key(wrong, line, column, column, wrong, (line, column + 1), 2 * _KEY_S)
                yield Key("Backspace", line, column, column + 1, "", (line, column), _KEY_S)
            column += 1
            yield Key(character, line, column - 1, column - 1, character, (line, column), pause)
        if character == " " and chance.random() < 0.02:  # a look at the line above
            yield Key("Up", line, 0, 0, "", (line - 1, 0), 2 * _KEY_S)
            yield Key("Down", line, column, column, "", (line, column), _KEY_S)
        n += 1


def _in_string(typed: str, character: str) -> bool:
    """Whether a quote is typed in a string or right behind one, where VS Code closes nothing by itself."""
    if character != '"':
        return False
    line = typed.rpartition("\n")[2]
    return line.endswith('"') or typed.count('"""') % 2 == 1 or line.replace('"""', "").count('"') % 2 == 1


def _pause(chance: random.Random, character: str) -> float:
    """The time to the next key: log-normal around 0.2 s, longer between words, sometimes a thought."""
    if chance.random() < (0.35 if character == "\n" else 0.12 if character in " (,:=." else 0.01):
        return chance.uniform(_PAUSE_S, 1.8)
    return min(chance.lognormvariate(-1.75, 0.45) * (1.2 if character == " " else 1.0), 0.65)


def replay(client: Client, uri: str, keys: list[Key]) -> list[Figure]:
    """Types the keys in real time; what was seen is printed and summed up."""
    processes = [psutil.Process(client.process.pid), *_model_server()]
    cpu, requests, began = _cpu(processes), asyncio.run(_requests()), time.perf_counter()
    seen: list[Seen] = []
    due = began
    for key in keys:
        due += key.pause_s
        if seen and seen[-1].shown_s is None:
            client.notify("$/cancelRequest", {"id": seen[-1].asked})
        if key.text or key.end > key.start:
            client.replace(uri, key.line, key.start, key.end, key.text)
        at = time.perf_counter()
        seen.append(Seen(key, at, client.ask_completion(uri, *key.after)))
        while (left := due - time.perf_counter()) > 0:
            client.take(left)
            _look(client, seen)
        print(_row(seen[-1], at - began), flush=True)
    elapsed = time.perf_counter() - began
    share = (_cpu(processes) - cpu) / elapsed
    run = asyncio.run(_requests()) - requests
    crossed = _crossed(client, seen)
    pauses = [each for each in seen if each.key.pause_s >= _PAUSE_S]
    in_time = [each for each in pauses if each.shown_s is not None and each.shown_s <= 0.5 and each.text]
    visible, asked = len(in_time) / max(len(pauses), 1), run / len(seen)
    note = f"{len(seen)} keys in {elapsed:.0f} s, {len(pauses)} pauses of 0.7 s and more"
    return [
        Figure("visible within 500 ms in pauses", 100 * visible, "%", "at least 80 %", visible >= 0.8, note),
        Figure(
            "answers that crossed a key on their way", float(crossed), "", "", None, "the client drops them"
        ),
        Figure(
            "requests run, of keys", 100 * asked, "%", "under 35 %", asked < 0.35, "those asked ahead too"
        ),
        Figure("processor, language and model server", share, "cores", "under 1", share < 1),
    ]


def _look(client: Client, seen: list[Seen]) -> None:
    """Takes note of an answer to the last key."""
    last = seen[-1]
    if last.asked in client.answers and last.shown_s is None:
        came, answer = client.answers[last.asked]
        last.shown_s, last.text = came - last.at, text_of(answer)


def _crossed(client: Client, seen: list[Seen]) -> int:
    """Suggestions that came when their request had been given up already."""
    found = 0
    for each, following in pairwise(seen):
        came, answer = client.answers.get(each.asked, (0.0, {}))
        found += came > following.at and bool(text_of(answer)) and each.shown_s is None
    return found


def _row(seen: Seen, at: float) -> str:
    ghost = seen.text.replace("\n", "⏎")
    when = f"{1000 * seen.shown_s:4.0f} ms" if seen.shown_s is not None and ghost else "       "
    return f"{at:7.2f} s  {seen.key.name!r:12} {when}  {ghost}"


def _model_server() -> list[psutil.Process]:
    from codellama.serve import daemon

    status = daemon.status()
    return [psutil.Process(status.pid)] if status else []


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def _requests() -> float:
    """How many completions the model server was asked for."""
    from codellama.serve.client import ModelClient

    async with ModelClient() as client:
        http = await client._connected()
        text = (await http.get("/metrics")).text
    rows = [
        row for row in text.splitlines() if row.startswith("codellama_requests_total") and "infill" in row
    ]
    return sum(float(row.rpartition(" ")[2]) for row in rows)


if __name__ == "__main__":
    main()
