"""A run on a user's own file: what the file holds is found by looking, the rest is chosen."""

from __future__ import annotations

import dataclasses
import difflib
import glob
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers.config import (
    TASK_NAMES,
    FineTuneConfig,
    OptimizerConfig,
    TrainConfig,
    muon,
    read_config,
    with_overrides,
)
from trainers.data.config import DataConfig
from trainers.data.datasets import read_examples
from trainers.data.examples import LabeledTexts, Questions, TaggedTexts
from trainers.data.rows import table_format
from trainers.data.shards import find_prepared, open_prepared
from trainers.data.tables import TableLayout, inspect_table
from trainers.data.text import read_bytes
from trainers.tasks.mlm import read_running_text
from zoo.presets import PRESETS
from zoo.text.config import TextConfig

_TWO_TEXTS = ("pair", "embed")
_LABELLED = ("classify", "pair", "regress")
_FEW_ROWS = 100  # fewer leave nothing for a test
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
# Steps over the data: (epochs, fewest, most). Weights that there are need a few; published ones are
# larger, and a step of them takes longer. The recipes of as much data have about as many.
_FROM_NOTHING, _FROM_WEIGHTS = (5, 200, 2000), (3, 100, 1000)


def own_config(
    task: str,
    data: str,
    settings: Sequence[str] = (),
    *,
    init_from: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    data_dir: str | None = None,
) -> tuple[TrainConfig, list[str]]:
    """The config of a run on a file, and what was found and chosen, a line each, for people.

    The same file and arguments give the same config, so that the same command resumes a run.

    Args:
        task: one of `TASK_NAMES`.
        data: a file or a glob; of running text (lm, mlm) all that `data.train` may be; for
            classify also a folder of texts for each label.
        settings: `key.path=value`, as `with_overrides` takes them.
        init_from: weights to start from, anything that `zoo.load` takes.
        text_column, pair_column, label_column: names, or numbers from 0. Default: found.
        data_dir: where a relative path is looked for after the working directory.

    Raises:
        ValueError, OSError: the file is missing, empty, or does not fit the task; the message says
            what to do.
    """
    if task not in TASK_NAMES:
        raise ValueError(f"--task={task}: use one of {', '.join(TASK_NAMES)}")
    of_data = [setting for setting in settings if setting.startswith("data.")]
    if task in ("lm", "mlm"):
        config, lines = _running_text(task, data, text_column, of_data, init_from, data_dir)
    else:
        given = {"text": text_column, "pair": pair_column, "label": label_column}
        config, lines = _labelled(task, data, given, of_data, init_from, data_dir)
    config = with_overrides(config, _dividing(config, settings))
    lines.append(
        f"{config.steps} steps of {config.batch_size}, evaluated every {config.evaluate_every}; "
        "change with --set=steps=... --set=batch_size=..."
    )
    if init_from is None:
        purpose = PRESETS[config.preset].purpose
        lines.append(f"model {config.preset}: {purpose}; change with --set=preset=...")
        lines.append(
            "no --init_from: the model starts from nothing and knows no language yet. Published "
            "weights (--init_from=hf://..., a downloaded folder, or an earlier --workdir) mostly "
            "do better"
        )
    else:
        lines.append(f"starting from the weights of {init_from}")
    return config, lines


def _find(data: str, data_dir: str | None) -> Path | None:
    """The file or folder, of a glob the first file; None if there is none."""
    for place in (Path(data), Path(data_dir or "", data)):
        if place.exists():
            return place
        if found := sorted(glob.glob(str(place), recursive=True)):
            return Path(found[0])
    return None


def _data_config(task: str, settings: Sequence[str], **options: Any) -> DataConfig:
    """How the data are read, as the settings change it: they are looked at that way."""
    preset = "gpt_char_cpu" if task == "lm" else "bert_small_cpu"
    provisional = TrainConfig(f"own_{task}", DataConfig(**options), preset, task)
    return with_overrides(provisional, list(settings)).data


def _dividing(config: TrainConfig, settings: Sequence[str]) -> list[str]:
    """The settings, with a distance of evaluations that divides other steps."""
    keys = {setting.partition("=")[0]: setting.partition("=")[2] for setting in settings}
    if "evaluate_every" in keys or not keys.get("steps", "").isdigit() or keys["steps"] == "0":
        return list(settings)
    steps = int(keys["steps"])
    every = next(n for n in range(min(config.evaluate_every, steps), 0, -1) if steps % n == 0)
    return [*settings, f"evaluate_every={every}"]


