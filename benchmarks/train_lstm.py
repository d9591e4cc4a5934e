"""Is a character LSTM trained as fast as by PyTorch's nn.LSTM, and how good is it then?

The budget is that of `train_gpt`: 12 windows of 64 tokens a step, 2000 steps of tiny-shakespeare;
two layers of 224 units. First the time of a step, PyTorch's and ours in turns: the same model (tied
embeddings, windows from the zero state, AdamW with clipping) from the same weights, after logits
and the losses of five updates were found equal; and the step of our recipe, which takes Muon and
carries the state. Then whole runs, a hundred steps of one and a hundred of the other: the recipe,
and PyTorch as it is usual there (own initial weights, `nn.Linear` on top, AdamW).
Times are of all that a step takes, batch included; evaluations are left out for both.

Needs ZOO_DATA (or network). TRAIN_THREADS sets the number of threads, 1 by default. `python -m
benchmarks.train_lstm steps` or `... runs` does one half.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time

import numpy as np

from benchmarks.measure import interleaved, pin
from benchmarks.table import Table
from benchmarks.train_gpt import KerasRun

RECIPE = "shakespeare_lstm_cpu"
STEPS, REPEATS = 50, 7  # a measurement, and how many of them
SEGMENT = 100  # steps of one side before it is the other's turn


def main(halves: list[str] | None = None) -> None:
    """Prints the table."""
    threads = int(os.environ.get("TRAIN_THREADS", "1"))
    pin(threads)
    import torch

    torch.set_num_threads(threads)
    table = Table("train_lstm", 2, "character LSTM 2 x 224", peers=("torch",), packages=("torch",))
    halves = halves or ["steps", "runs"]
    notes = [f"{threads} pinned thread(s)"]
    if "steps" in halves:
        notes.append(measure_steps(table))
    if "runs" in halves:
        notes.append(measure_runs(table))
    table.close("; ".join(notes))


class LSTMRun(KerasRun):
    """A run of `trainers`, in pieces, with the state that the recipe carries.

    Args:
        config: TrainConfig.
    """

    def __init__(self, config):
        from trainers.keras_loop import KerasLoop

        super().__init__(config)
        self.model = self.task.trained_model
        self.loop = KerasLoop(self.model)

    def evaluate(self) -> float:
        """Validation loss."""
        from trainers.tasks.carried_state import ResetValidationState

        reset = [ResetValidationState()]
        return self.model.evaluate(self.task.validation_data, callbacks=reset, verbose=0)[0]


def plain_config():
    """Our recipe without what PyTorch's run has not: windows from the zero state, AdamW."""
    from benchmarks.torch_lstm import PEAK_RATE
    from trainers.optimizer_config import OptimizerConfig
    from trainers.recipes import find_recipe

    recipe = find_recipe(RECIPE)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, order="windows"),
        optimizer=OptimizerConfig(learning_rate=PEAK_RATE),
    )


def torch_run(task, tied: bool):
    """PyTorch's run on the text of a task; `tied` is our model."""
    import torch

    from benchmarks.torch_lstm import TorchLSTM, TorchLSTMRun

    torch.manual_seed(0)
    config = task.model.backbone.config
    model = TorchLSTM(config.vocabulary_size, config.num_layers, config.hidden_dim, tied)
    return TorchLSTMRun(model, task.corpus.train_ids, task.config.steps)


def check_equal(peer, run: LSTMRun) -> tuple[float, float]:
    """Gives both the same weights; largest differences of logits, and of the losses of 5 updates.

    Raises:
        ValueError: they are not the same work.
    """
    import torch

    batches = [batch for batch, _ in zip(run.task.training_data(0).as_numpy_iterator(), range(5))]
    values = {name: p.detach().numpy() for name, p in peer.model.named_parameters()}
    for variable in run.model.trainable_variables:
        *_, layer, name = variable.path.replace("lstm_cell/", "").split("/")
        if name == "embeddings":
            variable.assign(values["tokens.weight"])
            continue
        theirs = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh", "bias": "bias_ih"}[name]
        variable.assign(values[f"lstm.{theirs}_l{layer.removeprefix('lstm_')}"].T)
    inputs = batches[0][0]
    with torch.no_grad():
        theirs = peer.model(torch.from_numpy(inputs.astype(np.int64))).numpy()
    logits = float(np.abs(run.model.predict_on_batch(inputs) - theirs).max())
    losses = 0.0
    for inputs, targets in batches:
        windows = np.concatenate([inputs, targets[:, -1:]], axis=1).astype(np.int64)
        theirs = peer.update(torch.from_numpy(windows))
        run.model.reset_metrics()
        losses = max(losses, abs(run.model.train_on_batch(inputs, targets)[0] - theirs))
    if max(logits, losses) > 1e-4:
        raise ValueError(f"not the same work: logits differ by {logits}, losses by {losses}")
    return logits, losses


def measure_steps(table: Table) -> str:
    """Adds the tokens a CPU-second of each kind of step; returns what to say of it."""
    from trainers.recipes import find_recipe

    same, recipe = LSTMRun(plain_config()), LSTMRun(find_recipe(RECIPE))
    peer = torch_run(same.task, tied=True)
    logits, losses = check_equal(torch_run(same.task, tied=True), same)
    runs = {"torch": peer, "ours": same, "recipe": recipe}
    timings = interleaved(
        {name: lambda run=run: run.train(STEPS) for name, run in runs.items()}, runs=REPEATS
    )
    tokens = recipe.task.trained_tokens(0, STEPS)
    cases = {"ours": "step, same model and AdamW", "recipe": f"step of {RECIPE} against the same"}
    for name, case in cases.items():
        table.add(
            case,
            tokens / timings[name].cpu,
            {"torch": tokens / timings["torch"].cpu},
            unit="tokens/CPU-s",
            better="more",
            goal=">= 1x torch",
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
    """Adds validation losses and the CPU-seconds to PyTorch's; returns what to say of it."""
    from trainers.recipes import find_recipe

    ours = LSTMRun(find_recipe(RECIPE))
    peer = torch_run(ours.task, tied=False)
    streams = list(ours.task.validation_data.as_numpy_iterator())
    runs = {"ours": ours, "torch": peer}
    cpu = dict.fromkeys(runs, 0.0)
    curve = []
    for _ in range(0, ours.config.steps, SEGMENT):
        ours.go_on()
        for name, run in runs.items():
            started = time.process_time()
            run.train(SEGMENT)
            cpu[name] += time.process_time() - started
        curve.append((cpu["ours"], ours.evaluate()))
    theirs = {"windows": peer.evaluate(streams), "carried": peer.evaluate_carried(streams)}
    best = min(theirs.values())
    table.add(
        "validation loss after 1.536 M tokens",
        curve[-1][1],
        {"torch": best},
        unit="nats",
        goal="<= 1.55",
    )
    table.add(f"2000 steps of {RECIPE}", cpu["ours"], {"torch": cpu["torch"]}, unit="CPU-s")
    reached = [seconds for seconds, loss in curve if loss <= best]
    if reached:
        table.add("to PyTorch's last loss", reached[0], {"torch": cpu["torch"]}, unit="CPU-s")
    return (
        f"PyTorch's validation loss {theirs['windows']:.4f} on windows, {theirs['carried']:.4f} "
        f"with the state carried; looked at every {SEGMENT} steps; compilation and batches count, "
        "evaluations do not"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
