"""What one model costs, in a process of its own: time of a training step or of a token, and memory.

python -m benchmarks.cost_point '{"kind": "train", "layers": 4, "width": 128, "length": 256}'
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Literal

from benchmarks.measure import pin

RUNS = 5
FEW, MANY = 4, 20


@dataclasses.dataclass(frozen=True)
class Point:
    """A GPT and what it is to do.

    Attributes:
        kind: "train": a step of AdamW, forward and backward, compiled by XLA as the recipes do.
            "decode": one more token for each row, in TensorFlow's graph as it is served.
        layers: int. Blocks. width: int. Hidden dim; the heads are 64 wide, or 32 below 256.
        vocabulary: int. Tokens that there are.
        length: int. Tokens of a row: of a window in training, of the prompt in decoding.
        batch: int. Rows.
    """

    kind: Literal["train", "decode"]
    layers: int = 4
    width: int = 128
    vocabulary: int = 256
    length: int = 256
    batch: int = 1


@dataclasses.dataclass(frozen=True)
class Cost:
    """Medians of `RUNS`: seconds of a step or a token, and MB that the process grew by at most."""

    parameters: int
    wall: float
    cpu: float
    memory: float


def measure(point: Point) -> Cost:
    """Builds the model of `point` in this process, pinned to one core, and times it."""
    pin(1)
    import keras

    import zoo

    before = _peak()
    keras.utils.set_random_seed(0)
    model = zoo.build(
        zoo.GPTConfig(
            vocabulary_size=point.vocabulary,
            context_length=point.length + MANY,
            num_layers=point.layers,
            num_heads=point.width // (64 if point.width >= 256 else 32),
            hidden_dim=point.width,
        )
    )
    wall, cpu = _timed(_training(model, point)) if point.kind == "train" else _token(model, point)
    return Cost(model.count_params(), wall, cpu, _peak() - before)


def _training(model, point: Point) -> Callable[[], object]:
    import keras
    import numpy as np

    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    shape = (point.batch, point.length + 1)
    tokens = np.random.default_rng(0).integers(point.vocabulary, size=shape, dtype="int32")
    return lambda: model.train_on_batch(tokens[:, :-1], tokens[:, 1:])


def _token(model, point: Point) -> tuple[float, float]:
    """Of one token: the difference of many and few over their distance, so no prompt is in it."""
    import tensorflow as tf

    from zoo.generation.loop import SamplingOptions, generate

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)],
    )
    def continued(token_ids, steps):
        rows, length = tf.unstack(tf.shape(token_ids))
        zeros = tf.zeros([rows], tf.int32)
        floats = tf.zeros([rows])
        options = SamplingOptions(zeros + steps, floats, top_k=zeros, top_p=floats + 1, seed=zeros)
        return generate(model, token_ids, tf.fill([rows], length), options, steps)

    prompt = tf.random.stateless_uniform(
        [point.batch, point.length], [0, 1], 0, point.vocabulary, tf.int32
    )
    few, many = (_timed(lambda n=n: continued(prompt, tf.constant(n))) for n in (FEW, MANY))
    wall, cpu = ((more - less) / (MANY - FEW) for less, more in zip(few, many))
    return wall, cpu


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    call(), call()  # traced, compiled, and memory found
    walls, cpus = [], []
    for _ in range(RUNS):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(measure(Point(**json.loads(sys.argv[1]))))))
