"""The known families of Llamas and what sets them apart: their control tokens. Free of torch.

A tokenizer file holds ordinary pieces only (tiktoken) or does not say which of them control the model
(SentencePiece), so the family names them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """The ids that frame an infill prompt, and the one that ends the answer."""

    pre: int
    suf: int
    mid: int
    eot: int


# The pocket model: control tokens follow its ranks, in this order.
POCKET_SPECIALS = ("<|bos|>", "<|eos|>", "<|pre|>", "<|suf|>", "<|mid|>", "<|eot|>")

# Llama 3: reserved places fill the gaps, which no text and no prompt of ours uses.
LLAMA3_RANKS = 128_000
LLAMA3_SPECIALS = {
    "<|begin_of_text|>": 128_000,
    "<|end_of_text|>": 128_001,
    "<|start_header_id|>": 128_006,
    "<|end_header_id|>": 128_007,
    "<|eom_id|>": 128_008,
    "<|eot_id|>": 128_009,
    "<|python_tag|>": 128_010,
}
LLAMA3_VOCABULARY = 128_256

# Code Llama's 32,016 pieces: the control ids are 32007 up to 32015. The pieces 32000 to 32006 are parts
# of them that ordinary text reaches (`Set <E>` holds 32005), and stay as the reference gives them.
CODE_LLAMA_PIECES = 32_016
CODE_LLAMA_INFILL = InfillTokens(pre=32_007, suf=32_008, mid=32_009, eot=32_010)
CODE_LLAMA_CONTROL = range(32_007, 32_016)
