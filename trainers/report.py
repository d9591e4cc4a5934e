"""What a person looks at after training: `report.md` with samples, `loss.png`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path

import matplotlib

from trainers.checkpoints import Progress
from trainers.config import TrainConfig
from trainers.data.corpus import Corpus
from zoo.atomic_write import replacing
from zoo.bundle import Bundle
from zoo.configs import to_dict

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
        f"```\npython -m export --workdir={bundle.folder} --out=served/{bundle.folder.name}\n```",
        "## Config",
        f"```json\n{json.dumps(to_dict(config), indent=2, ensure_ascii=False)}\n```",
    ]
    path = bundle.folder / REPORT_FILE
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def draw_losses(records: list[dict[str, float]], path: Path) -> None:
    """A picture of training and validation loss over steps."""
    from matplotlib import pyplot

    steps = [record["step"] for record in records]
    figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    axes.plot(steps, [record["loss"] for record in records], "o-", label="training", ms=3)
    axes.plot(steps, [record["val_loss"] for record in records], "o-", label="validation", ms=3)
    best = min(records, key=lambda record: record["val_loss"])
    axes.annotate(
        f"{best['val_loss']:.4f}",
        (best["step"], best["val_loss"]),
        textcoords="offset points",
        xytext=(0, 8),
        ha="center",
    )
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
        f"{platform.python_version()}, TensorFlow {importlib.metadata.version('tensorflow')}, "
        f"Keras {importlib.metadata.version('keras')}",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows.items())


def trained_tokens(config: TrainConfig, bundle: Bundle) -> int:
    """Tokens that the whole run trains on."""
    return config.steps * config.batch_size * bundle.model.context_length


def _table(records: list[dict[str, float]]) -> str:
    columns = {
        "step": "{:d}",
        "loss": "{:.4f}",
        "val_loss": "{:.4f}",
        "val_perplexity": "{:.3f}",
        "val_bits_per_character": "{:.4f}",
        "val_accuracy": "{:.4f}",
        "tokens_per_second": "{:,.0f}",
    }
    lines = [
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for record in records:
        cells = (form.format(record[name]) for name, form in columns.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
        sections.append(f"Prompt {prompt!r}:\n\n{fence}text\n{text}\n{fence}")
    return sections