def _running_text(
    task, source, text_column, settings, init_from, data_dir
) -> tuple[TrainConfig, list[str]]:
    tokenizer = "character" if task == "lm" else "wordpiece"
    path, prepared = _find(source, data_dir), find_prepared(source, data_dir)
    if prepared is not None:
        opened = open_prepared(prepared)
        data = _data_config(task, settings, train=source, tokenizer=opened.index.tokenizer)
        lines = [f"{source}: prepared, {len(opened.train):,} training tokens"]
        return _language_run(task, data, len(opened.train), init_from), lines
    options: dict[str, Any] = {"train": source, "tokenizer": tokenizer, "split": "files"}
    lines = [f"{source}: running text"]
    if table_format(str(path or source)) or text_column is not None:
        options |= {"split": "rows", "text_column": text_column or "text"}
        if path is not None:
            layout = inspect_table(str(path), task)
            (column,) = _text_columns(task, source, layout, {"text": text_column, "pair": None})
            options |= {**_reading(layout), "text_column": column}
            lines = [_describe(source, layout)]
        lines.append(
            f"reading column {options['text_column']!r} as text; change with --text_column=..."
        )
    elif path is not None and path.is_file():
        options["encoding"] = inspect_table(str(path), task).encoding
        lines = [f"{source}: running text, {options['encoding']}"]
    data = _data_config(task, settings, **options)
    documents = read_running_text(data, source, data_dir)
    characters = sum(len(document.text) for document in documents)
    different = set().union(*(document.text for document in documents))
    lines.append(f"{characters:,} characters in {len(documents):,} texts; a tenth validates")
    if data.tokenizer == "character":
        start = "\n" if len(documents) == 1 and "\n" in different else ""
        data = dataclasses.replace(
            data, start_text=start, min_count=2 if len(different) > 200 else 1
        )
        return _language_run(task, data, characters, init_from), lines
    per_token = 1.5 if len(different) > 1000 else 4  # thousands of characters: Chinese
    tokens = characters if data.tokenizer == "byte" else characters / per_token
    return _language_run(task, data, tokens, init_from), lines


def _language_run(task: str, data: DataConfig, tokens: float, init_from: str | None) -> TrainConfig:
    if task == "mlm":
        length, batch = _longest(128, init_from), 16
        fields: dict[str, Any] = {"preset": "bert_small_cpu", "text": TextConfig(max_length=length)}
    else:
        length, batch = 64, 12
        fields = {"preset": "gpt_char_cpu"}
        if init_from is not None and read_config(Path(init_from)) is None:
            # Published ones have a context of more than a laptop can train with.
            fields["model"], length, batch = {"context_length": 256}, 256, 8
    fields["batch_size"] = batch
    fields["optimizer"] = muon(6e-3) if init_from is None else _fine_tuning(5e-5)
    return _run(task, data, fields, _steps(tokens / length, batch, init_from), init_from)


def _labelled(task, source, given, settings, init_from, data_dir) -> tuple[TrainConfig, list[str]]:
    path = _find(source, data_dir)
    if path is None:
        raise FileNotFoundError(f"--data={source}: no such file")
    options: dict[str, Any] = {"format": "folders"}
    lines = [f"{source}: a folder of texts for each label"]
    if path.is_dir() and task != "classify":
        raise ValueError(f"--data={source} is a folder; give the file with the examples")
    if path.is_file():
        layout = inspect_table(str(path), task)
        if (layout.format == "squad") != (task == "span"):
            reads = "questions in SQuAD's JSON" if task == "span" else "no SQuAD: use --task=span"
            raise ValueError(f"{source}: task {task} reads {reads}")
        options, lines = _reading(layout), [_describe(source, layout)]
        if task == "tag":
            options |= _tag_columns(path, layout, given, lines)
        elif task != "span":
            options |= _columns(task, source, layout, given, lines)
    options |= {"tokenizer": "wordpiece", "mismatched": "skip", "lowercase": task != "tag"}
    data = _data_config(task, settings, train=source, **options)
    examples = read_examples(task, source, data, data_dir)
    if task in ("classify", "pair"):
        lines.append(_check_classes(source, data.label_column, examples.label))
    test = 0.1 if len(examples) >= _FEW_ROWS else 0.0
    lines.append(
        f"{len(examples):,} examples: a tenth validates, "
        + ("a tenth tests" if test else "too few for a test as well")
    )
    data = dataclasses.replace(data, test_fraction=test)
    return _encoder_run(task, data, examples, init_from), lines


