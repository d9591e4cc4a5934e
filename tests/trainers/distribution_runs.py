"""A process of its own for the tests of distribution: logical devices are made at its start.

python distribution_runs.py TEXT OUT RUN...  trains tiny models and writes their losses as JSON.
A RUN is a model and a strategy with its number of devices, such as "gpt mirrored-4"; "reference" is
one device. "mask" is a classifier that Keras' own `fit` trains, with boolean masks; "muon" is
a model that it must not train. Weights begin as NumPy numbers, so that all backends begin alike.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import zoo
from trainers.config import OptimizerConfig, TrainConfig
from trainers.data.config import DataConfig, MixedCorpus
from trainers.distribution import Distribution, make_distribution
from trainers.distribution.strategies import mirrored_strategy
from trainers.distribution.strategy_loop import StrategyLoop
from trainers.loop import KerasLoop, validation_batches
from trainers.optim.optimizers import Muon, make_optimizer
from trainers.tasks import Task, make_task

STEPS, EVERY = 20, 10


def configs(text: str) -> dict[str, TrainConfig]:
    """Two families, the second with a carried state, and gathered gradients; and a mixture."""
    model = {"hidden_dim": 8, "num_layers": 1, "context_length": 8, "dropout": 0.0}
    common = {"batch_size": 8, "steps": STEPS, "evaluate_every": EVERY, "jit_compile": False}
    data = {"train": text, "start_text": "\n"}
    gpt = TrainConfig(
        recipe="gpt",
        preset="gpt_char_cpu",
        model={**model, "num_heads": 4, "intermediate_dim": 16},
        data=DataConfig(**data),
        # As the recipe's rate: at 0.02 so small a model makes 2e-5 of a rounding in 50 steps.
        optimizer=OptimizerConfig(name="muon", learning_rate=0.005, warmup_steps=5),
        **common,
    )
    lstm = TrainConfig(
        recipe="lstm",
        preset="lstm_char_cpu",
        model=model,
        data=DataConfig(**data, order="segments", segment_windows=4),
        optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=5, accumulation_steps=5),
        **common,
    )
    corpora = (MixedCorpus(text, 3, "whole"), MixedCorpus(text, 1, "start", max_bytes=1500))
    mixture = dataclasses.replace(
        gpt, data=DataConfig(train="", mixture=corpora, start_text="\n"), recipe="mixture"
    )
    return {"gpt": gpt, "lstm": lstm, "mixture": mixture}


def set_weights(model: keras.Model) -> None:
    """Numbers that do not depend on the backend."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        values = random.normal(scale=0.1, size=weight.shape)
        weight.assign(values + weight.name.endswith("scale"))


class Losses(keras.callbacks.Callback):
    """The running loss of each step and all metrics of each evaluation."""

    def __init__(self):
        super().__init__()
        self.steps, self.evaluations = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.evaluations.append({name: float(value) for name, value in logs.items()})


def make(config: TrainConfig, distribution: Distribution, sgd_rate: float | None = None) -> Task:
    """A compiled task on the distribution, with the weights that all begin with."""
    keras.utils.set_random_seed(0)
    with distribution.scope():
        task = make_task(config)
        optimizer = make_optimizer(config.optimizer, config.steps)
        if sgd_rate is not None:
            optimizer = keras.optimizers.SGD(sgd_rate)
    task.compile(optimizer)
    set_weights(task.model)
    return task


def fit(task: Task, distribution: Distribution) -> dict:
    """Losses and the number of programs of the loop's step."""
    losses = Losses()
    model = task.trained_model
    validation = validation_batches(task, distribution)
    loop = KerasLoop(model) if distribution.strategy is None else StrategyLoop(model, distribution)
    every = task.config.evaluate_every
    epochs = range(task.config.steps // every)
    batches = task.training_data(0, distribution.worker, distribution.workers)
    loop.fit(batches, every, epochs, validation, [losses])
    return {
        "steps": losses.steps,
        "evaluations": losses.evaluations,
        "traces": getattr(loop, "traces", None),
    }


def fit_as_keras_users(distribution: Distribution) -> dict:
    """Losses of `model.fit` on padded rows."""
    ids = np.random.default_rng(0).integers(1, 9, (8, 6)).astype("int32")
    mask = np.arange(6) < np.arange(1, 9)[:, None].clip(max=6)
    with distribution.scope():
        model = zoo.build(
            zoo.LSTMConfig(9, context_length=8, num_layers=1, hidden_dim=4, bidirectional=True),
            "classify",
            {"num_classes": 2, "dropout": 0.0},
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5), loss)
    set_weights(model)
    inputs = {"token_ids": ids, "padding_mask": mask}
    history = model.fit(inputs, ids[:, 0] % 2, batch_size=8, epochs=3, verbose=0, shuffle=False)
    evaluation = model.evaluate(inputs, ids[:, 0] % 2, batch_size=8, verbose=0)
    logits = model.predict(inputs, batch_size=8, verbose=0)
    return {"steps": history.history["loss"], "evaluation": evaluation, "logits": logits.tolist()}


def fit_muon_as_keras_users(distribution: Distribution) -> str:
    """What `model.fit` says to our Muon."""
    with distribution.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(Muon(0.1), "mse")
    try:
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    except RuntimeError as error:
        return str(error)
    return ""


def split_cpu(parts: int) -> None:
    """Makes several logical devices of the CPU; before TensorFlow does anything."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * parts
    tf.config.set_logical_device_configuration(cpu, devices)


def distribution_named(name: str) -> Distribution:
    """What "mirrored-4" or "model_parallel-2" is: the number is of replicas, or of shards."""
    if name == "reference":
        return make_distribution("one_device")
    kind, _, count = name.partition("-")
    if kind == "mirrored":  # some of the logical devices of this process
        return Distribution(kind, int(count), strategy=mirrored_strategy(int(count)))
    return make_distribution(kind, int(count) if kind == "model_parallel" else None)


def main(text: str, out: str, *runs: str) -> None:
    """Trains, one run after the other."""
    if keras.backend.backend() == "tensorflow":
        split_cpu(4)
    results = {}
    for run in runs:
        family, name = run.split()
        distribution = distribution_named(name)
        with distribution.active():
            if family == "mask":
                results[run] = fit_as_keras_users(distribution)
            elif family == "muon":
                results[run] = fit_muon_as_keras_users(distribution)
            else:
                results[run] = fit(make(configs(text)[family], distribution), distribution)
    Path(out).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
