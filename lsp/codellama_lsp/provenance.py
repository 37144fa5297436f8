"""Why the last suggestion is what it is: `codellama.why`, as data and as a text for people."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from codellama.assist.completion import Completion

Origin = Literal["model", "repository", "cache", "ahead"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """A suggestion's history: where it was wanted, what was shown, and how that came about.

    `origin`: written by the model, seen elsewhere in the repository, typed along a suggestion of before, or
    asked for ahead. `waited_s` is the pause before the model was asked, `total_s` from request to answer.
    """

    path: str
    line: int
    character: int
    text: str
    origin: Origin
    completion: "Completion | None"
    waited_s: float
    total_s: float

    def payload(self) -> dict[str, Any]:
        """The answer to `codellama.why`."""
        told = {
            "path": self.path,
            "position": {"line": self.line, "character": self.character},
            "text": self.text,
            "origin": self.origin,
            "times": {"waited_ms": _ms(self.waited_s), "total_ms": _ms(self.total_s)},
        }
        if self.completion is not None:
            told |= _details(self.completion)
        told["markdown"] = _markdown(told)
        return told


def _details(done: "Completion") -> dict[str, Any]:
    stats, tokens = done.stats, {packed.filename: packed for packed in done.packed}
    snippets = [
        {
            "path": source.path,
            "start_line": source.start_line,
            "end_line": source.end_line,
            "score": round(source.score, 3),
            "why": source.why,
            "tokens": tokens[source.path].tokens if source.path in tokens else 0,
        }
        for source in done.sources
    ]
    return {
        "model_said": done.said,
        "single_line": done.single_line,
        "filters": list(done.filters),
        "unknown_names": list(done.unknown),
        "seen_in": done.guess.source if done.guess and not done.guess.own else None,
        "confidence": round(done.guess.confidence, 3) if done.guess else None,
        "mean_logprob": stats.mean_logprob,
        "snippets": snippets,
        "tokens": {
            "prompt": stats.prompt_tokens,
            "reused": stats.reused_tokens,
            "generated": stats.tokens,
            "left_out": [packed.filename for packed in done.packed if not packed.kept],
        },
        "model_times": {
            **{name.removesuffix("_s") + "_ms": _ms(value) for name, value in done.times.items()},
            "prefill_ms": _ms(stats.prefill_s),
            "decode_ms": _ms(stats.decode_s),
        },
    }


_ORIGINS = {
    "model": "written by the model",
    "repository": "as the line goes on elsewhere in the repository",
    "cache": "typed along a suggestion of before",
    "ahead": "asked for ahead, while the last suggestion was shown",
}


def _markdown(told: dict[str, Any]) -> str:
    times, position = told["times"], told["position"]
    place = f"{told['path']}:{position['line'] + 1}:{position['character'] + 1}"
    shown = f"`{told['text'].splitlines()[0]}`" if told["text"] else "nothing"
    lines = [
        f"**{shown}** at {place}: {_ORIGINS[told['origin']]}, after {times['total_ms']} ms "
        f"({times['waited_ms']} of them waited).",
    ]
    if "tokens" not in told:
        return lines[0]
    tokens, spent = told["tokens"], told["model_times"]
    lines += [
        "",
        f"- {tokens['prompt']} tokens of prompt, {tokens['reused']} reused; {tokens['generated']} written",
        "- " + ", ".join(f"{name.removesuffix('_ms')} {value} ms" for name, value in spent.items()),
        f"- filters that changed it: {', '.join(told['filters']) or 'none'}",
    ]
    if told["text"] != told["model_said"]:
        lines.append(f"- the model said `{told['model_said'][:200]}`")
    if told["seen_in"]:
        lines.append(f"- seen in {told['seen_in']}, confidence {told['confidence']}")
    if told["unknown_names"]:
        lines.append(f"- names that exist nowhere: {', '.join(told['unknown_names'])}")
    for s in told["snippets"]:
        span = f"{s['path']}:{s['start_line']}-{s['end_line']}"
        lines.append(f"- {span}, {s['why']}, score {s['score']}, {s['tokens']} tokens")
    return "\n".join(lines)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
