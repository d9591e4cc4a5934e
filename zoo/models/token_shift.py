"""Token shift: some channels of a layer's input come from the tokens before.

A feed-forward network, which looks at each token alone, then sees a few tokens at once, without a
weight and almost without arithmetic: the channels are cut into equal parts, and part i is that of i
tokens before. Half the channels from one token before is what RWKV began with (Peng et al., 2023,
arXiv:2305.13048); moving parts of the channels along time is Lin et al., 2019 (arXiv:1811.08383).
"""

from __future__ import annotations

import itertools

import numpy as np
from keras import ops


def shift_tokens(x, shift: int, positions=None):
    """Part i of the channels from i tokens before, for i from 0 to `shift`.

    Args:
        x: (B, T, D).
        shift: int, at least 1. The D channels are cut into `shift` + 1 parts.
        positions: (B, T) int32, place of each token in its document: what would come from before
            its start is 0. `None` means that each row starts at its left edge.

    Returns:
        (B, T, D).

    Example: `shift_tokens(x, 1)  # the second half of the channels one token late`
    """
    shifted = []
    for distance, (start, end) in enumerate(_parts(x.shape[-1], shift)):
        part = x[..., start:end]
        if distance:
            # Longer than the row or not: cut to T tokens again.
            part = ops.pad(part, [[0, 0], [distance, 0], [0, 0]])[:, : ops.shape(x)[1]]
            if positions is not None:
                part = ops.where((positions >= distance)[..., None], part, 0.0)
        shifted.append(part)
    return ops.concatenate(shifted, axis=-1)


def shift_new_tokens(x, past, shift: int, length, lengths=None):
    """`shift_tokens` for new tokens that follow others.

    Args:
        x: (B*T, D), T new tokens a row.
        past: (B, shift, D), what came before them, zeros before the start.
        shift: int, at least 1.
        length: int or scalar, T.
        lengths: (B,) int32, how many of a row's new tokens are real; `None` means all.

    Returns:
        (B*T, D), and the past of what follows: the last `shift` real tokens of each row.
    """
    width = x.shape[-1]
    known = ops.concatenate([past, ops.reshape(x, (-1, length, width))], axis=1)  # (B, shift+T, D)
    if isinstance(length, int) and length == 1:
        # One operation for all parts: this is done for every token that is generated.
        flat = ops.reshape(known, (-1, (shift + 1) * width))
        return ops.take(flat, _places(width, shift), axis=1), known[:, 1:]
    shifted = ops.reshape(shift_tokens(known, shift)[:, shift:], (-1, width))
    if lengths is None:
        return shifted, known[:, length:]
    rows = lengths[:, None] + ops.arange(shift, dtype="int32")  # (B, shift)
    return shifted, ops.take_along_axis(known, rows[..., None], axis=1)


def _parts(width: int, shift: int) -> list[tuple[int, int]]:
    """First and last channel of each part, sizes at most one apart."""
    edges = [width * part // (shift + 1) for part in range(shift + 2)]
    return list(itertools.pairwise(edges))


def _places(width: int, shift: int) -> np.ndarray:
    """Where each channel is found in `shift` + 1 tokens that lie side by side, newest last."""
    places = np.arange(width, dtype="int32")
    for distance, (start, end) in enumerate(_parts(width, shift)):
        places[start:end] += (shift - distance) * width
    return places
