"""What one request comes to: ids and text as the scheduler hands them over, and the whole at the end."""

import math
from collections import deque
from collections.abc import Sequence

from codellama.runtime.generation import StreamedText
from codellama.runtime.healing import PieceIndex, Spelling
from codellama.runtime.prompt_builder import Prompt
from codellama.runtime.records import FinishReason, Piece, Request, Result, Stats, Token
from codellama.runtime.sampling import Sampler
from codellama.runtime.scheduler import Job
from codellama.runtime.tokenizer import Tokenizer


class Answer:
    """What one request has come to so far: ids and text as the scheduler hands them over."""

    def __init__(
        self, tokenizer: Tokenizer, index: PieceIndex, prompt: Prompt, request: Request, sampler: Sampler
    ) -> None:
        """`sampler` is what chooses, and notes what else was likely."""
        self._tokenizer, self._index = tokenizer, index
        self._sampler = sampler
        self._tells = request.top_logprobs is not None
        self._control = {i: name for name, i in tokenizer.control.names.items()}
        self._tokens: list[Token] = []
        self._shown = 0  # of the tokens, in pieces
        self._prompt = prompt
        self._spelling = Spelling(index, prompt.healing) if prompt.healing else None
        self._max_tokens = request.max_tokens
        decode = tokenizer.decode if prompt.new_text else tokenizer.decode_continuation
        self._text = StreamedText(decode, request.stop)
        self._ids: list[int] = []
        self._steps: list[tuple[int, float]] = []
        self._reason: FinishReason = "length"
        self.pieces: deque[Piece] = deque()

    @property
    def text(self) -> str:
        """What it says so far."""
        return self._text.text

    @property
    def stopped(self) -> bool:
        """Whether it ended by itself."""
        return self._reason == "stop"

    @property
    def ids_to_run(self) -> list[int]:
        """The prompt without the tokens that healing takes back."""
        healing = self._prompt.healing
        return self._prompt.ids[: -healing.count] if healing else self._prompt.ids

    @property
    def spelled_bytes(self) -> int:
        """The most tokens that may spell the prompt's end again: one for each byte."""
        return len(self._prompt.healing.text) if self._prompt.healing else 0

    def allowed(self) -> list[int] | None:
        """The ids that may come next; None for all."""
        return self._spelling.allowed() if self._spelling else None

    def barred(self) -> frozenset[int]:
        """The ids that may not come next, likely or not: what would leave a line blank that is asked for."""
        if not self._prompt.fills_line or self._text.text.strip():
            return frozenset()
        return self._index.breaking | self._prompt.stop_ids

    def take(self, token: int, logprob: float) -> bool:
        """Adds one id to the answer; whether more are wanted."""
        told = self._told(token, logprob) if self._tells else None
        ids = self._answered(token)
        if not ids:
            return True
        if told is not None and token not in self._prompt.stop_ids:
            self._tokens.append(told)
        more = self._add(token, ids)
        self._steps.append((len(self._text.text), logprob))
        return more

    def _add(self, token: int, ids: Sequence[int]) -> bool:
        if token in self._prompt.stop_ids:
            self._reason = "stop"
            return False
        for i in ids:
            self._ids.append(i)
            piece = self._text.push(i)
            if piece:
                self.pieces.append(Piece(piece, (i,), self._new_tokens()))
            if self._text.stopped:
                self._reason = "stop"
                return False
            if len(self._ids) == self._max_tokens:
                return False
        return True

    def finish(self) -> Piece | None:
        """What was held back, once nothing more comes."""
        text = self._text.finish()
        # Tokens of a stop text, or of a character that was cut off, are none of the answer.
        while self._tokens and _characters(self._tokens[:-1]) >= len(self._text.text):
            self._tokens.pop()
        tokens = self._new_tokens()
        return Piece(text, (), tokens) if text or tokens else None

    def result(self, job: Job) -> Result:
        """The whole, once `job` has ended."""
        mean = sum(logprob for _, logprob in self._steps) / len(self._steps) if self._steps else None
        stats = Stats(
            prompt_tokens=len(self._prompt.ids),
            reused_tokens=job.reused,
            prefill_s=job.prefill_s,
            decode_s=job.decode_s,
            tokens=len(self._ids),
            mean_logprob=mean,
        )
        reason = "cancelled" if job.was_cancelled else self._reason
        text = self._text.text
        steps = tuple((min(end, len(text)), logprob) for end, logprob in self._steps)
        return Result(text, tuple(self._ids), reason, stats, self._prompt.packed, steps, tuple(self._tokens))

    def _new_tokens(self) -> tuple[Token, ...]:
        new = tuple(self._tokens[self._shown :])
        self._shown = len(self._tokens)
        return new

    def _told(self, token: int, logprob: float) -> Token:
        """The choice and what else was likely, without what they spell of a healed prompt's end."""
        spelled = self._spelling.left if self._spelling else b""
        size = len(spelled)
        others = ((self._named(i), chance) for i, chance in self._sampler.likeliest if chance > -math.inf)
        likeliest = tuple(
            (name[size:], chance)
            for name, chance in others
            if not size or (len(name) > size and name.startswith(spelled))
        )
        return Token(self._piece(token)[size:], logprob, likeliest)

    def _piece(self, token: int) -> bytes:
        pieces = self._index.pieces
        return pieces[token] if token < len(pieces) else b""

    def _named(self, token: int) -> bytes:
        """Its piece, or a control token's name, which is no text."""
        return self._piece(token) or self._control.get(token, "").encode()

    def _answered(self, token: int) -> list[int]:
        """What of the token is answer: all of it, or as ids of their own what goes beyond a healed prompt."""
        if self._spelling is None or self._spelling.done:
            return [token]
        beyond = self._spelling.push(token)
        try:
            return self._tokenizer.encode_continuation(beyond.decode())
        except UnicodeDecodeError:  # it ends inside a character
            return self._index.single_bytes(beyond)


def _characters(tokens: Sequence[Token]) -> int:
    """How many whole characters they are."""
    content = b"".join(token.content for token in tokens)
    return len(content.decode("utf-8", "replace").rstrip("\ufffd"))
