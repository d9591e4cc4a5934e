"""Training steps on a GPU: tokens a second and use of the device, ours and nanoGPT's in torch.

python -m benchmarks.gpu_steps [SHAPE ...]   "char", 10.6 M parameters, and "gpt2", 124 M; all by
default. Random tokens; bfloat16 products on a GPU, AdamW with clipping, the same shape on both
sides, PyTorch by `torch.compile` with fused AdamW. Each side is a process of its own, because both
take the memory of the device. BENCH_TINY=1 takes small shapes, for a machine without a GPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np

# Preset, fields of its config that are changed, rows, and steps that are timed.
SHAPES = {
    "char": ("gpt_char", {"vocabulary_size": 65, "dropout": 0.0}, 64, 200),
    "gpt2": ("gpt2_small", {"dropout": 0.0}, 16, 30),
}
WARM_UP = 5
# Run 1 of its dev/LEADERBOARD.md, the only one in bfloat16 alone: 16,704 steps of 524,288 tokens
# and 4.33e19 FLOPs in 10,949 s on 8 H100.
PUBLISHED = (
    "nanochat, 24 layers of 1536, 2048 tokens: 100,000 tokens/s on an H100, 50.0% of 989 TFLOP/s"
)
TINY = {"num_layers": 1, "hidden_dim": 64, "num_heads": 2, "context_length": 32}


def shape_of(name: str) -> tuple:
    """The model's config, rows and steps."""
    from zoo.presets import preset_config

    preset, fields, rows, steps = SHAPES[name]
    if os.environ.get("BENCH_TINY"):
        return preset_config(preset, **fields, **TINY), 4, 3
    return preset_config(preset, **fields), rows, steps


def windows(config, rows: int) -> np.ndarray:
    """Token ids int32 (rows, T + 1)."""
    random = np.random.default_rng(0)
    size = rows, config.context_length + 1
    return random.integers(0, config.vocabulary_size, size, dtype=np.int32)


def ours(name: str) -> dict:
    """Tokens a second of Keras' `fit`, as `python -m trainers` calls it; what the device could."""
    import keras
    import tensorflow as tf

    import zoo
    from trainers.config import OptimizerConfig
    from trainers.distribution.hardware import hardware
    from trainers.loop import KerasLoop
    from trainers.optim.optimizers import make_optimizer
    from trainers.report.efficiency import peak_flops, training_flops_per_token

    config, rows, steps = shape_of(name)
    if hardware() != "cpu":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = zoo.build(config)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(make_optimizer(OptimizerConfig(), 1000), loss, jit_compile=True)
    ids = windows(config, rows)
    batches = tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:])).repeat().prefetch(8)
    loop = KerasLoop(model)
    loop.fit(batches, WARM_UP, range(1))
    started = time.perf_counter()
    loop.fit(batches, steps, range(1))  # its last loss waits for the device
    seconds = time.perf_counter() - started
    peak, source = peak_flops()
    return {
        "tokens_per_second": rows * config.context_length * steps / seconds,
        "flops_per_token": training_flops_per_token(model, config.context_length),
        "peak": peak,
        "peak_source": source,
        "parameters": model.count_params(),
        "backend": keras.backend.backend(),
    }


def theirs(name: str) -> dict:
    """The same of PyTorch."""
    import torch

    from benchmarks.torch_gpt import TorchGPT, TorchRun

    config, rows, steps = shape_of(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    compiled = device == "cuda" or shutil.which("g++") is not None
    size = config.vocabulary_size, config.context_length, config.num_layers, config.num_heads
    model = TorchGPT(*size, config.hidden_dim).to(device)
    ids = windows(config, rows)
    run = TorchRun(model, ids.ravel(), 1000, compiled=compiled, fused=True)
    batch = torch.from_numpy(ids.astype(np.int64))
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        for _ in range(WARM_UP):
            run.update(batch.to(device))
        started = time.perf_counter()
        for _ in range(steps - 1):
            run.step_on(batch.to(device))
        run.update(batch.to(device))  # reads the loss
        seconds = time.perf_counter() - started
    return {"tokens_per_second": rows * config.context_length * steps / seconds}


def main(names: list[str]) -> None:
    """Prints a table of all shapes, or with two arguments in its own process one measurement."""
    sides = {"ours": ours, "torch": theirs}
    if names and names[0] in sides:
        print(json.dumps(sides[names[0]](names[1])))
        return
    from zoo.output import table

    lines = []
    for name in names or SHAPES:
        found = {side: _measured(side, name) for side in sides}
        mine = found["ours"]
        for side, values in found.items():
            speed = values["tokens_per_second"]
            used = speed * mine["flops_per_token"] / mine["peak"]
            program = f"ours, {mine['backend']}" if side == "ours" else "torch.compile"
            size = f"{mine['parameters'] / 1e6:.1f} M"
            lines.append([name, size, program, f"{speed:,.0f}", f"{used:.1%}"])
    print(f"{mine['peak_source']}: {mine['peak'] / 1e12:,.3g} TFLOP/s\n")
    header = ["shape", "parameters", "program", "tokens/s", "model FLOPs utilisation"]
    print(table(header, lines, (1, 3, 4)))
    print(f"\nPublished: {PUBLISHED}")


def _measured(side: str, name: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.gpu_steps", side, name]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command[1:])} failed, see above")
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
