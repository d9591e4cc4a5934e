"""A process of its own for the tests of distribution: every task, on one device and on two.

python distribution_tasks.py FOLDER OUT TASK...  writes data to FOLDER and results to OUT as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from distribution_runs import configs, fit, make, split_cpu

from trainers.config import TrainConfig
from trainers.distribution import Distribution
from trainers.distribution.strategies import mirrored_strategy
from trainers.distribution.strategy_loop import StrategyLoop, build_metrics
from trainers.tasks import make_task
from zoo.config import from_dict

TASKS = ("mlm", "classify", "pair", "regress", "embed", "tag", "span", "translate")
FILE = {"tag": "tags.conll", "span": "questions.json", "mlm": "text.txt"}
DATA = {
    "pair": {"pair_column": "other"},
    "embed": {"pair_column": "other"},
    "regress": {"label_column": "score"},
    "translate": {"pair_column": "other", "tokenizer": "bytepair", "max_vocabulary_size": 270},
}


def write_data(folder: Path) -> None:
    """Texts of different lengths, so that there are several buckets; 30 do not fill 4 batches."""
    generator = random.Random(0)
    rows, sentences, questions = ["text,label,other,score"], [], []
    for number in range(38):
        words = generator.choices(["the", "film", "was", "a", "good", "bad"], k=2 + number % 9)
        text = " ".join(words)
        rows.append(f"{text},{'ab'[number % 2]},{text} too,{number}")
        tags = [f"{word}\t{'B-X' if word == 'film' else 'O'}" for word in words]
        sentences.append("\n".join(tags) + "\n")
        start = text.index(words[1])
        questions.append(
            {
                "context": text,
                "qas": [
                    {
                        "id": str(number),
                        "question": "what?",
                        "answers": [{"text": words[1], "answer_start": start}],
                    }
                ],
            }
        )
    (folder / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    (folder / "tags.conll").write_text("\n".join(sentences), encoding="utf-8")
    data = {"version": "1.1", "data": [{"title": "t", "paragraphs": questions}]}
    (folder / "questions.json").write_text(json.dumps(data), encoding="utf-8")
    lines = [" ".join(generator.choices(["to", "be", "or", "not"], k=9)) for _ in range(60)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")


def config_of(task: str, folder: Path) -> TrainConfig:
    """A tiny config without dropout, 12 steps."""
    if task in ("gpt", "lstm"):
        return configs(str(folder / "text.txt"))[task]
    model = {"hidden_dim": 8, "num_layers": 1, "intermediate_dim": 16, "context_length": 16}
    head = {} if task in ("mlm", "embed", "translate") else {"dropout": 0.0}
    values = {
        "recipe": task,
        "task": task,
        "preset": "seq2seq_cpu" if task == "translate" else "bert_tiny",
        "model": {**model, "dropout": 0.0},
        "head": head,
        "text": {"max_length": 16},
        "data": {
            "train": str(folder / FILE.get(task, "table.csv")),
            "tokenizer": "wordpiece",
            "max_vocabulary_size": 120,
            "validation_fraction": 0.2,
            "buckets": [8, 16],
            **DATA.get(task, {}),
        },
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 2},
        "batch_size": 8,
        "steps": 12,
        "evaluate_every": 6,
        "jit_compile": False,
    }
    return from_dict(TrainConfig, values)


def count_programs(config: TrainConfig) -> dict:
    """Runs two epochs of the compiled step: the shapes of batches, and the programs made."""
    task = make_task(dataclasses.replace(config, jit_compile=True))
    model = task.trained_model
    task.compile(keras.optimizers.SGD(0.01))
    programs = []

    def step(batch):
        programs.append(1)
        return model.train_step(batch)

    compiled = tf.function(step, jit_compile=True, autograph=False)
    batches = list(task.training_data(0).take(12))
    build_metrics(model, batches[0])
    shapes, counts = set(), []
    for batch in [*batches, *batches]:
        shapes.add(str([value.shape for value in tf.nest.flatten(batch)]))
        assert np.isfinite(float(compiled(batch)["loss"]))
        counts.append(len(programs))
    static = all(value.shape.is_fully_defined() for b in batches for value in tf.nest.flatten(b))
    return {"shapes": len(shapes), "programs": counts, "static": static}


def masks_of_replicas() -> dict[str, list]:
    """One step with dropout on two replicas, and what one device leaves of the first row."""
    two = Distribution("mirrored", 2, strategy=mirrored_strategy(2))
    with two.scope():
        # A weight for each input moves by the sum of the replicas' masks.
        scale = keras.layers.EinsumDense("bi,i->bi", 64, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5, seed=1), scale])
        optimizer = keras.optimizers.SGD(128.0)  # by the number of values
    model.compile(optimizer, "mae", jit_compile=False)
    seed = next(v for v in model.variables if v.name == "seed_generator_state")
    before = seed.numpy()
    alone = model(tf.ones((1, 64)), training=True).numpy()[0].tolist()
    after = seed.numpy().tolist()
    seed.assign(before)
    batches = tf.data.Dataset.from_tensors((tf.ones((2, 64)), tf.fill((2, 64), -9.0)))
    StrategyLoop(model, two).fit(batches, 1, range(1))
    seeds = [
        value.numpy().tolist() for value in two.strategy.experimental_local_results(seed.value)
    ]
    moved = (1 - scale.kernel.numpy()).tolist()
    return {"moved": moved, "alone": alone, "seeds": [after, *seeds]}


def main(folder: str, out: str, *tasks: str) -> None:
    """Both checks of each task."""
    split_cpu(2)
    write_data(Path(folder))
    results = {"masks": masks_of_replicas()}
    for name in tasks:
        config = config_of(name, Path(folder))
        result = count_programs(config)
        one = Distribution("one_device")
        two = Distribution("mirrored", 2, strategy=mirrored_strategy(2))
        if name in TASKS:
            # A temperature of 0.05 makes twenty of each rounding error.
            rate = 0.01 if name == "embed" else 0.1
            # Not Adam: it makes whole steps of gradients that are rounding errors around zero. And
            # not clipped: on one device Keras takes the norm of an embedding's gradient row by row
            # as it was read, before rows that were read twice are added up.
            alone, shared = (fit(make(config, where, rate), where) for where in (one, two))
            result |= {"one": alone["steps"], "two": shared["steps"], "traces": shared["traces"]}
            result["validation"] = [alone["evaluations"], shared["evaluations"]]
        results[name] = result
    Path(out).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
