"""The known families of Llamas and what sets them apart: their control tokens. Free of torch.

A tokenizer's file names its control pieces at most; what they are for, the family says. The tables are
of the reference implementations; Llama 4's infill pieces stand in its tokenizer, though no infill format
of it was published (see `infill`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

from codellama.runtime.config import ModelConfig


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """The ids that frame an infill prompt, and the one that ends the answer."""

    pre: int
    suf: int
    mid: int
    eot: int


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """The ids that frame a turn of Llama 3's and 4's chat: around the role, and after the content."""

    start: int
    end: int
    eot: int


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Every control piece of a checkpoint by its text, and what the runtime uses some of them for.

    `ends` are the ids that end any answer. `step` ends a turn of Code Llama 70B's chat.
    """

    names: Mapping[str, int]
    bos: int
    eos: int
    ends: frozenset[int]
    infill: InfillTokens | None = None
    turns: TurnTokens | None = None
    step: int | None = None
    ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", frozenset(self.names.values()))

    @property
    def used(self) -> frozenset[int]:
        """Those that the runtime has a use for."""
        framing = [astuple(part) for part in (self.infill, self.turns) if part]
        return self.ends.union([self.bos, self.eos], *framing)


# The pocket model: control tokens follow its ranks, in this order.
POCKET_SPECIALS = ("<|bos|>", "<|eos|>", "<|pre|>", "<|suf|>", "<|mid|>", "<|eot|>")

LLAMA3_RANKS = 128_000
LLAMA3_VOCABULARY = 128_256
_LLAMA3 = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
)

LLAMA4_RANKS = 200_000
LLAMA4_VOCABULARY = 202_048
_LLAMA4 = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>"),
    *(f"<|text_post_train_reserved_special_token_{n}|>" for n in range(6)),
    *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
)

# Where the pieces of Llama 1, Llama 2 and Code Llama have two spaces: the first of their merges.
LLAMA_SPACES = 259

# Code Llama's 32,016 pieces: the control ids are 32007 up to 32015. The pieces 32000 to 32006 are parts
# of them that ordinary text reaches (`Set <E>` holds 32005), and stay as the reference gives them.
CODE_LLAMA_INFILL = InfillTokens(pre=32_007, suf=32_008, mid=32_009, eot=32_010)
CODE_LLAMA_STEP = 32_015
CODE_LLAMA_END = "▁<EOT>"
CODE_LLAMA_NAMES = frozenset({"▁<PRE>", "▁<SUF>", "▁<MID>", *("▁" + "<EOT>" * n for n in range(1, 7))})

# By piece text, in the order of InfillTokens and TurnTokens.
_INFILL = (
    ("<|pre|>", "<|suf|>", "<|mid|>", "<|eot|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|eot|>"),
)
_TURNS = (
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ("<|header_start|>", "<|header_end|>", "<|eot|>"),
)
_BOS = ("<|begin_of_text|>", "<|bos|>", "<s>")
_EOS = ("<|end_of_text|>", "<|eos|>", "</s>")
_ENDS = frozenset({*_EOS, "<|eom_id|>", "<|eot_id|>", "<|eom|>", "<|eot|>"})


def specials_of_ranks(ranks: int) -> dict[str, int]:
    """The control pieces that follow a file of so many tiktoken ranks, by their text."""
    if ranks == LLAMA3_RANKS:
        return _numbered(_LLAMA3, ranks, LLAMA3_VOCABULARY)
    if ranks == LLAMA4_RANKS:
        return _numbered(_LLAMA4, ranks, LLAMA4_VOCABULARY)
    return {name: ranks + n for n, name in enumerate(POCKET_SPECIALS)}


def control_tokens(
    names: Mapping[str, int],
    *,
    bos: int | None = None,
    eos: int | None = None,
    ends: Iterable[int] = (),
    infill: InfillTokens | None = None,
) -> ControlTokens | None:
    """What the pieces `names` are for; what the checkpoint itself says (the other arguments) comes first.

    None where no piece begins or ends a text.
    """
    bos = _first(names, _BOS) if bos is None else bos
    eos = _first(names, _EOS) if eos is None else eos
    if bos is None or eos is None:
        return None
    turns = next((found for found in (_all(names, n) for n in _TURNS) if found), None)
    if infill is None:
        found = next((found for found in (_all(names, n) for n in _INFILL) if found), None)
        infill = InfillTokens(*found) if found else None
    return ControlTokens(
        names=names,
        bos=bos,
        eos=eos,
        ends=frozenset({eos, *ends, *(i for name, i in names.items() if name in _ENDS)}),
        infill=infill,
        turns=TurnTokens(*turns) if turns else None,
        step=CODE_LLAMA_STEP if infill == CODE_LLAMA_INFILL else None,
    )


def trained_to_infill(config: ModelConfig, control: ControlTokens) -> Literal["yes", "unsure", "no"]:
    """Whether the model behind these tokens fills gaps; `unsure` is done only where asked for outright.

    Code Llama 34B and the Python models of 7B and 13B were never trained for it. Of the 70B models the
    README says no and the model card yes; the base is known by its RoPE base. Llama 4's tokenizer has the
    pieces, and nothing published says that the models were trained with them.
    """
    if control.infill is None or max(astuple(control.infill)) >= config.vocab_size:
        return "no"
    shape = (config.dim, config.n_layers)
    if shape == (8192, 48):
        return "no"
    if shape == (8192, 80) and config.rope_theta < 1e6:
        return "unsure"
    return "unsure" if "<|fim_prefix|>" in control.names else "yes"


def _numbered(named: tuple[str, ...], first: int, size: int) -> dict[str, int]:
    names = {name: first + n for n, name in enumerate(named)}
    # The places that no published model uses, under names that no two share.
    rest = range(first + len(named), size)
    return names | {f"<|reserved_special_token_{i - first - len(named) + 2}|>": i for i in rest}


def _first(names: Mapping[str, int], wanted: tuple[str, ...]) -> int | None:
    return next((names[name] for name in wanted if name in names), None)


def _all(names: Mapping[str, int], wanted: tuple[str, ...]) -> list[int] | None:
    return [names[name] for name in wanted] if all(name in names for name in wanted) else None
