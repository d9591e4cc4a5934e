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
import sys

from benchmarks import training_runs
from benchmarks.table import Table
from benchmarks.training_runs import SEGMENT, KerasRun

RECIPE = "shakespeare_lstm_cpu"
STEPS = 50  # a measurement


def main(names: list[str] | None = None) -> None:
    """Prints the table."""
    training_runs.main(
        lambda suffix: Table(
            f"train_lstm{suffix}", 2, "character LSTM 2 x 224", ("torch",), packages=("torch",)
        ),
        {"steps": measure_steps, "runs": measure_runs},
        names or [],
    )


def plain_config():
    """Our recipe without what PyTorch's run has not: windows from the zero state, AdamW."""
    from benchmarks.torch_lstm import PEAK_RATE
    from trainers.config import OptimizerConfig
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


def copy_weights(torch_model, model) -> None:
    """Gives a Keras model the weights of a TorchLSTM that is tied."""
    values = {name: value.detach().numpy() for name, value in torch_model.named_parameters()}
    for variable in model.trainable_variables:
        *_, layer, name = variable.path.replace("lstm_cell/", "").split("/")
        if name == "embeddings":
            variable.assign(values["tokens.weight"])
            continue
        theirs = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh", "bias": "bias_ih"}[name]
        variable.assign(values[f"lstm.{theirs}_l{layer.removeprefix('lstm_')}"].T)


def measure_steps(table: Table) -> str:
    """Adds the tokens a CPU-second of each kind of step; returns what to say of it."""
    from trainers.recipes import find_recipe

    same, recipe = KerasRun(plain_config()), KerasRun(find_recipe(RECIPE))
    first = torch_run(same.task, tied=True)
    copy_weights(first.model, same.model)
    equal = training_runs.check_equal(first, same)
    speed = training_runs.add_steps(
        table,
        {"torch": torch_run(same.task, tied=True), "ours": same, "recipe": recipe},
        {"ours": "step, same model and AdamW", "recipe": f"step of {RECIPE} against the same"},
        STEPS,
        recipe.task.trained_tokens(0, STEPS),
    )
    return f"{speed}; {equal}"


def measure_runs(table: Table) -> str:
    """Adds validation losses and the CPU-seconds to PyTorch's; returns what to say of it."""
    from trainers.recipes import find_recipe

    ours = KerasRun(find_recipe(RECIPE))
    peer = torch_run(ours.task, tied=False)
    cpu = {}
    curve = list(training_runs.in_turns({"ours": ours, "torch": peer}, cpu))
    streams = list(ours.task.validation_data[""].as_numpy_iterator())
    theirs = {"windows": peer.evaluate(streams), "carried": peer.evaluate_carried(streams)}
    best = min(theirs.values())
    table.add(
        "validation loss after 1.536 M tokens",
        curve[-1][2],
        {"torch": best},
        unit="nats",
        goal="<= 1.55",
    )
    table.add(f"2000 steps of {RECIPE}", cpu["ours"], {"torch": cpu["torch"]}, unit="CPU-s")
    reached = next((seconds for _, seconds, loss in curve if loss <= best), None)
    if reached:
        table.add("to PyTorch's last loss", reached, {"torch": cpu["torch"]}, unit="CPU-s")
    return (
        f"PyTorch's validation loss {theirs['windows']:.4f} on windows, {theirs['carried']:.4f} "
        f"with the state carried; looked at every {SEGMENT} steps; batches and compilation count, "
        "evaluations do not"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
