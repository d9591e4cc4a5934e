"""What a person looks at after training: `report.md` with what the task has to show, `loss.png`."""

import importlib
import json
import os
import platform
import shlex
from pathlib import Path

import keras
from absl import logging

from trainers.checkpoints import Progress
from trainers.metrics import write_scores
from trainers.report.efficiency import efficiency
from trainers.report.figures import progress_figure, save, title
from trainers.tasks.base import Task
from zoo.bundle import Bundle
from zoo.config import to_dict
from zoo.files import replacing
from zoo.output import table

REPORT_FILE = "report.md"


def write_report(
    bundle: Bundle, task: Task, records: list[dict[str, float]], progress: Progress
) -> Path:
    """Writes `loss.png`, `scores.json` and `report.md`; there is at least one record."""
    config = task.config
    save(progress_figure(records, *task.monitor), bundle.folder / "loss.png")
    chosen = progress.best_step if config.select == "best" else records[-1]["step"]
    final = next(record for record in records if record["step"] == chosen)
    final = {**final, **task.finished_scores}
    validation = {k.removeprefix("val_"): v for k, v in final.items() if k.startswith("val_")}
    write_scores(bundle.folder, validation={"step": chosen, "scores": validation})
    comparison, sections = task.report(bundle, validation, records[-1]["step"])
    ways = [f"more steps (--extend --set=steps={2 * config.steps})", "more data"]
    if config.finetune.init_from is None:
        ways.insert(0, "published weights (--init_from=..., in another --workdir)")
    verdict = comparison.verdict(f"Try {', '.join(ways[:-1])} or {ways[-1]}.")
    logging.info("%s", verdict.replace("**", ""))
    export = ["python", "-m", "export", f"--workdir={bundle.folder}"]
    export += [f"--out=served/{bundle.folder.resolve().name}"]
    parts = [
        verdict,
        f"# {config.recipe}",
        _summary(bundle, task, progress, final, efficiency(task, records)),
        "![progress of the run](loss.png)",
        *sections,
        "## Evaluations",
        _evaluations(records),
        "## Go on",
        f"```\n{shlex.join(export)}\n```",
        "## Config",
        f"```json\n{json.dumps(to_dict(config), indent=2, ensure_ascii=False)}\n```",
    ]
    with replacing(path := bundle.folder / REPORT_FILE) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _summary(bundle, task, progress, final, efficiency_rows) -> str:
    config, rows, backend = task.config, {}, keras.backend.backend()
    devices = ", ".join(keras.distribution.list_devices())
    for name, value in final.items():
        if name.startswith("val_"):
            unit = f" {task.loss_unit}" if name == "val_loss" and task.loss_unit else ""
            step = f" (step {final['step']})" if name == task.monitor[0] else ""
            rows[title(name)] = f"{value:.4f}{unit}{step}"
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
        f"{platform.python_version()}, Keras {keras.__version__} on {backend} "
        f"{importlib.import_module(backend).__version__} ({devices})",
    }
    if config.finetune.init_from is not None:
        rows["started from"] = config.finetune.init_from
    return table(["", ""], rows.items())


def _evaluations(records: list[dict[str, float]]) -> str:
    columns = {"step": ("step", "{:d}"), "training loss": ("loss", "{:.4f}")}
    columns |= {title(n): (n, "{:.4f}") for n in records[0] if n.startswith("val_")}
    columns |= {
        "learning rate": ("learning_rate", "{:.2e}"),
        "tokens a second": ("tokens_per_second", "{:,.0f}"),
    }
    rows = [[form.format(record[key]) for key, form in columns.values()] for record in records]
    return table(list(columns), rows, numbers=range(len(columns))) + (
        "\n\nTraining loss is the mean of the steps since the line before. Tokens a second count "
        "trained tokens, padding not, over the time of training steps; the first line has "
        "compilation in it."
    )
