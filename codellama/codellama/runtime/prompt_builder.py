"""From a request to its prompt: the ids, what ends the answer, what was packed, what is healed.

Free of torch: a prompt depends on the request, the tokenizer and the model's shape alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from codellama.runtime.chat import ChatFormat, chat_ids
from codellama.runtime.config import ModelConfig
from codellama.runtime.errors import ContextTooLong, InfillUnsupported, InvalidRequest
from codellama.runtime.families import InfillTokens, trained_to_infill
from codellama.runtime.healing import Healing, PieceIndex, plan_healing
from codellama.runtime.packing import Parts, choose, pack
from codellama.runtime.prompts import extra_text, infill_ids
from codellama.runtime.records import (
    ChatMessage,
    ChatRequest,
    InfillMode,
    InfillRequest,
    Packed,
    Request,
)
from codellama.runtime.tokenizer import Tokenizer

# Up to here the suffix goes first, so that it stays cached while one types; beyond, the larger part does. The
# pocket model's goes first whatever its length, for the same reason: the third edition's weights could do no
# other, the fourth's do both alike (codellama/training/LOG.md).
SPM_TOKENS = 1024
_CONTROL_IDS = 4  # BOS PRE SUF MID
_CACHED_EXTRAS = 512


@dataclass(frozen=True, slots=True)
class Prompt:
    """`ids` are unhealed; `new_text` says that the answer begins a text rather than continuing one.

    `fills_line`: one line is asked for where nothing stands yet, so an answer that is blank is none.
    """

    ids: list[int]
    stop_ids: frozenset[int]
    packed: tuple[Packed, ...] = ()
    healing: Healing | None = None
    new_text: bool = False
    fills_line: bool = False


class PromptBuilder:
    """Builds the prompts of one model."""

    def __init__(self, name: str, tokenizer: Tokenizer, config: ModelConfig, chat: ChatFormat | None) -> None:
        self._name, self._tokenizer, self._chat = name, tokenizer, chat
        self._max_context = config.max_context
        self._infills = trained_to_infill(config, tokenizer.control)
        self._spm_tokens = config.max_context if config.family == "pocket" else SPM_TOKENS
        # By content: extras come again with every keystroke, most of them unchanged.
        self._encode_extra = lru_cache(_CACHED_EXTRAS)(tokenizer.encode)

    @property
    def can_infill(self) -> bool:
        """Whether `auto` infills."""
        return self._infills == "yes"

    @property
    def can_chat(self) -> bool:
        return self._chat is not None

    @cached_property
    def index(self) -> PieceIndex:
        return PieceIndex(self._tokenizer.pieces)

    def build(self, request: Request) -> Prompt:
        """Raises InfillUnsupported, ContextTooLong, or InvalidRequest where the model cannot chat."""
        if isinstance(request, InfillRequest):
            return self._infill(request)
        if isinstance(request, ChatRequest):
            return self._conversation(request)
        ids = [self._tokenizer.bos_id, *self._tokenizer.encode(request.prompt)]
        self._check_length(len(ids), request.max_tokens)
        return Prompt(ids, self._tokenizer.stop_ids)

    def chat_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The exact prompt of a conversation."""
        if self._chat is None:
            raise InvalidRequest(
                f"The model {self._name} has no chat format: set chat.model to an instruct model."
            )
        return chat_ids(self._chat, self._tokenizer, messages)

    def _infill(self, request: InfillRequest) -> Prompt:
        self._check_length(_CONTROL_IDS + 1, request.max_tokens)
        room = self._max_context - request.max_tokens - _CONTROL_IDS
        tokens = self._infill_tokens(request.mode)
        fills_line = "\n" in request.stop and not request.prefix.rpartition("\n")[2].strip()
        suffix = request.suffix if tokens else ""
        parts = pack(self._tokenizer, request.prefix, suffix, request.extras, room, self._encode_extra)
        stop_ids = self._tokenizer.stop_ids
        if tokens is None:
            head = [i for extra in parts.extras for i in extra]
            ids = [self._tokenizer.bos_id, *head, *parts.prefix]
        else:
            stop_ids |= {tokens.eot}
            mode = _layout(request.mode, parts, self._spm_tokens)
            ids = infill_ids(tokens, self._tokenizer.bos_id, mode, parts.prefix, parts.suffix, parts.extras)
            if mode == "psm":  # the model was trained to go on in mid-token there
                return Prompt(ids, stop_ids, parts.packed, fills_line=fills_line)
        healing = plan_healing(self.index, parts.prefix)
        if healing and len(ids) + len(healing.text) + request.max_tokens > self._max_context:
            healing = None
        return Prompt(ids, stop_ids, parts.packed, healing, fills_line=fills_line)

    def _infill_tokens(self, mode: InfillMode) -> InfillTokens | None:
        """None for a prompt of the prefix alone."""
        tokens = self._tokenizer.infill if self._infills != "no" else None
        if mode == "prefix" or (mode == "auto" and (tokens is None or not self.can_infill)):
            return None
        if tokens is None:
            raise InfillUnsupported(
                f"The model {self._name} was not trained to infill: use mode 'prefix', or a model "
                "that infills, such as Code Llama 7B or 13B."
            )
        if self._infills == "unsure":
            logging.warning("%s has infill tokens, and may not have been trained with them", self._name)
        return tokens

    def _conversation(self, request: ChatRequest) -> Prompt:
        ids = self.chat_ids(request.messages)
        step = self._tokenizer.control.step
        stop_ids = self._tokenizer.stop_ids | ({step} if self._chat == "source" and step else set())
        packed: tuple[Packed, ...] = ()
        if request.documents:
            ids, packed = self._with_documents(request, len(ids))
        self._check_length(len(ids), request.max_tokens)
        return Prompt(ids, stop_ids, packed, new_text=True)

    def _with_documents(self, request: ChatRequest, bare: int) -> tuple[list[int], tuple[Packed, ...]]:
        """The prompt with the documents that fit at the head of the last message."""
        texts = [extra_text(document.filename, document.text) for document in request.documents]
        encoded = [self._encode_extra(text) for text in texts]
        room = self._max_context - request.max_tokens - bare
        # Where pieces meet, a text may take a token more or less than its parts do.
        for slack in range(0, room + 1, 16):
            kept = choose(request.documents, encoded, room - slack)
            head = "".join(text for n, text in enumerate(texts) if n in kept)
            last = request.messages[-1]
            messages = [*request.messages[:-1], ChatMessage(last.role, head + last.content)]
            ids = self.chat_ids(messages)
            if len(ids) + request.max_tokens <= self._max_context:
                break
        else:
            kept, ids = set(), self.chat_ids(request.messages)
        packed = tuple(
            Packed(document.filename, len(encoded[n]), n in kept)
            for n, document in enumerate(request.documents)
        )
        return ids, packed

    def _check_length(self, prompt: int, answer: int) -> None:
        if prompt + answer > self._max_context:
            raise ContextTooLong(
                f"The prompt of {prompt} tokens and an answer of {answer} do not fit the "
                f"{self._max_context} tokens of context of the model {self._name}: shorten one "
                "of them."
            )


def _layout(mode: InfillMode, parts: Parts, spm_tokens: int) -> Literal["psm", "spm"]:
    """Depends on the request alone, so that the same request always gets the same prompt."""
    if mode == "psm" or mode == "spm":  # noqa: PLR1714 - mypy narrows this form only
        return mode
    before = len(parts.prefix) + sum(map(len, parts.extras))
    return "spm" if before <= spm_tokens else "psm"
