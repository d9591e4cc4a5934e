"""What is each part of a character model's recipe worth? The recipe, with one thing changed.

Every run is `shakespeare_gpt_cpu` or `shakespeare_lstm_cpu` to its end, in a process of its own on
one pinned thread, with `--set` settings; its validation loss is that of the whole last tenth of the
text. ABLATION_SEEDS (0,1,2) and ABLATION_STEPS (2000; fewer
steps have the whole schedule too) set how much is run: one seed of all rows of the GPT takes an
hour of a core with 2000 steps, and 25 minutes with 800; of the LSTM, 20 minutes and 9 minutes.
A run that was measured is not run again: lines are kept in `benchmarks/results/ablations_*.jsonl`;
remove them after a change of the models. Both models are run, or the one that is named, or some of
its rows: `python -m benchmarks.ablations gpt recipe "no token shift"`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import circumstances, pin
from benchmarks.table import results_folder

RECIPES = {"gpt": "shakespeare_gpt_cpu", "lstm": "shakespeare_lstm_cpu"}
# Row -> `--set` settings. Feed-forward widths keep the number of weights.
_PLAIN = '"intermediate_dim": 516'
GPT_ROWS: dict[str, list[str]] = {
    "recipe": [],
    "no token shift": ['model={"token_shift": 0}'],
    "token shift 1": ['model={"token_shift": 1}'],
    "token shift 2": ['model={"token_shift": 2}'],
    "token shift 4": ['model={"token_shift": 4}'],
    "learned positions": ['model={"positions": "learned"}'],
    "layer norm": ['model={"norm": "layer_norm"}'],
    "GELU": [f'model={{"activation": "gelu", {_PLAIN}}}'],
    "squared ReLU": [f'model={{"activation": "squared_relu", {_PLAIN}}}'],
    "no QK norm": ['model={"qk_norm": false}'],
    "2 heads": ['model={"num_heads": 2}'],
    "8 heads": ['model={"num_heads": 8}'],
    "untied embeddings": ['model={"tie_embeddings": false}'],
    "AdamW 1e-3": ['optimizer={"name": "adamw", "learning_rate": 0.001}'],
    "AdamW 3e-3": ['optimizer={"name": "adamw", "learning_rate": 0.003}'],
    "Muon 4e-3": ["optimizer.learning_rate=4e-3"],
    "Muon 8e-3": ["optimizer.learning_rate=8e-3"],
    "Newton-Schulz 3 times": ["optimizer.newton_schulz_steps=3"],
    "cosine to a tenth": ["optimizer.schedule=cosine", "optimizer.final_fraction=0.1"],
    "weight decay 0.1": ["optimizer.weight_decay=0.1"],
}
LSTM_ROWS: dict[str, list[str]] = {
    "recipe": [],
    "windows from the zero state": ["data.order=windows"],
    "segments of 2 windows": ["data.segment_windows=2"],
    "segments of 16 windows": ["data.segment_windows=16"],
    "Newton-Schulz 3 times": ["optimizer.newton_schulz_steps=3"],
    "Newton-Schulz 5 times": ["optimizer.newton_schulz_steps=5"],
    "1 layer of 316": ['model={"num_layers": 1, "hidden_dim": 316}'],
    "3 layers of 182": ['model={"num_layers": 3, "hidden_dim": 182}'],
    "embedding of 64, 247 units": ['model={"embedding_dim": 64, "hidden_dim": 247}'],
    "untied embeddings": ['model={"tie_embeddings": false}'],
    "forget bias 0": ['model={"forget_bias": 0.0}'],
    "forget bias 2": ['model={"forget_bias": 2.0}'],
    "dropout 0.05": ['model={"dropout": 0.05}'],
    "AdamW 2e-3": ['optimizer={"name": "adamw", "learning_rate": 0.002}'],
    "AdamW 4e-3": ['optimizer={"name": "adamw", "learning_rate": 0.004}'],
    "Muon 5e-3": ["optimizer.learning_rate=5e-3"],
    "Muon 2e-2": ["optimizer.learning_rate=2e-2"],
    "cosine to a tenth": ["optimizer.schedule=cosine", "optimizer.final_fraction=0.1"],
    "weight decay 0.1": ["optimizer.weight_decay=0.1"],
}
ROWS = {"gpt": GPT_ROWS, "lstm": LSTM_ROWS}


def main(names: list[str] | None = None) -> None:
    """Runs what is missing and prints a table for each model.

    Raises:
        SystemExit: a name is no model or no row of it.
    """
    model, *names = names or [None]
    if model is not None and model not in ROWS:
        sys.exit(f"no model {model!r}; models: {', '.join(ROWS)}")
    unknown = [name for name in names if name not in ROWS[model]]
    if unknown:
        known = ", ".join(map(repr, ROWS[model]))
        sys.exit(f"no row {', '.join(map(repr, unknown))}; rows of {model}: {known}")
    for one in ROWS if model is None else [model]:
        _ablate(one, names or list(ROWS[one]))


def _ablate(model: str, names: list[str]) -> None:
    seeds = [int(seed) for seed in os.environ.get("ABLATION_SEEDS", "0,1,2").split(",")]
    steps = int(os.environ.get("ABLATION_STEPS", "2000"))
    path = results_folder() / f"ablations_{model}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:  # of all rows, before the next seed of any
        for name in names:
            if (name, seed) not in _measured(path, steps):
                command = [sys.executable, "-m", "benchmarks.ablations", "--run", model]
                subprocess.run([*command, name, str(seed), str(steps), str(path)], check=True)
    found = _measured(path, steps)
    base = _mean(found, "recipe", seeds) if "recipe" in names else None
    print(f"\n| {model}, {steps} steps | parameters | losses, seeds {seeds} | mean | change |")
    print("|---|---|---|---|---|")
    for name in names:
        losses = ", ".join(f"{found[name, seed]['loss']:.4f}" for seed in seeds)
        mean = _mean(found, name, seeds)
        change = "" if base is None else f"{mean - base:+.4f}"
        count = found[name, seeds[0]]["parameters"]
        print(f"| {name} | {count:,} | {losses} | {mean:.4f} | {change} |")
    print(f"\n{circumstances()}; one pinned thread")


def run(model: str, name: str, seed: int, steps: int, path: Path) -> None:
    """Trains one row with one seed and appends what it found to `path`."""
    pin(1)
    from benchmarks.training_runs import KerasRun
    from trainers.config import with_overrides
    from trainers.recipes import find_recipe

    settings = [f"seed={seed}", f"steps={steps}", f"evaluate_every={steps}"]
    settings += ROWS[model][name]
    trained = KerasRun(with_overrides(find_recipe(RECIPES[model]), settings))
    trained.train(steps)
    line = {
        "row": name,
        "seed": seed,
        "steps": steps,
        "loss": trained.evaluate(),
        "parameters": trained.task.model.count_params(),
    }
    print(json.dumps(line), flush=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _measured(path: Path, steps: int) -> dict[tuple[str, int], dict]:
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["row"], line["seed"]): line for line in lines if line["steps"] == steps}


def _mean(found: dict, name: str, seeds: list[int]) -> float:
    return statistics.mean(found[name, seed]["loss"] for seed in seeds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:4], int(sys.argv[4]), int(sys.argv[5]), Path(sys.argv[6]))
    else:
        main(sys.argv[1:])
