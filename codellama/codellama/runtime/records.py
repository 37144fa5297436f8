"""What goes into the engine and what comes out: plain frozen records, free of torch.

The same records travel over HTTP (`codellama.serve.api` turns them to JSON and back), so a caller
sees one shape whether the engine runs in its own process or in the server's.
"""

from dataclasses import dataclass
from typing import Literal

InfillMode = Literal["auto", "psm", "spm", "prefix"]
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Extra:
    """A piece of another file that goes before the prefix; a higher `priority` is kept longer."""

    filename: str
    text: str
    priority: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy and ignores the rest.

    `min_p` leaves out tokens less likely than this share of the likeliest.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    min_p: float = 0.0


@dataclass(frozen=True, slots=True)
class InfillRequest:
    """Fill the gap between `prefix` and `suffix`; extras come in a stable order, over-supplied.

    `stop` holds texts at which generation ends; they are not part of the result. With `top_logprobs` the
    result tells its tokens, each with so many of the likeliest.
    """

    prefix: str
    suffix: str
    extras: tuple[Extra, ...] = ()
    max_tokens: int = 64
    mode: InfillMode = "auto"
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Continue `prompt`; BOS is put in front, control pieces never come from the text."""

    prompt: str
    max_tokens: int = 64
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation; roles are system, user and assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Answer the last message, in the model's own chat format.

    `documents` come over-supplied; those that fit head the last message.
    """

    messages: tuple[ChatMessage, ...]
    max_tokens: int = 256
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    documents: tuple[Extra, ...] = ()
    top_logprobs: int | None = None


Request = InfillRequest | CompletionRequest | ChatRequest


@dataclass(frozen=True, slots=True)
class Packed:
    """What became of one extra: its tokens (path line included) and whether it was kept."""

    filename: str
    tokens: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts in tokens, times in seconds; `mean_logprob` is None where no token was generated.

    `choice_s` is what trying other lines and choosing among them took beside the first (`line_choice`).
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    tokens: int = 0
    mean_logprob: float | None = None
    choice_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Token:
    """A choice of the model: what it adds to the text, its log-probability, the likeliest in its place.

    The first of an answer may have spelled the prompt's end as well (see `healing`); that is left out here,
    and its probability is one among those that do.
    """

    content: bytes
    logprob: float
    likeliest: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a stream: the text it adds (whole characters only) and the ids behind it.

    `tokens`, where they were asked for, are those since the piece before: text may be held back.
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The whole of a generation; `text` ends before any stop token or stop text.

    `steps`: after each choice of the model the characters of `text` so far, and its log-probability; that of
    what ended the text comes last, and where a line was chosen from several (`line_choice`) it carries what
    spoke for it. Empty where a server does not tell. `tokens` are those of the text, where they were asked
    for.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: Stats
    packed: tuple[Packed, ...] = ()
    steps: tuple[tuple[int, float], ...] = ()
    tokens: tuple[Token, ...] = ()
