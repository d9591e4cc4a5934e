"""A process of its own for the tests of --compile_for: Keras on JAX, which has no TPU here.

python compile_runs.py FOLDER OUT WHERE RUN...  compiles the steps of tiny runs and writes what they
need as JSON; with ROWS in the environment, of batches of so many. WHERE is a TPU such as "v5e-4",
or "cpu". A RUN is a task, perhaps with a strategy or a mistake to
make: "gpt model_parallel-2", "gpt !callback".
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from distribution_tasks import config_of, write_data
from keras import ops

from trainers.compile.chips import find_slice
from trainers.compile.steps import AbstractRun, DoesNotCompile, tpu_devices, with_rows
from trainers.config import DistillConfig, FineTuneConfig, TrainConfig
from trainers.data.config import DataConfig
from trainers.tasks import make_task
from zoo.models.blocks import FeedForward


def configs(name: str, folder: Path) -> TrainConfig:
    """A tiny config; variants of a GPT's that the other tests have not."""
    if name in ("packed", "chat"):
        talks, text = folder / "talks.jsonl", folder / "text.txt"
        question = {"role": "user", "content": "to be or not?"}
        talk = {"messages": [question, {"role": "assistant", "content": "to be"}]}
        talks.write_text("\n".join([json.dumps(talk)] * 9), encoding="utf-8")
        source = talks if name == "chat" else text
        options = {"tokenizer": "bytepair", "max_vocabulary_size": 270, "start_text": ""}
        data = DataConfig(train=str(source), document_mask=name == "packed", **options)
        task, gpt = ("chat" if name == "chat" else "lm"), config_of("gpt", folder)
        model = {**gpt.model, "context_length": 32}
        return dataclasses.replace(gpt, task=task, data=data, model=model)
    if name == "tuned":  # low-rank factors in the weights of another run
        one = config_of("classify", folder)
        make_task(one).save(folder / "bundle")
        tuning = FineTuneConfig(init_from=str(folder / "bundle"), lora_rank=2)
        return dataclasses.replace(one, finetune=tuning)
    if name == "distilled":
        one = config_of("classify", folder)
        make_task(one).save(folder / "teacher")
        return dataclasses.replace(one, distill=DistillConfig(teacher=str(folder / "teacher")))
    if name == "remat":
        return dataclasses.replace(config_of("gpt", folder), remat=True)
    return config_of(name, folder)


@contextlib.contextmanager
def spoiled(mistake: str) -> Iterator[None]:
    """Makes a mistake in the feed-forward network of every block."""
    original = FeedForward.call

    def call(self, x):
        x = original(self, x)
        if mistake == "shape":
            return x[ops.nonzero(x[..., 0] > 0)[0]]
        if mistake == "callback":
            jax.debug.print("{x}", x=x[0, 0])
        if mistake == "float64":
            x = ops.cast(ops.cast(x, "float64"), "float32")
        return x

    if mistake:
        FeedForward.call = call
    yield
    FeedForward.call = original


def compiled(name: str, devices: list, hardware: str, folder: Path) -> list[dict] | str:
    """What each step of a run needs, or why it does not compile."""
    task, _, rest = name.partition(" ")
    mistake = rest.removeprefix("!") if rest.startswith("!") else ""
    strategy, _, shards = ("" if mistake else rest).partition("-")
    with spoiled(mistake):
        try:
            options = strategy or "auto", int(shards) if shards else None
            run = AbstractRun(configs(task, folder), devices, hardware, *options)
            batches = list(run.training_shapes())
            if rows := int(os.environ.get("ROWS", "0")):
                batches = [with_rows(batch, rows) for batch in batches]
            steps = [run.train_step(batch) for batch in batches]
            steps += [run.evaluation_step(batch) for batch in run.validation_shapes()]
        except DoesNotCompile as error:
            return str(error)
    variables = len(run.model.variables) + len(run.model.metrics_variables)
    return [
        {
            "name": step.name,
            "shape": step.shape,
            "fits": step.fits,
            "limit": step.limit,
            "memory": step.memory.total,
            "weights": step.memory.weights,
            "flops": step.flops,
            "collectives": step.collectives,
            "donated": step.donated,
            "state": variables
            + (len(run.model.optimizer.variables) if step.name == "train" else 0),
        }
        for step in steps
    ]


def main(folder: str, out: str, where: str, *names: str) -> None:
    """Compiles every run."""
    write_data(Path(folder))
    on_cpu = where == "cpu"
    devices = jax.devices() if on_cpu else tpu_devices(find_slice(where))
    place = devices, "cpu" if on_cpu else "tpu", Path(folder)
    results = {name: compiled(name, *place) for name in names}
    Path(out).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
