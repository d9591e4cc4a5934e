"""Where a token stands: rotary embedding of positions, and positions in packed documents."""

from __future__ import annotations

from keras import ops


def rotate(x, positions, base: float):
    """Rotary position embedding (Su et al., 2021), channel i paired with channel i + H/2.

    Args:
        x: (B, heads, T, H) queries or keys.
        positions: (B, T) or (1, T) int32, place of each token in its sequence.
        base: float. Wavelengths run from 2 pi to 2 pi x base.

    Returns:
        (B, heads, T, H), same dtype as `x`.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-ops.arange(half, dtype="float32") / half)  # (H/2,)
    angles = ops.cast(positions, "float32")[:, None, :, None] * frequencies  # (B, 1, T, H/2)
    cos, sin = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
    first, second = x[..., :half], x[..., half:]
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def document_positions(document_ids):
    """Place of each token in its document: (B, T) int32, for ids (B, T) that ascend in each row.

    A document starts after all the tokens whose ids are smaller.

    Example: `document_positions(np.array([[0, 0, 1, 1, 1, 2]]))  # [[0, 1, 0, 1, 2, 0]]`
    """
    before = document_ids[:, None, :] < document_ids[:, :, None]  # (B, T, T)
    starts = ops.sum(ops.cast(before, "int32"), axis=-1)  # (B, T)
    return ops.arange(ops.shape(document_ids)[1], dtype="int32") - starts
