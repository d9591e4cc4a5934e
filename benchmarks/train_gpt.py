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
import shutil
import sys

from benchmarks import training_runs
from benchmarks.table import Table
from benchmarks.training_runs import SEGMENT, KerasRun

RECIPE = "shakespeare_gpt_cpu"
STEPS = 40  # a measurement
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


def main(names: list[str] | None = None) -> None:
    """Prints the table."""
    training_runs.main(
        lambda suffix: Table(
            f"train_gpt{suffix}",
            1,
            "char GPT, nanoGPT's CPU budget",
            peers=torch_kinds(),
            packages=("torch",),
        ),
        {"steps": measure_steps, "runs": measure_runs},
        names or [],
    )


def nanogpt_config():
    """Our recipe with nanoGPT's architecture and optimizer."""
    from trainers.config import OptimizerConfig
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


def measure_steps(table: Table) -> str:
    """Adds the tokens a CPU-second of each kind of step; returns what to say of it."""
    from trainers.recipes import find_recipe

    same, recipe = KerasRun(nanogpt_config()), KerasRun(find_recipe(RECIPE))
    first = torch_run(same.task, "torch")
    copy_weights(first.model, same.model)
    equal = training_runs.check_equal(first, same)
    peers = {kind: torch_run(same.task, kind) for kind in torch_kinds()}
    speed = training_runs.add_steps(
        table,
        {**peers, "ours": same, "recipe": recipe},
        {
            "ours": "step, nanoGPT's model and AdamW",
            "recipe": f"step of {RECIPE} against the same",
        },
        STEPS,
        recipe.task.trained_tokens(0, STEPS),
    )
    return f"{speed}; {equal}"


def measure_runs(table: Table) -> str:
    """Adds the final validation loss and the CPU-seconds to the target; returns what to say."""
    from trainers.recipes import find_recipe

    ours = KerasRun(find_recipe(RECIPE))
    # As nanoGPT runs it: compiling takes longer than it saves in 2000 steps.
    peer = torch_run(ours.task, "torch")
    cpu = {}
    curve = list(training_runs.in_turns({"ours": ours, "torch": peer}, cpu))
    theirs = peer.evaluate(ours.task.validation_data[""].as_numpy_iterator())
    target = max(TARGET, theirs)
    table.add(
        "validation loss after 1.536 M tokens",
        curve[-1][2],
        {"torch": theirs},
        unit="nats",
        goal="<= 1.58",
    )
    table.add(f"2000 steps of {RECIPE}", cpu["ours"], {"torch": cpu["torch"]}, unit="CPU-s")
    reached = next(((step, seconds) for step, seconds, loss in curve if loss <= target), None)
    if reached is None:
        return f"our run never reached a validation loss of {target:.2f}"
    step, seconds = reached
    table.add(
        f"to a validation loss of {target:.2f}",
        seconds,
        {"torch": cpu["torch"]},
        unit="CPU-s",
        goal=">= 3x",
    )
    return (
        f"ours got there after {step} steps, looked at every {SEGMENT}, PyTorch after all 2000, "
        "looked at once; batches and compilation count, evaluations do not"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