def _tag_columns(path: Path, layout: TableLayout, given, lines: list[str]) -> dict[str, str]:
    start = read_bytes(str(path), 1 << 16)[0].decode(layout.encoding, "replace")
    rows = [line.split("\t") for line in start.split("\n")]
    is_conllu = any(len(row) == 10 and row[0].isdigit() for row in rows)
    words, tags = given["text"] or "FORM", given["label"] or "UPOS"
    if not is_conllu:
        words, tags = given["text"] or "0", given["label"] or "-1"
    lines.append(
        f"reading column {words!r} as words, {tags!r} as tags (numbers count from 0, -1 is the "
        "last); change with --text_column=... --label_column=..."
    )
    return {"token_column": words, "tag_column": tags}


def _encoder_run(task, data: DataConfig, examples, init_from) -> TrainConfig:
    tokens, most = (
        _token_estimates(examples),
        {"span": 384, "pair": 256, "embed": 256}.get(task, 128),
    )
    needed = int(1.2 * np.quantile(tokens, 0.9)) + 8
    length = next((size for size in (32, 64, 128, 256) if needed <= size), most)
    length = _longest(min(length, most), init_from)
    batch = {"span": 8, "tag": 16}.get(task, 32)
    fields: dict[str, Any] = {
        "preset": "bert_small_cpu",
        "text": TextConfig(
            max_length=length, pairs=task == "regress" and data.pair_column is not None
        ),
        "batch_size": batch,
        "jit_compile": False,  # a compilation for each bucket costs more than it gives
    }
    if task in (*_LABELLED, "embed"):
        fields["head"] = {"pooling": "mean"}
    if init_from is None:
        fields["model"] = {"dropout": 0.2, "context_length": max(length, 128)}
        fields["optimizer"] = muon(2e-3, weight_decay=0.1)
    else:
        fields["optimizer"] = _fine_tuning(5e-5)
    return _run(task, data, fields, _steps(len(examples), batch, init_from), init_from)


