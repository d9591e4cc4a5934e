"""What a person looks at after training: `report.md` with what the task has to show, `loss.png`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
from pathlib import Path

import keras
import matplotlib
import matplotlib.ticker

from trainers.metrics import write_scores
from trainers.progress import Progress
from trainers.report.efficiency import efficiency
from trainers.tasks.base import Task
from zoo.bundle import Bundle
from zoo.config import to_dict
from zoo.files import replacing

REPORT_FILE = "report.md"
matplotlib.use("Agg")  # no screen is needed, or there


def write_report(
    bundle: Bundle, task: Task, records: list[dict[str, float]], progress: Progress
) -> Path:
    """Writes `loss.png` and `report.md` into the bundle's folder.

    `scores.json` too, of which the tasks that have a test write the larger part.

    Args:
        bundle: the finished bundle; the task asks it for samples or for the test data.
        task: for the config, the data's size and its own sections.
        records: lines of `metrics.jsonl`, at least one.
        progress: for the best step and the time.

    Returns:
        Path of `report.md`.
    """
    config = task.config
    draw_progress(records, bundle.folder / "loss.png", *task.monitor)
    chosen = progress.best_step if config.select == "best" else records[-1]["step"]
    final = next(record for record in records if record["step"] == chosen)
    validation = {k.removeprefix("val_"): v for k, v in final.items() if k.startswith("val_")}
    write_scores(bundle.folder, validation={"step": chosen, "scores": validation})
    sections = [
        f"# {config.recipe}",
        _summary(bundle, task, progress, final, efficiency(task, records)),
        "![progress of the run](loss.png)",
        *task.report_sections(bundle),
        "## Evaluations",
        _table(records),
        "## Go on",
        f"```\n{_export_command(bundle.folder)}\n```",
        "## Config",
        f"```json\n{json.dumps(to_dict(config), indent=2, ensure_ascii=False)}\n```",
    ]
    path = bundle.folder / REPORT_FILE
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def _export_command(folder: Path) -> str:
    name = folder.resolve().name
    return shlex.join(["python", "-m", "export", f"--workdir={folder}", f"--out=served/{name}"])


def draw_progress(records: list[dict[str, float]], path: Path, metric: str, mode: str) -> None:
    """A picture of training loss and validation over steps.

    The validation loss is in the loss's own axes; another `metric` that chose the best evaluation
    ("min" or "max" of it, as `mode` says) has a scale of its own at the right.
    """
    from matplotlib import pyplot

    steps = [record["step"] for record in records]
    figure, axes = pyplot.subplots(figsize=(7, 4.6), constrained_layout=True)
    training = [record["loss"] for record in records]
    lines = axes.plot(
        steps, training, "o-", label="training loss, mean of the steps since the point before", ms=3
    )
    if "val_loss" in records[0]:
        losses = [record["val_loss"] for record in records]
        lines += axes.plot(steps, losses, "o-", label="validation loss", ms=3)
    best = (min if mode == "min" else max)(records, key=lambda record: record[metric])
    name = f"{_title(metric)}, best {best[metric]:.4f} at step {best['step']}"
    if metric == "val_loss":
        lines[-1].set_label(name)
    else:
        right = axes.twinx()
        values = [record[metric] for record in records]
        lines += right.plot(steps, values, "s--", label=name, ms=3, color="tab:green")
        right.set_ylabel(_title(metric))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside upper center")  # where it covers no curve
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _title(metric: str) -> str:
    """ "val_bits_per_character" as people write it."""
    return metric.replace("val_", "validation ").replace("_", " ")


def _summary(bundle, task, progress, final, efficiency_rows) -> str:
    config = task.config
    rows = {}
    for name, value in final.items():
        if name.startswith("val_"):
            unit = f" {task.loss_unit}" if name == "val_loss" and task.loss_unit else ""
            step = f" (step {final['step']})" if name == task.monitor[0] else ""
            rows[_title(name)] = f"{value:.4f}{unit}{step}"
    rows |= {
        "parameters": f"{bundle.config.parameters:,}",
        "trained on": f"{progress.tokens:,} tokens in {progress.step} steps",
        "data": task.data_summary(),
        "time": f"{progress.seconds:.0f} s wall, {progress.cpu_seconds:.0f} CPU-seconds",
        **{
            f"made longer at step {step}": f"{steps:,} steps were planned before; since then the "
            "learning rate is that of the longer run"
            for step, steps in progress.extensions
        },
        **efficiency_rows,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}, Keras {keras.__version__} on {_backend()}",
    }
    if config.finetune.init_from is not None:
        rows["started from"] = config.finetune.init_from
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows.items())


def _backend() -> str:
    name = keras.backend.backend()
    devices = ", ".join(keras.distribution.list_devices())
    return f"{name} {importlib.metadata.version(name)} ({devices})"


def _table(records: list[dict[str, float]]) -> str:
    columns = {"step": ("step", "{:d}"), "training loss": ("loss", "{:.4f}")}
    columns |= {_title(n): (n, "{:.4f}") for n in records[0] if n.startswith("val_")}
    columns |= {
        "learning rate": ("learning_rate", "{:.2e}"),
        "tokens a second": ("tokens_per_second", "{:,.0f}"),
    }
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "---:|" * len(columns),
    ]
    for record in records:
        cells = (form.format(record[key]) for key, form in columns.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + (
        "\n\nTraining loss is the mean of the steps since the line before. Tokens a second count "
        "trained tokens, padding not, over the time of training steps; the first line has "
        "compilation in it."
    )
