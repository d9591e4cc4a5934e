"""Does a token cost more because the model could hold a longer text?

A 6-layer, 512-wide GPT of context 64, 256 and 1024 continues the same 16-byte prompt by 40 tokens,
greedily, batch 1, through the exported SavedModel's session as TensorFlow Serving runs it. The
time of a token is the difference between 40 and 8 new tokens over 32, so that prompt and call cost
drop out. In the second column the request might go on to the end of the context (`max_steps` of
`zoo.generation.generate`), though the same 40 tokens are generated.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import circumstances, interleaved, pin

CAPACITIES = (64, 256, 1024)
PROMPT = b"def __init__(sel"
FEW, MANY = 8, 40


def main() -> None:
    """Prints the table."""
    pin(1)
    import tensorflow as tf

    import zoo
    from export.saved_model import export_saved_model
    from export.server.servable import Servable
    from export.verify import ask_servable
    from zoo.generation import generate, greedy_options

    served, full_cache = {}, {}
    tokenizer = zoo.ByteTokenizer()
    prompt = tokenizer.encode([PROMPT]).to_tensor()
    for capacity in CAPACITIES:
        config = zoo.GPTConfig(
            vocabulary_size=257,
            context_length=capacity,
            num_layers=6,
            num_heads=8,
            hidden_dim=512,
        )
        with tempfile.TemporaryDirectory() as folder:
            bundle = zoo.save(Path(folder) / "run", zoo.build(config), tokenizer)
            path = export_saved_model(bundle, Path(folder) / "served")
            servable = Servable("benchmark", 1, str(path))

        # Dynamic shapes, as in the served graph.
        @tf.function(
            autograph=False,
            input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)],
        )
        def cached(steps, max_steps, model=bundle.model):
            rows = tf.shape(steps)[0]
            token_ids = tf.broadcast_to(prompt, [rows, tf.shape(prompt)[1]])
            options = greedy_options(rows, 0)._replace(max_new_tokens=steps)
            lengths = tf.fill([rows], len(PROMPT))
            return generate(model, token_ids, lengths, options, max_steps)

        for count in (FEW, MANY):
            inputs = {
                "text": np.array([PROMPT], dtype=object),
                "max_new_tokens": np.array([count], "int32"),
            }
            served[capacity, count] = lambda servable=servable, inputs=inputs: ask_servable(
                servable, "generate", inputs
            )
            steps = tf.constant([count])
            room = tf.constant(capacity - len(PROMPT))
            full_cache[capacity, count] = lambda f=cached, s=steps, r=room: f(s, r)
    served, full_cache = interleaved(served, runs=9), interleaved(full_cache, runs=9)
    print("| context_length | ms a token, served | ms a token, room asked for the whole context |")
    print("|---|---|---|")
    for capacity in CAPACITIES:
        cells = [
            1000 * (times[capacity, MANY].wall - times[capacity, FEW].wall) / (MANY - FEW)
            for times in (served, full_cache)
        ]
        print(f"| {capacity} | {cells[0]:.2f} | {cells[1]:.2f} |")
    print(f"\n{circumstances()}; one pinned thread, medians of 9")
