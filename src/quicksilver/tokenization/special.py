"""The reserved tokens, in id order. The list is fixed once and for all: ids 0 to 47 never change meaning.

Later work takes names from the reserved tail instead of shifting ids, so every checkpoint keeps its vocabulary.
"""

SPECIAL_TOKENS: tuple[str, ...] = (
    "<pad>",
    "<eos>",
    "<mask>",
    "<expand>",
    "<delete>",
    "<fim_pre>",
    "<fim_suf>",
    "<fim_mid>",
    "<canvas>",
    "<file>",
    "<repo>",
    "<path>",
    "<cursor>",
    "<edit_before>",
    "<edit_after>",
    "<region_start>",
    "<region_end>",
    "<recent_edit>",
    "<lint>",
    "<apply_snippet>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    *(f"<reserved_{i}>" for i in range(20)),
)
