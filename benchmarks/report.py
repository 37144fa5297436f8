"""Writes what a benchmark measured: `results/NAME.json` for scripts, `results/NAME.md` for people.

Every result carries its machine, date and versions. A benchmark states each goal beside its figure, and
whether it was reached.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number; `goal` in words ("at least 0.97"), `reached` None where there is none."""

    name: str
    value: float
    unit: str = ""
    goal: str = ""
    reached: bool | None = None
    note: str = ""


def at_least(name: str, value: float, goal: float, unit: str = "x") -> Figure:
    """A figure that is good when it is high."""
    return Figure(name, value, unit, f"at least {goal} {unit}", value >= goal)


def at_most(name: str, value: float, goal: float, unit: str = "ms") -> Figure:
    """A figure that is good when it is low."""
    return Figure(name, value, unit, f"at most {goal:g} {unit}", value <= goal)


def machine() -> dict[str, str]:
    """The processor, how many of it, and the system."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def write(
    name: str,
    figures: Iterable[Figure],
    packages: Iterable[str] = (),
    more: Mapping[str, object] | None = None,
    folder: Path = RESULTS,
) -> str:
    """Writes both files into `folder` and returns the table; `packages` are those whose versions matter."""
    rows = list(figures)
    versions = {package: importlib.metadata.version(package) for package in packages}
    day = datetime.now(UTC).date().isoformat()
    data = {
        "benchmark": name,
        "date": day,
        "machine": machine(),
        "versions": versions,
        "figures": [asdict(figure) for figure in rows],
        **(more or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = _table(name, day, versions, rows)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def _table(name: str, day: str, versions: Mapping[str, str], rows: list[Figure]) -> str:
    facts = machine()
    head = [
        f"# {name}",
        "",
        f"{day}; {facts['cores']} x {facts['processor']}, {facts['system']}, Python {facts['python']}"
        + "".join(f", {package} {version}" for package, version in versions.items()),
        "",
        "| figure | measured | goal | reached | note |",
        "| --- | --- | --- | --- | --- |",
    ]
    words = {True: "yes", False: "**no**", None: ""}
    body = [
        f"| {row.name} | {row.value:.4g} {row.unit} | {row.goal} | {words[row.reached]} | {row.note} |"
        for row in rows
    ]
    return "\n".join([*head, *body]) + "\n"
