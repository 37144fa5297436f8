"""Typing, replayed key by key, and what a person would have seen: `python -m benchmarks.typing_replay`.

Classes of real files of this project are typed anew at 60 words a minute, with auto-closed brackets, Enter
with indentation, slips that are deleted again, moves to another line and back, and pauses to think. The
client does as VS Code does: each key is an edit and a request, and cancels the request before. For each pause
it tells whether what was shown is what was typed next, or why nothing was.
"""

import argparse
import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from benchmarks.lsp import merged
from benchmarks.lsp_client import Client, home, text_of
from benchmarks.report import Figure

PROJECT = Path(__file__).resolve().parent.parent
# Files, and where in each the typing begins; what stands there in the repository is taken away.
TYPED = (
    ("lsp/codellama_lsp/switch.py", "class Switch:"),
    ("lsp/codellama_lsp/edits.py", "class Edits:"),
)

_KEY_S = 0.2  # 60 words of five letters a minute
_PAUSE_S = 0.7
_VISIBLE_S = 0.5
_CLOSING = {"(": ")", "[": "]", "{": "}", '"': '"'}


@dataclass(frozen=True, slots=True)
class Key:
    """One keystroke: what it replaces in the cursor's line, the cursor after it, and the pause behind it.

    `rest` is what of the line will be typed after it.
    """

    name: str
    line: int
    start: int
    end: int
    text: str
    after: tuple[int, int]
    pause_s: float
    rest: str = ""


@dataclass(slots=True)
class Seen:
    """What became of one key: its moment, and the suggestion that came for just this state, if one did.

    `why`: in a pause, what the server tells of its last suggestion.
    """

    uri: str
    key: Key
    at: float
    asked: int
    shown_s: float | None = None
    text: str = ""
    why: dict[str, Any] = field(default_factory=dict)

    @property
    def in_time(self) -> bool:
        """Something was seen soon enough."""
        return bool(self.text) and self.shown_s is not None and self.shown_s <= _VISIBLE_S

    @property
    def right(self) -> bool:
        """What was seen is what was typed next, as far as it goes in this line."""
        first = self.text.lstrip().split("\n", 1)[0].rstrip()
        return bool(first) and self.key.rest.lstrip().startswith(first)

    @property
    def reason(self) -> str:
        """Why nothing was seen in time, in a word or two."""
        position = self.why.get("position", {})
        if self.in_time:
            return ""
        if (position.get("line"), position.get("character")) != self.key.after:
            return "no answer yet"
        if self.text:
            return "late"
        filters = self.why.get("filters", [])
        return filters[-1] if filters else "nothing said"


