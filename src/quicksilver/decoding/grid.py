"""Where the blocks of a continuation lie, and which of a block's tokens are decided first."""

from quicksilver.diffusion.spec import DecodingDefaults, DiffusionSpec


def shared_with_prompt(spec: DiffusionSpec, num_prompt: int, block_length: int) -> int:
    """How many of the prompt's last tokens stand in the first block of the response."""
    return num_prompt % block_length if spec.has_absolute_grid else 0


def open_end(decoding: DecodingDefaults, first_mask: int) -> int | None:
    """Column behind those that are decided together with a block's first mask; None: its end.

    Sub-blocks are Fast-dLLM v2's (arXiv:2509.26328).
    """
    if decoding.has_first_alone and first_mask == 0:
        return 1
    length = decoding.sub_block_length
    return None if length is None else (first_mask // length + 1) * length
