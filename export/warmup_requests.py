"""What a server asks a model before it lets clients in: each signature, at each size that matters.

The first run of a signature prepares its graph, which takes seconds; the first run at a batch size
and length lets oneDNN choose its kernels, which takes up to as long as the run itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from export.golden.pairs import GoldenPair
from export.golden.requests import strings
from export.signatures import input_names
from zoo.bundle import Bundle
from zoo.generation.options import OPTIONS

# Sizes that a server fills a batch up to; the last one is the largest batch. Powers of two waste
# less than half of a batch.
ALLOWED_BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# Parts of the longest text that the model reads in one piece.
_LENGTHS = (0.125, 0.5, 1.0)
_NEW_TOKENS = 2
# Floating-point operations of all these requests together: some 10 s of one core. A large model is
# warmed up at its smaller sizes alone, rather than for minutes at each load.
_BUDGET = 3e11
_WORDS = "It was the best of times, it was the worst of times. "


def warmup_requests(
    bundle: Bundle, pairs: Sequence[GoldenPair], batch_sizes: Sequence[int] = (1,)
) -> list[GoldenPair]:
    """The golden requests row by row, then each signature of texts at three lengths.

    One row each by default: a server refuses a request of more rows than its `max_batch_size`,
    which may be 1, and a warm-up request that is refused keeps it from loading the model.

    Args:
        bundle: what is exported.
        pairs: its golden pairs; their answers are not needed.
        batch_sizes: ascending. Defaults to one row.

    Returns:
        Requests without answers; fewer sizes for a model that would take more than about 10 s.

    Example: `warmup_requests(zoo.load("runs/topics"), [])[0].inputs["text"].shape  # (1,)`
    """
    texts = _texts(bundle)
    sizes = [
        (rows * tokens, rows, text)
        for rows, (tokens, text) in itertools.product(batch_sizes, texts.items())
    ]
    signatures = _signatures(bundle)
    budget = _BUDGET / (2 * bundle.config.parameters * len(signatures))  # tokens of each signature
    chosen = []
    for tokens, rows, text in sorted(sizes):
        budget -= tokens
        if budget < 0 and chosen:
            break
        for signature, names in signatures.items():
            inputs = {name: strings([text] * rows) for name in names}
            if signature == "generate":
                inputs |= _options(rows)
            chosen.append(GoldenPair(signature, inputs, {}))
    rows = [pair.row(row) for pair in pairs for row in range(pair.rows)]
    return [*rows, *chosen]


def _options(rows: int) -> dict[str, np.ndarray]:
    """All of them, one for each text: a server that batches puts no defaults beside several."""
    options = {
        name: np.full([rows], option.default, option.dtype.as_numpy_dtype)
        for name, option in OPTIONS.items()
    }
    return {**options, "max_new_tokens": np.full([rows], _NEW_TOKENS, np.int32)}


def _signatures(bundle: Bundle) -> dict[str, list[str]]:
    """Signature -> its inputs that are texts."""
    if bundle.config.task == "lm":
        return {name: ["text"] for name in ("generate", "score", "next_token")}
    return {name: input_names(f) for name, f in bundle.text_model.functions.items()}


def _texts(bundle: Bundle) -> dict[int, str]:
    """Number of tokens -> a text of about so many."""
    longest = bundle.config.text.max_length if bundle.config.text else bundle.model.context_length
    sample = _WORDS.encode() * 4
    tokens = bundle.tokenizer.encode([sample]).flat_values.shape[0]
    texts = {}
    for part in _LENGTHS:
        size = max(int(part * longest), 1)
        length = max(len(sample) * size // max(tokens, 1), 1)
        texts[size] = (sample * (1 + length // len(sample)))[:length]
    return texts
