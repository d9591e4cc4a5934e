"""Is a character GPT trained as fast as by nanoGPT in PyTorch, and how soon is it as good?

The budget is nanoGPT's CPU recipe: 4 layers, 4 heads, width 128, 12 windows of 64 tokens a step,
2000 steps of tiny-shakespeare. First the time of a step, PyTorch's and ours in turns: nanoGPT's own
model with AdamW on both sides, after logits and the losses of five updates from the same weights
were found equal; and a step of our recipe. Then whole runs, a hundred steps of one and a hundred of
the other: validation loss against CPU-seconds. PyTorch is as nanoGPT runs it on a CPU (eager), and
with `torch.compile` and fused AdamW if there is a C++ compiler. Times are of all that a step takes,
batch included. Needs ZOO_DATA (or network).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time

import numpy as np

from benchmarks.measure import interleaved, pin
from benchmarks.table import Table

RECIPE = "shakespeare_gpt_cpu"
STEPS, REPEATS = 40, 7  # a measurement, and how many of them
SEGMENT = 100  # steps of one side before it is the other's turn
TARGET = 1.88
# Fields of GPTConfig that make it nanoGPT's model.
NANOGPT = {
    "positions": "learned",
    "norm": "layer_norm",
    "qk_norm": False,
    "activation": "gelu",
    "intermediate_dim": None,
    "token_shift": 0,
}


def main(halves: list[str] | None = None) -> None:
    """Prints the table."""
    threads = int(os.environ.get("TRAIN_THREADS", "1"))
    pin(threads)
    import torch

    torch.set_num_threads(threads)
    peers = torch_kinds()
    name = "train_gpt" if threads == 1 else f"train_gpt_{threads}_threads"
    table = Table(name, 1, "char GPT, nanoGPT's CPU budget", peers=peers, packages=("torch",))
    halves = halves or ["steps", "runs"]
    notes = [f"{threads} pinned thread(s)"]
    if "steps" in halves:
        notes.append(measure_steps(table))
    if "runs" in halves:
        notes.append(measure_runs(table))
    table.close("; ".join(notes))


class KerasRun:
    """A run of `trainers`, in pieces.

    Args:
        config: TrainConfig.

    Attributes:
        step: int, steps done.
    """

    def __init__(self, config):
        import keras

        from trainers.keras_loop import KerasLoop
        from trainers.optimizers import make_optimizer
        from trainers.tasks import make_task

        keras.utils.set_random_seed(config.seed)
        self.config = config
        self.task = make_task(config)
        self.model = self.task.model
        self.task.compile(make_optimizer(config.optimizer, config.steps))
        self.loop = KerasLoop(self.model)
        self.step = 0
        self._batches = self.task.training_data(0)

    def train(self, steps: int) -> float:
        """Does some steps, by `keras.Model.fit`; returns their mean loss."""
        self.loop.fit(self._batches, steps, range(1))
        self.step += steps
        return self.model.history.history["loss"][-1]

    def go_on(self) -> None:
        """Makes the batches of the steps that follow."""
        self._batches = self.task.training_data(self.step)

    def evaluate(self) -> float:
        """Validation loss."""
        return self.model.evaluate(self.task.validation_data, verbose=0)[0]


def nanogpt_config():
    """Our recipe with nanoGPT's architecture and optimizer."""
    from trainers.optimizer_config import OptimizerConfig
    from trainers.recipes import find_recipe

    return dataclasses.replace(find_recipe(RECIPE), model=NANOGPT, optimizer=OptimizerConfig())


def torch_kinds() -> list[str]:
    """ "torch" as nanoGPT runs on a CPU, "torch.compile" where that finds a compiler."""
    return ["torch", "torch.compile"] if shutil.which("g++") else ["torch"]


def torch_run(task, kind: str):
    """PyTorch's run on the text of a task, of a kind of `torch_kinds`."""
    import torch

    from benchmarks.torch_gpt import TorchGPT, TorchRun

    config = task.model.backbone.config
    torch.manual_seed(0)
    model = TorchGPT(
        config.vocabulary_size,
        config.context_length,
        config.num_layers,
        config.num_heads,
        config.hidden_dim,
    )
    best = kind == "torch.compile"
    ids, steps = task.corpus.train_ids, task.config.steps
    return TorchRun(model, ids, steps, compiled=best, fused=best)


def copy_weights(torch_model, model) -> None:
    """Gives a Keras model the weights of a TorchGPT."""
    source = {name: value.detach().numpy().copy() for name, value in torch_model.named_parameters()}
    renamed = {
        "token_embedding/embeddings": "tokens.weight",
        "position_embedding/embeddings": "positions.weight",
        "final_norm/gamma": "final_norm.weight",
    }
    for layer in range(model.backbone.config.num_layers):
        ours, theirs = f"block_{layer}", f"blocks.{layer}"
        renamed |= {
            f"{ours}/attention_norm/gamma": f"{theirs}.attention_norm.weight",
            f"{ours}/attention/qkv/kernel": f"{theirs}.qkv.weight",
            f"{ours}/attention/output/kernel": f"{theirs}.output.weight",
            f"{ours}/feedforward_norm/gamma": f"{theirs}.mlp_norm.weight",
            f"{ours}/feedforward/expand/kernel": f"{theirs}.expand.weight",
            f"{ours}/feedforward/contract/kernel": f"{theirs}.contract.weight",
        }
    for variable in model.trainable_variables:
        value = source.pop(renamed[variable.path.split("backbone/")[1]])
        variable.assign(value.T if variable.path.endswith("kernel") else value)
    if source:
        raise ValueError(f"weights without a place: {sorted(source)}")


