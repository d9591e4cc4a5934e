"""Records what transformers' logits processors make of random logits, for tests/zoo/test_sampling.

    python -m tools.logits_processors    # where torch and transformers are installed

The processors and their order are those that `GenerationMixin` makes of a GenerationConfig.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.generation import GenerationConfig, GenerationMixin

FIXTURE = Path(__file__).parents[1] / "tests" / "zoo" / "fixtures" / "logits_processors.json"
CASES, VOCABULARY_SIZE, PROMPT = 60, 14, 6


class _Model(GenerationMixin):
    """As much of a model as choosing the processors takes."""

    config = transformers.GPT2Config(vocab_size=VOCABULARY_SIZE, bos_token_id=0, eos_token_id=0)
    device = torch.device("cpu")


def _case(rng: np.random.Generator) -> dict[str, object]:
    logits = rng.normal(0, 2, VOCABULARY_SIZE).astype("float32")
    seen = rng.integers(0, VOCABULARY_SIZE, PROMPT)
    options = {
        "temperature": round(float(rng.uniform(0.5, 1.5)), 2),
        "top_k": int(rng.choice([0, 5, 9])),
        "top_p": round(float(rng.choice([1.0, rng.uniform(0.5, 0.99)])), 2),
        "min_p": round(float(rng.choice([0.0, rng.uniform(0.01, 0.6)])), 2),
        "repetition_penalty": round(float(rng.choice([1.0, rng.uniform(0.7, 2.0)])), 2),
    }
    # None, since transformers' min-p with 0 would be a processor, too.
    config = GenerationConfig(do_sample=True, **options | {"min_p": options["min_p"] or None})
    processors = _Model()._get_logits_processor(config, PROMPT, device="cpu")
    ids = torch.tensor(seen[None])
    scores = processors(ids, torch.tensor(logits[None]))
    probabilities = torch.softmax(scores, dim=-1)[0]
    return {
        "logits": logits.tolist(),
        "seen": seen.tolist(),
        **options,
        "probabilities": probabilities.tolist(),
    }


def main() -> None:
    """Writes the fixture."""
    rng = np.random.default_rng(0)
    cases = [_case(rng) for _ in range(CASES)]
    record = {"transformers": transformers.__version__, "cases": cases}
    FIXTURE.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