def main() -> None:
    """Replays, prints what was seen, and writes the figures beside those of `benchmarks.lsp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--confidence", type=float, help="completion.confidence, else its default")
    given = parser.parse_args()
    options = {} if given.confidence is None else {"completion": {"confidence": given.confidence}}
    with home() as folder:
        root = folder / "project"
        ignored = shutil.ignore_patterns(".*", "__pycache__", "*.safetensors", "results", "data")
        shutil.copytree(PROJECT, root, ignore=ignored)
        heads, keys = {}, []
        for name, start in TYPED:
            file = root / name
            text = file.read_text(encoding="utf-8")
            head, typed = text[: text.index(start)], text[text.index(start) :]
            file.write_text(head, encoding="utf-8")
            heads[file.as_uri()] = head
            keys += [(file.as_uri(), key) for key in keystrokes(head, typed)]
        folders = [{"uri": root.as_uri(), "name": "project"}]
        client = Client(workspaceFolders=folders, initializationOptions=options)
        client.ready()
        for uri, head in heads.items():
            client.open(uri, head)
        figures = replay(client, keys[: given.keys])
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
        rest = typed[n + 1 :].split("\n", 1)[0]
        if character == "\n":
            if closing:  # a bracket over several lines: the editor's own closing goes, as people type on
                yield Key("Delete", line, column, column + len(closing), "", (line, column), _KEY_S)
                closing.clear()
            indentation = len(typed[n + 1 :]) - len(typed[n + 1 :].lstrip(" "))
            yield Key(
                "Enter", line, column, column, "\n" + " " * indentation, (line + 1, indentation), pause, rest
            )
            line, column = line + 1, indentation
            n += 1 + indentation
            continue
        if closing and character == closing[-1]:
            closing.pop()
            column += 1
            yield Key(character, line, column, column, "", (line, column), pause, rest)  # over the bracket
        elif character in _CLOSING and not _in_string(typed[:n], character):
            closing.append(_CLOSING[character])
            pair = character + _CLOSING[character]
            column += 1
            yield Key(character, line, column - 1, column - 1, pair, (line, column), pause, rest)
        else:
            if character.isalpha() and chance.random() < 0.02:  # a slip
                wrong = chance.choice("etaoinsr")
                yield Key(wrong, line, column, column, wrong, (line, column + 1), 2 * _KEY_S)
                yield Key("Backspace", line, column, column + 1, "", (line, column), _KEY_S)
            column += 1
            yield Key(character, line, column - 1, column - 1, character, (line, column), pause, rest)
        if character == " " and chance.random() < 0.04:  # a look at the line above
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


def replay(client: Client, keys: list[tuple[str, Key]]) -> list[Figure]:
    """Types the keys in real time; what was seen is printed and summed up."""
    processes = [psutil.Process(client.process.pid), *_model_server()]
    cpu, requests, began = _cpu(processes), asyncio.run(_requests()), time.perf_counter()
    seen: list[Seen] = []
    due = began
    for uri, key in keys:
        due += key.pause_s
        if seen and seen[-1].shown_s is None:
            client.notify("$/cancelRequest", {"id": seen[-1].asked})
        if key.text or key.end > key.start:
            client.replace(uri, key.line, key.start, key.end, key.text)
        at = time.perf_counter()
        seen.append(Seen(uri, key, at, client.ask_completion(uri, *key.after)))
        while (left := due - time.perf_counter()) > 0:
            client.take(left)
            _look(client, seen)
        if key.pause_s >= _PAUSE_S:
            seen[-1].why = client.call("workspace/executeCommand", {"command": "codellama.why"})
        print(_row(seen[-1], at - began), flush=True)
    elapsed = time.perf_counter() - began
    share = (_cpu(processes) - cpu) / elapsed
    run = asyncio.run(_requests()) - requests
    crossed = _crossed(client, seen)
    pauses = [each for each in seen if each.key.pause_s >= _PAUSE_S]
    shown = [each for each in pauses if each.in_time]
    visible, asked = len(shown) / max(len(pauses), 1), run / len(seen)
    right = sum(each.right for each in shown) / max(len(shown), 1)
    reasons = Counter(each.reason for each in pauses if not each.in_time).most_common()
    note = f"{len(seen)} keys in {elapsed:.0f} s, {len(pauses)} pauses of 0.7 s and more"
    others = ", ".join(f"{reason} {count}" for reason, count in reasons)
    return [
        Figure("visible within 500 ms in pauses", 100 * visible, "%", "at least 80 %", visible >= 0.8, note),
        Figure(
            "of those, what was typed next, as far as it goes", 100 * right, "%", note=f"the rest: {others}"
        ),
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
    row = f"{at:7.2f} s  {seen.key.name!r:12} {when}  {ghost}"
    if seen.key.pause_s < _PAUSE_S:
        return row
    judged = "right" if seen.right else "wrong" if seen.in_time else seen.reason
    said = str(seen.why.get("model_said", "")).split("\n", 1)[0][:40]
    return f"{row:70} | pause of {seen.key.pause_s:.1f} s: {judged}; the model said {said!r}"


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
        http = await client._exchange.connected()
        text = (await http.get("/metrics")).text
    rows = [
        row for row in text.splitlines() if row.startswith("codellama_requests_total") and "infill" in row
    ]
    return sum(float(row.rpartition(" ")[2]) for row in rows)


if __name__ == "__main__":
    main()