def check_equal(torch_run, run: KerasRun) -> tuple[float, float]:
    """Largest differences of logits, and of the losses of five updates on the same batches.

    Raises:
        ValueError: they are not the same work.
    """
    import torch

    copy_weights(torch_run.model, run.model)
    batches = [batch for batch, _ in zip(run.task.training_data(0).as_numpy_iterator(), range(5))]
    inputs = batches[0][0]
    with torch.no_grad():
        theirs = torch_run.model(torch.from_numpy(inputs.astype(np.int64))).numpy()
    logits = float(np.abs(run.model.predict_on_batch(inputs) - theirs).max())
    losses = 0.0
    for inputs, targets in batches:
        windows = np.concatenate([inputs, targets[:, -1:]], axis=1).astype(np.int64)
        theirs = torch_run.update(torch.from_numpy(windows))
        run.model.reset_metrics()
        losses = max(losses, abs(run.model.train_on_batch(inputs, targets)[0] - theirs))
    if max(logits, losses) > 1e-4:
        raise ValueError(f"not the same work: logits differ by {logits}, losses by {losses}")
    return logits, losses


def measure_steps(table: Table) -> str:
    """Adds the tokens a CPU-second of each kind of step; returns what to say of it."""
    from trainers.recipes import find_recipe

    same, recipe = KerasRun(nanogpt_config()), KerasRun(find_recipe(RECIPE))
    logits, losses = check_equal(torch_run(same.task, "torch"), same)
    peers = {kind: torch_run(same.task, kind) for kind in torch_kinds()}
    runs = {**peers, "ours": same, "recipe": recipe}
    timings = interleaved(
        {name: lambda run=run: run.train(STEPS) for name, run in runs.items()}, runs=REPEATS
    )
    tokens = recipe.task.trained_tokens(0, STEPS)
    rates = {name: tokens / timing.cpu for name, timing in timings.items()}
    cases = {
        "ours": "step, nanoGPT's model and AdamW",
        "recipe": f"step of {RECIPE} against the same",
    }
    for name, case in cases.items():
        table.add(
            case,
            rates[name],
            {kind: rates[kind] for kind in peers},
            unit="tokens/CPU-s",
            better="more",
            goal=">= 1x",
            timings=timings,
        )
    each = ", ".join(
        f"{name} {1000 * timing.cpu / STEPS:.1f} CPU and {1000 * timing.wall / STEPS:.1f} wall"
        for name, timing in timings.items()
    )
    return (
        f"ms a step: {each}; medians of {REPEATS} times {STEPS} steps; same work: logits differ by "
        f"{logits:.0e} at most, the losses of five updates by {losses:.0e}"
    )


def measure_runs(table: Table) -> str:
    """Adds the final validation loss and the CPU-seconds to the target; returns what to say."""
    from trainers.recipes import find_recipe

    ours = KerasRun(find_recipe(RECIPE))
    # As nanoGPT runs it: compiling takes longer than it saves in 2000 steps.
    kind = "torch"
    peer = torch_run(ours.task, kind)
    validation = list(ours.task.validation_data.as_numpy_iterator())
    runs = {"ours": ours, kind: peer}
    cpu, first = dict.fromkeys(runs, 0.0), {}
    curve = []
    for _ in range(0, ours.config.steps, SEGMENT):
        ours.go_on()
        for name, run in runs.items():
            started = time.process_time()
            if name not in first:
                run.train(1)
                first[name] = time.process_time() - started
                ours.go_on()
            run.train(SEGMENT - run.step % SEGMENT)
            cpu[name] += time.process_time() - started
        curve.append((ours.step, cpu["ours"], ours.evaluate()))
    theirs = peer.evaluate(validation)
    target = max(TARGET, theirs)
    reached = next((point for point in curve if point[2] <= target), None)
    table.add(
        "validation loss after 1.536 M tokens",
        curve[-1][2],
        {kind: theirs},
        unit="nats",
        goal="<= 1.58",
    )
    table.add(f"2000 steps of {RECIPE}", cpu["ours"], {kind: cpu[kind]}, unit="CPU-s")
    if reached is None:
        return f"our run never reached a validation loss of {target:.2f}"
    table.add(
        f"to a validation loss of {target:.2f}",
        reached[1],
        {kind: cpu[kind]},
        unit="CPU-s",
        goal=">= 3x",
    )
    return (
        f"ours got there after {reached[0]} steps, looked at every {SEGMENT}, PyTorch after all "
        f"2000, looked at once; the CPU-s hold the batches and the first step, which compiles "
        f"({', '.join(f'{n} {s:.1f}' for n, s in first.items())}), but no evaluations"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