def _run(task, data: DataConfig, fields: dict[str, Any], steps: int, init_from) -> TrainConfig:
    fields["optimizer"] = dataclasses.replace(
        fields["optimizer"], warmup_steps=min(100, steps // 10)
    )
    return TrainConfig(
        recipe=f"own_{task}",
        task=task,
        data=data,
        finetune=FineTuneConfig(init_from=init_from),
        steps=steps,
        evaluate_every=steps // 5,
        sample_prompts=None,
        **fields,
    )


def _fine_tuning(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=learning_rate,
        schedule="linear",
        final_fraction=0.0,
        weight_decay=0.01,
        beta_2=0.98,
    )


def _steps(rows: float, batch: int, init_from: str | None) -> int:
    """A multiple of 50."""
    epochs, fewest, most = _FROM_NOTHING if init_from is None else _FROM_WEIGHTS
    return min(max(math.ceil(epochs * rows / batch / 50) * 50, fewest), most)


def _longest(length: int, init_from: str | None) -> int:
    """At most what the weights of an earlier run read."""
    earlier = None if init_from is None else read_config(Path(init_from))
    return length if earlier is None else min(length, earlier.text.max_length)


def _token_estimates(examples: LabeledTexts | TaggedTexts | Questions) -> list[int]:
    if isinstance(examples, TaggedTexts):
        return [len(words) for words in examples.words]
    if isinstance(examples, Questions):
        texts = [f"{q} {c}" for q, c in zip(examples.question, examples.context)]
    else:
        seconds = examples.text_pair or [""] * len(examples)
        texts = [f"{first} {second}" for first, second in zip(examples.text, seconds)]
    return [len(_TOKEN.findall(text)) for text in texts]


def _reading(layout: TableLayout) -> dict[str, Any]:
    """The options of DataConfig that say how the file is read."""
    options: dict[str, Any] = {"encoding": layout.encoding}
    if layout.format not in ("conll", "squad"):
        options |= {"format": layout.format, "separator": layout.separator}
    if layout.format in ("csv", "tsv"):
        options["header"] = "first" if layout.header else "none"
    return options


def _describe(path: str, layout: TableLayout) -> str:
    columns = f", columns {', '.join(layout.columns)}" if layout.columns else ""
    separator = f" separated by {layout.separator}" if layout.separator != "auto" else ""
    names = ""
    if layout.format in ("csv", "tsv"):
        names = ", first line names the columns" if layout.header else ", no names of columns"
    return f"{path}: {layout.format}{separator}, {layout.encoding}{names}{columns}"


def _columns(task, path, layout: TableLayout, given, lines: list[str]) -> dict[str, str]:
    texts = _text_columns(task, path, layout, given)
    found = dict(zip(("text_column", "pair_column"), texts))
    reading = " and ".join(map(repr, texts)) + (" as texts" if len(texts) > 1 else " as text")
    ways = "--text_column=... --pair_column=..." if len(texts) > 1 else "--text_column=..."
    if task in _LABELLED:
        label = given["label"] or layout.label_column
        if label is None:
            what = "numbers" if task == "regress" else "labels"
            other = "; words as labels are for --task=classify" if task == "regress" else ""
            raise ValueError(
                f"{path}: no column of {what} found among {', '.join(layout.columns)}; name it "
                f"with --label_column=...{other}"
            )
        found["label_column"] = _known(path, label, layout, "label_column")
        reading += f", {label!r} as {'number' if task == 'regress' else 'label'}"
        ways += " --label_column=..."
    lines.append(f"reading column{'s' if len(texts) > 1 else ''} {reading}; change with {ways}")
    return found


def _text_columns(task, path, layout: TableLayout, given) -> tuple[str, ...]:
    names = list(layout.text_columns[: 2 if task in _TWO_TEXTS else 1])
    for place, kind in enumerate(("text", "pair")):
        if given[kind] is not None:
            names[place:] = [given[kind], *names[place + 1 :]]
    needed = 2 if task in _TWO_TEXTS else 1
    if layout.format == "lines" and task not in ("lm", "mlm"):
        raise ValueError(
            f"{path}: no separator stands in its lines, so there are no columns. Task {task} reads "
            "a table, CSV, TSV or JSON lines; plain text is for --task=lm and --task=mlm"
        )
    if len(names) < needed:
        raise ValueError(
            f"{path}: task {task} needs {needed} column(s) of text, and among "
            f"{', '.join(layout.columns) or 'its lines'} there are {len(names)}; name them with "
            "--text_column=..." + (" --pair_column=..." if needed > 1 else "")
        )
    return tuple(
        _known(path, name, layout, option)
        for name, option in zip(names, ("text_column", "pair_column"))
    )


def _known(path: str, name: str, layout: TableLayout, option: str) -> str:
    numbers = {str(n) for n in range(-len(layout.columns), len(layout.columns))}
    if name in layout.columns or name in numbers or not layout.columns:
        return name
    close = difflib.get_close_matches(name, layout.columns, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{path}: no column {name!r} (--{option}).{hint} It has {', '.join(layout.columns)}"
    )


def _check_classes(path: str, column: str, labels: list[str]) -> str:
    """What classes there are; refuses labels that a classifier cannot learn."""
    classes = sorted(set(labels))
    if len(classes) == 1:
        raise ValueError(
            f"{path}: all {len(labels):,} rows have the label {classes[0]!r} in column {column!r}; "
            "a classifier needs two classes or more. Choose another column with --label_column=..."
        )
    few_rows = len(classes) > 20 and len(labels) < 5 * len(classes)
    if few_rows and all(re.fullmatch(r"[-+]?\d*[.,]?\d+", label) for label in classes):
        raise ValueError(
            f"{path}: column {column!r} has {len(classes):,} different numbers in {len(labels):,} "
            "rows. To predict a number use --task=regress; for classes choose another column with "
            "--label_column=..."
        )
    if len(classes) > max(20, len(labels) / 2):
        raise ValueError(
            f"{path}: column {column!r} has {len(classes):,} different values in {len(labels):,} "
            "rows, too many for classes. Choose another column with --label_column=..."
        )
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} classes: {shown}"
