"""What a person looks at after training: `report.md` with samples, `loss.png`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
from pathlib import Path

import keras
import matplotlib
import matplotlib.ticker

from trainers.checkpoints import Progress
from trainers.config import TrainConfig
from trainers.data.corpus import Corpus
from zoo.atomic_write import replacing
from zoo.bundle import Bundle
from zoo.strict_config import to_dict

REPORT_FILE = "report.md"
matplotlib.use("Agg")  # no screen is needed, or there


def write_report(
    bundle: Bundle,
    config: TrainConfig,
    records: list[dict[str, float]],
    progress: Progress,
    corpus: Corpus,
) -> Path:
    """Writes `loss.png` and `report.md` into the bundle's folder.

    Args:
        bundle: the finished bundle; it writes the samples.
        records: lines of `metrics.jsonl`, at least one.
        progress: for the best step and the time.
        corpus: for its sizes.

    Returns:
        Path of `report.md`.
    """
    draw_losses(records, bundle.folder / "loss.png")
    chosen = progress.best_step if config.select == "best" else records[-1]["step"]
    final = next(record for record in records if record["step"] == chosen)
    sections = [
        f"# {config.recipe}",
        _summary(bundle, config, progress, corpus, final),
        "![training and validation loss](loss.png)",
        "## Evaluations",
        _table(records),
        *_samples(bundle, config),
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


def draw_losses(records: list[dict[str, float]], path: Path) -> None:
    """A picture of training and validation loss over steps."""
    from matplotlib import pyplot

    steps = [record["step"] for record in records]
    figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    axes.plot(
        steps,
        [record["loss"] for record in records],
        "o-",
        label="training, mean of the steps since the point before",
        ms=3,
    )
    best = min(records, key=lambda record: record["val_loss"])
    axes.plot(
        steps,
        [record["val_loss"] for record in records],
        "o-",
        label=f"validation, best {best['val_loss']:.4f} at step {best['step']}",
        ms=3,
    )
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def _summary(bundle, config, progress, corpus, final) -> str:
    rows = {
        "validation loss": f"{final['val_loss']:.4f} nats a token (step {final['step']})",
        "perplexity": f"{final['val_perplexity']:.3f}",
        "bits a character": f"{final['val_bits_per_character']:.4f}",
        "accuracy": f"{final['val_accuracy']:.4f}",
        "parameters": f"{bundle.config.parameters:,}",
        "trained on": f"{trained_tokens(config, bundle):,} tokens in {config.steps} steps",
        "corpus": (
            f"{len(corpus.train_ids):,} training tokens, {len(corpus.validation_ids):,} "
            f"validation tokens, vocabulary {corpus.tokenizer.vocabulary_size}"
        ),
        "time": f"{progress.seconds:.0f} s wall, {progress.cpu_seconds:.0f} CPU-seconds",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}, Keras {keras.__version__} on {_backend()}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows.items())


def _backend() -> str:
    name = keras.backend.backend()
    devices = ", ".join(keras.distribution.list_devices())
    return f"{name} {importlib.metadata.version(name)} ({devices})"


def trained_tokens(config: TrainConfig, bundle: Bundle) -> int:
    """Tokens that the whole run trains on."""
    return config.steps * config.batch_size * bundle.model.context_length


def _table(records: list[dict[str, float]]) -> str:
    columns = {
        "step": ("step", "{:d}"),
        "training loss": ("loss", "{:.4f}"),
        "validation loss": ("val_loss", "{:.4f}"),
        "perplexity": ("val_perplexity", "{:.3f}"),
        "bits a character": ("val_bits_per_character", "{:.4f}"),
        "accuracy": ("val_accuracy", "{:.4f}"),
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
        "\n\nTraining loss is the mean of the steps since the line before; perplexity, bits and "
        "accuracy are of the validation split. Tokens a second count trained tokens over all time, "
        "evaluation and (in the first line) compilation included."
    )


def _samples(bundle: Bundle, config: TrainConfig) -> list[str]:
    if not config.sample_prompts:
        return []
    outputs = bundle.lm.generate(
        list(config.sample_prompts),
        max_new_tokens=[config.sample_tokens],
        temperature=[config.sample_temperature],
        seed=list(range(len(config.sample_prompts))),
    )
    texts = [text.decode("utf-8", "replace") for text in outputs["text"].numpy()]
    sections = [f"## Samples (temperature {config.sample_temperature})"]
    for prompt, text in zip(config.sample_prompts, texts):
        # Longer than any run of backticks in the text, so that none can end the block.
        longest = max(map(len, re.findall("`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        title = f"Prompt {prompt!r}:" if prompt else "No prompt:"
        sections.append(f"{title}\n\n{fence}text\n{text}\n{fence}")
    return sections
