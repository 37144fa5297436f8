"""Asks the thirty questions of questions.toml as a user would, and writes the transcript.

    python -m benchmarks.questions REPOSITORIES [--transcript docs/ask.md]

REPOSITORIES is a folder with a checkout of each repository at the commit that the file names, by its name
without the owner. A question counts when one of its files is among the first three citations.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIRST = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a repository, its answer, and whether an expected file came first."""

    repository: str
    question: str
    answer: str
    citations: tuple[str, ...]
    found: bool
    seconds: float


def ask(folder: Path, question: str) -> dict[str, Any]:
    """What `codellama ask --no-generate --json` prints."""
    command = [sys.executable, "-m", "codellama_cli", "ask", question, "--no-generate", "--json"]
    done = subprocess.run([*command, "--repo", str(folder)], check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run(repositories: Path) -> list[Asked]:
    """All questions, in the file's order; raises where a checkout is not at its commit."""
    asked: list[Asked] = []
    for repository in tomllib.loads((HERE / "questions.toml").read_text(encoding="utf-8"))["repository"]:
        folder = repositories / repository["name"].rpartition("/")[2]
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        if head != repository["commit"]:
            raise SystemExit(f"{folder} is at {head}, not at {repository['commit']}")
        for question in repository["question"]:
            answer = ask(folder, question["text"])
            cited = [c["path"] for c in answer["citations"] if c["verified"]]
            asked.append(
                Asked(
                    f"{repository['name']} {repository['version']}",
                    question["text"],
                    answer["answer"],
                    tuple(cited),
                    bool(set(cited[:FIRST]) & set(question["expected"])),
                    sum(answer["timings"].values()),
                )
            )
    return asked


def transcript(asked: list[Asked]) -> str:
    """The answers as Markdown."""
    parts: list[str] = []
    last = ""
    for one in asked:
        if one.repository != last:
            parts.append(f"### {one.repository}")
            last = one.repository
        verdict = "found" if one.found else "missed"
        parts.append(f"**{one.question}** ({verdict})\n\n````text\n{one.answer}\n````")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Prints what was found and missed; writes the transcript between the marks of the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repositories", type=Path)
    parser.add_argument("--transcript", type=Path)
    arguments = parser.parse_args()
    asked = run(arguments.repositories)
    found = sum(one.found for one in asked)
    for one in asked:
        print(f"{'found ' if one.found else 'MISSED'} {one.seconds * 1000:4.0f} ms  {one.question}")
        if not one.found:
            print("       cited:", ", ".join(one.citations[:FIRST]))
    print(f"{found} of {len(asked)}")
    if arguments.transcript:
        document = arguments.transcript.read_text(encoding="utf-8")
        mark = "<!-- transcript -->\n"
        head = document.partition(mark)[0]
        text = f"{head}{mark}\nFound: {found} of {len(asked)}.\n\n{transcript(asked)}"
        arguments.transcript.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
