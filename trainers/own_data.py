"""A run on a user's own file: what the file holds is found by looking, the rest is chosen."""

import dataclasses
import glob
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainers.config import (
    TASK_NAMES,
    FineTuneConfig,
    TrainConfig,
    adamw,
    muon,
    read_config,
    with_overrides,
)
from trainers.data.config import DataConfig
from trainers.data.datasets import read_examples
from trainers.data.examples import LabeledTexts, Questions, TaggedTexts
from trainers.data.rows import HUGGING_FACE, table_format
from trainers.data.shards import find_prepared, open_prepared
from trainers.data.sources import ADDRESSES, find_address
from trainers.data.tables import TableLayout, inspect_table
from trainers.data.text import read_bytes
from trainers.tasks.running_text import read_running_text
from zoo.presets import PRESETS
from zoo.text.config import TextConfig

_RUNNING_TEXT, _TWO_TEXTS, _LABELLED = ("lm", "mlm"), ("pair", "embed"), ("classify", "pair")
_PRESET, _SMALL_BERT = {"lm": "gpt_char_cpu"}, "bert_small_cpu"
_FEW_ROWS = 100  # fewer leave nothing for a test
_LONGEST, _BATCH = {"span": 384, "pair": 256, "embed": 256}, {"span": 8, "tag": 16}
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
    """The config of a run on a file, and what was found and chosen, a line each, for people; always
    the same one, so that the same command resumes a run.

    Args:
        data: a file or a glob; of running text (lm, mlm) all that `data.train` may be; for
            classify also a folder of texts for each label.
        settings: `key.path=value`, as `with_overrides` takes them.
        init_from: weights to start from, anything that `zoo.load` takes.
        text_column, pair_column, label_column: names, or numbers from 0. Default: found.
        data_dir: where a relative path is looked for after the working directory.

    Raises:
        ValueError, OSError: the file does not fit the task; the message says what to do.
    """
    if task not in TASK_NAMES:
        raise ValueError(f"--task={task}: use one of {', '.join(TASK_NAMES)}")
    given = {"text": text_column, "pair": pair_column, "label": label_column}
    of_data = [setting for setting in settings if setting.startswith("data.")]
    earlier = None if init_from is None else read_config(Path(init_from))
    longest = math.inf if earlier is None else earlier.text.max_length
    if task in _RUNNING_TEXT:
        config, tokens, lines = _running_text(task, data, text_column, of_data, data_dir)
        batch, length = (16, min(128, longest)) if task == "mlm" else (12, 64)
        fields: dict[str, Any] = {}
        if task == "mlm":
            fields["text"] = TextConfig(max_length=length)
        elif init_from is not None and earlier is None:
            # Published ones have a context of more than a laptop can train with.
            fields["model"], length, batch = {"context_length": 256}, 256, 8
        rows = tokens / length
    else:
        config, examples, lines = _labelled(task, data, given, of_data, data_dir)
        batch, rows = _BATCH.get(task, 32), len(examples)
        length = min(_length(task, examples), longest)
        pairs = task == "regress" and config.pair_column is not None
        fields = {"text": TextConfig(max_length=length, pairs=pairs)}
        fields["jit_compile"] = False  # a compilation for each bucket costs more than it gives
        if task not in ("tag", "span"):
            fields["head"] = {"pooling": "mean"}
        if init_from is None:
            fields["model"] = {"dropout": 0.2, "context_length": max(length, 128)}
    if init_from is not None:
        (epochs, fewest, most), optimizer = _FROM_WEIGHTS, adamw(5e-5, weight_decay=0.01)
    else:
        epochs, fewest, most = _FROM_NOTHING
        optimizer = muon(6e-3) if task in _RUNNING_TEXT else muon(2e-3, weight_decay=0.1)
    steps = min(max(math.ceil(epochs * rows / batch / 50) * 50, fewest), most)
    optimizer = dataclasses.replace(optimizer, warmup_steps=min(100, steps // 10))
    run = TrainConfig(
        recipe=f"own_{task}",
        task=task,
        preset=_PRESET.get(task, _SMALL_BERT),
        data=config,
        optimizer=optimizer,
        finetune=FineTuneConfig(init_from=init_from),
        batch_size=batch,
        steps=steps,
        evaluate_every=steps // 5,
        sample_prompts=None,
        **fields,
    )
    run = with_overrides(run, _dividing(run, settings))
    lines.append(
        f"{run.steps} steps of {run.batch_size}, evaluated every {run.evaluate_every}; change with "
        "--set=steps=... --set=batch_size=..."
    )
    if init_from is not None:
        return run, [*lines, f"starting from the weights of {init_from}"]
    return run, [
        *lines,
        f"model {run.preset}: {PRESETS[run.preset].purpose}; change with --set=preset=...",
        "no --init_from: the model starts from nothing and knows no language yet. Published "
        "weights (--init_from=hf://..., a downloaded folder, or an earlier --workdir) mostly do "
        "better",
    ]


def _find(data: str, settings: Sequence[str], data_dir: str | None) -> str | None:
    """What is looked at: a file or folder, of a glob the first file; None if there is none."""
    if data.startswith(HUGGING_FACE):
        return data
    if data.startswith(ADDRESSES):
        limits = [setting for setting in settings if setting.startswith("data.limits.")]
        return find_address(data, data_dir, _data_config("lm", limits, train=data).limits).path
    for place in (data, os.path.join(data_dir or "", data)):
        if os.path.exists(place):
            return place
        if found := sorted(glob.glob(place, recursive=True)):
            return found[0]
    return None


def _data_config(task: str, settings: Sequence[str], **options: Any) -> DataConfig:
    """How the data are read, as the settings change it: they are looked at that way."""
    options.setdefault("tokenizer", "character" if task == "lm" else "wordpiece")
    text = TextConfig(pairs=task == "regress" and "pair_column" in options)
    preset = _PRESET.get(task, _SMALL_BERT)
    run = TrainConfig(f"own_{task}", DataConfig(**options), preset, task, text=text)
    return with_overrides(run, list(settings)).data


def _dividing(config: TrainConfig, settings: Sequence[str]) -> list[str]:
    """The settings, with a distance of evaluations that divides other steps."""
    values = dict(setting.partition("=")[::2] for setting in settings)
    steps = values.get("steps", "")
    if "evaluate_every" in values or not steps.isdigit() or steps == "0":
        return list(settings)
    most = min(config.evaluate_every, int(steps))
    every = next(n for n in range(most, 0, -1) if int(steps) % n == 0)
    return [*settings, f"evaluate_every={every}"]


def _running_text(task, source, text_column, settings, data_dir):
    """How running text is read, about how many tokens there are, and what was found."""
    path, prepared = _find(source, settings, data_dir), find_prepared(source, data_dir)
    if prepared is not None:
        opened = open_prepared(prepared)
        data = _data_config(task, settings, train=source, tokenizer=opened.index.tokenizer)
        tokens = len(opened.train)
        return data, tokens, [f"{source}: prepared, {tokens:,} training tokens"]
    options: dict[str, Any] = {"split": "files"}
    lines = [f"{source}: running text"]
    if table_format(path or source) or text_column is not None:
        column = text_column or "text"
        if path is not None:
            layout = inspect_table(path, task)
            (column,) = _text_columns(task, source, layout, {"text": text_column, "pair": None})
            options, line = _reading(source, layout)
            lines = [line]
        options |= {"split": "rows", "text_column": column}
        lines.append(f"reading column {column!r} as text; change with --text_column=...")
    elif path is not None and os.path.isfile(path):
        options["encoding"] = inspect_table(path, task).encoding
        lines = [f"{source}: running text, {options['encoding']}"]
    data = _data_config(task, settings, train=source, **options)
    documents = read_running_text(data, source, data_dir)
    characters = sum(len(document.text) for document in documents)
    different = set().union(*(document.text for document in documents))
    lines.append(f"{characters:,} characters in {len(documents):,} texts; a tenth validates")
    if data.tokenizer == "character":
        start = "\n" if len(documents) == 1 and "\n" in different else ""
        count = 2 if len(different) > 200 else 1
        data = dataclasses.replace(data, start_text=start, min_count=count)
    if data.tokenizer in ("character", "byte"):
        return data, characters, lines
    per_token = 1.5 if len(different) > 1000 else 4  # thousands of characters: Chinese
    return data, characters / per_token, lines


def _labelled(task, source, given, settings, data_dir):
    """How labelled data are read, the examples, and what was found."""
    path = _find(source, settings, data_dir)
    if path is None:
        raise FileNotFoundError(f"--data={source}: no such file")
    if os.path.isdir(path) and task != "classify":
        raise ValueError(f"--data={source} is a folder; give the file with the examples")
    options: dict[str, Any] = {"format": "folders"}
    lines = [f"{source}: a folder of texts for each label"]
    if not os.path.isdir(path):
        layout = inspect_table(path, task)
        if (layout.format == "squad") != (task == "span"):
            reads = "questions in SQuAD's JSON" if task == "span" else "no SQuAD: use --task=span"
            raise ValueError(f"{source}: task {task} reads {reads}")
        options, line = _reading(source, layout)
        lines = [line]
        if task != "span":
            choose = _tag_columns if task == "tag" else _columns
            columns, line = choose(task, path, layout, given)
            options |= columns
            lines.append(line)
    options |= {"mismatched": "skip", "lowercase": task != "tag"}
    data = _data_config(task, settings, train=source, **options)
    examples = read_examples(task, source, data, data_dir)
    if task in _LABELLED:
        lines.append(_check_classes(source, data.label_column, examples.label))
    most = max(Counter(examples.label).values()) if task in _LABELLED else len(examples)
    # Of each class one validates and one trains before any tests.
    test = 0.1 if len(examples) >= _FEW_ROWS and most > 2 else 0.0
    tested = "a tenth tests" if test else "too few for a test as well"
    lines.append(f"{len(examples):,} examples: a tenth validates, {tested}")
    return dataclasses.replace(data, test_fraction=test), examples, lines


def _length(task: str, examples: LabeledTexts | TaggedTexts | Questions) -> int:
    """Tokens of a window that holds nine of ten examples, where that is not too long."""
    if isinstance(examples, TaggedTexts):
        tokens = [len(words) for words in examples.words]
    else:
        columns = [getattr(examples, name, None) for name in ("text", "text_pair")]
        if isinstance(examples, Questions):
            columns = [examples.question, examples.context]
        texts = zip(*(column for column in columns if column is not None))
        tokens = [len(_TOKEN.findall(" ".join(row))) for row in texts]
    needed, most = int(1.2 * np.quantile(tokens, 0.9)) + 8, _LONGEST.get(task, 128)
    return min(next((size for size in (32, 64, 128, 256) if needed <= size), most), most)


def _reading(path: str, layout: TableLayout) -> tuple[dict[str, Any], str]:
    """The options of DataConfig that say how the file is read, and a line for people."""
    options: dict[str, Any] = {"encoding": layout.encoding}
    names, columns = "", f", columns {', '.join(layout.columns)}" if layout.columns else ""
    if layout.format not in ("conll", "squad"):
        options |= {"format": layout.format, "separator": layout.separator}
    if layout.format in ("csv", "tsv"):
        options["header"] = "first" if layout.header else "none"
        names = ", first line names the columns" if layout.header else ", no names of columns"
    separator = f" separated by {layout.separator}" if layout.separator != "auto" else ""
    return options, f"{path}: {layout.format}{separator}, {layout.encoding}{names}{columns}"


def _tag_columns(task, path, layout, given) -> tuple[dict[str, str], str]:
    start = read_bytes(path, 1 << 16)[0].decode(layout.encoding, "replace")
    rows = [line.split("\t") for line in start.split("\n")]
    is_conllu = any(len(row) == 10 and row[0].isdigit() for row in rows)
    words, tags = ("FORM", "UPOS") if is_conllu else ("0", "-1")
    words, tags = given["text"] or words, given["label"] or tags
    return {"token_column": words, "tag_column": tags}, (
        f"reading column {words!r} as words, {tags!r} as tags (numbers count from 0, -1 is the "
        "last); change with --text_column=... --label_column=..."
    )


def _columns(task, path, layout, given) -> tuple[dict[str, str], str]:
    texts = _text_columns(task, path, layout, given)
    found = dict(zip(("text_column", "pair_column"), texts))
    plural = "s" if len(texts) > 1 else ""
    reading = f"{' and '.join(map(repr, texts))} as text{plural}"
    if task != "embed":
        label = given["label"] or layout.label_column
        kind = "number" if task == "regress" else "label"
        if label is None:
            other = "; words as labels are for --task=classify" if task == "regress" else ""
            raise ValueError(
                f"{path}: no column of {kind}s found among {', '.join(layout.columns)}; name it "
                f"with --label_column=...{other}"
            )
        found["label_column"] = label
        reading += f", {label!r} as {kind}"
    ways = " ".join(f"--{name}=..." for name in found)
    return found, f"reading column{plural} {reading}; change with {ways}"


def _text_columns(task, path, layout: TableLayout, given) -> tuple[str, ...]:
    needed = 2 if task in _TWO_TEXTS else 1
    names = list(layout.text_columns[:needed])
    for place, kind in enumerate(("text", "pair")):
        if given[kind] is not None:
            names[place:] = [given[kind], *names[place + 1 :]]
    if layout.format == "lines" and task not in _RUNNING_TEXT:
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
    return tuple(names)


def _check_classes(path: str, column: str, labels: list[str]) -> str:
    """What classes there are; refuses labels that a classifier cannot learn."""
    classes, rows = sorted(set(labels)), f"{len(labels):,} rows"
    few_rows = len(classes) > 20 and len(labels) < 5 * len(classes)
    problem, many = "", f"has {len(classes):,} different"
    if len(classes) == 1:
        problem = f"has the label {classes[0]!r} in all {rows}; a classifier needs two or more."
    elif few_rows and all(re.fullmatch(r"[-+]?\d*[.,]?\d+", label) for label in classes):
        problem = f"{many} numbers in {rows}. To predict a number use --task=regress. For classes:"
    elif len(classes) > max(20, len(labels) / 2):
        problem = f"{many} values in {rows}, too many for classes."
    if problem:
        another = "Choose another column with --label_column=..."
        raise ValueError(f"{path}: column {column!r} {problem} {another}")
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} classes: {shown}"
