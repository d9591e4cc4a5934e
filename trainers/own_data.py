"""A run on a user's own file: what the file holds is found by looking, the rest is chosen."""

import dataclasses
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
    DistillConfig,
    FineTuneConfig,
    Seq2SeqTraining,
    TrainConfig,
    adamw,
    muon,
    read_config,
    with_overrides,
)
from trainers.data.config import SEQ2SEQ_TASKS
from trainers.data.datasets import read_examples
from trainers.data.examples import LabeledTexts, Questions, TaggedTexts
from trainers.data.labeled import CHAT_FORM, read_conversations
from trainers.data.tables import inspect_table
from trainers.fine_tuning import tuned
from trainers.own_file import (
    RUNNING_TEXT,
    data_config,
    find_source,
    preset_of,
    reading_options,
    table_columns,
    tag_columns,
)
from zoo.output import quiet_imports
from zoo.presets import PRESETS
from zoo.text.config import TextConfig

_LABELLED = ("classify", "pair")
_FEW_ROWS = 100  # fewer leave nothing for a test
_LONGEST, _BATCH = {"span": 384, "pair": 256, "embed": 256}, {"span": 8, "tag": 16}
# Questions of published weights, which are larger: shorter windows that share a quarter, and few of
# those without the answer. `drcd_e5` learns from them in 11 CPU-minutes.
_SPAN_TUNED, _NEGATIVE = 192, 0.25
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
# Steps over the data: (epochs, fewest, most). Weights that there are need a few; published ones are
# larger, and a step of them takes longer. The recipes of as much data have about as many.
_FROM_NOTHING, _FROM_WEIGHTS = (5, 200, 2000), (3, 100, 1000)
_WRITING_FROM_NOTHING = (15, 500, 8000)
# Examples of a class from which on a published model reads them twice and not four times, at half
# the rate: film reviews have 4,800, titles of `csl_e5` 600, questions of `banking77_minilm` 130.
_MANY_A_CLASS = 2000
_HELD_OUT = 2000  # pairs that validate, and that test, at most


def own_config(
    task: str,
    data: str,
    settings: Sequence[str] = (),
    *,
    init_from: str | None = None,
    teacher: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    data_dir: str | None = None,
) -> tuple[TrainConfig, list[str]]:
    """The config of a run on a file, and what was found and chosen, a line each, for people; always
    the same one, so that the same command resumes a run.

    Args:
        data: a file or a glob; of running text (lm, mlm) all that `data.train` may be; for
            classify also a folder of texts for each label, for translate and summarize also two
            text files, "SOURCES,TARGETS".
        settings: `key.path=value`, as `with_overrides` takes them.
        init_from: weights to start from, anything that `zoo.load` takes.
        teacher: a finished run of the same task, to learn from, too.
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
    shape, freeze = None, "none"
    if task in RUNNING_TEXT:
        with quiet_imports():  # it needs TensorFlow; mistakes in tables are told before
            from trainers.own_text import running_text
        # Published language models cut words; those of an earlier run do as that one did.
        tokenizer = "bytepair" if task == "lm" and init_from is not None else None
        tokenizer = tokenizer if earlier is None else earlier.data.tokenizer
        config, tokens, lines = running_text(
            *(task, data, text_column, of_data, data_dir), tokenizer=tokenizer
        )
        batch, length = (16, min(128, longest)) if task == "mlm" else (12, 64)
        fields: dict[str, Any] = {}
        if task == "mlm":
            fields["text"] = TextConfig(max_length=length)
        elif init_from is not None and earlier is None:
            # Published ones have a context of more than a laptop can train with.
            length, batch = 256, 8
            config = dataclasses.replace(config, window=config.window or length)
        rows = tokens / length
    elif task == "chat":
        config, length, rows, lines = _conversations(data, given, of_data, data_dir)
        batch, fields = 8, {"model": {"context_length": length}} if init_from is None else {}
    elif task in SEQ2SEQ_TASKS:
        config, pairs, lines = _pairs(task, data, given, of_data, data_dir)
        source, target = (_tokens(column) for column in (pairs.source, pairs.target))
        batch, rows, fields = 64, len(pairs), {"jit_compile": False}
        if init_from is None:
            context = max(source, target, 64)
            fields["model"] = {"dropout": 0.1, "context_length": context}
            lines.append(f"texts of up to {context} tokens; change with --set=model.context_length")
        else:
            batch = 8
            fields["seq2seq"] = Seq2SeqTraining(max_source=source, max_target=target)
    else:
        config, examples, lines = _labelled(task, data, given, of_data, data_dir)
        batch = _BATCH.get(task, 32)
        if init_from is not None:
            with quiet_imports():  # it needs TensorFlow; mistakes in tables are told before
                from zoo.loading import outline
            _, shape = outline(init_from)
            longest = min(longest, shape.context_length)
        reads_tuned = shape is not None and task == "span"
        longest = min(longest, _SPAN_TUNED) if reads_tuned else longest
        length, rows = _windows(task, examples, longest)
        pairs = task == "regress" and config.pair_column is not None
        fields = {"text": TextConfig(max_length=length, pairs=pairs)}
        if reads_tuned:
            config = dataclasses.replace(config, negative_windows=_NEGATIVE)
            if not any(setting.startswith("text.max_length=") for setting in settings):
                fields["text"] = TextConfig(max_length=length, stride=length * 3 // 4)
        fields["jit_compile"] = False  # a compilation for each bucket costs more than it gives
        if task not in ("tag", "span"):
            fields["head"] = {"pooling": "mean"}
        fields["ngrams"] = task == "classify"
        if init_from is None:
            fields["model"] = {"dropout": 0.2, "context_length": max(length, 128)}
    if init_from is not None:
        (epochs, fewest, most), optimizer = _FROM_WEIGHTS, adamw(5e-5, weight_decay=0.01)
        if shape is not None and task != "embed":  # a new head learns labels
            gentle = task == "regress"
            if task in _LABELLED:
                gentle = len(examples) / len(set(examples.label)) >= _MANY_A_CLASS
                epochs = 2 if gentle else 4
            optimizer, freeze = tuned(shape, gentle)
            if any(setting.startswith("finetune.lora_rank=") for setting in settings):
                freeze = "none"  # it freezes by itself
    else:
        writes = task in SEQ2SEQ_TASKS
        epochs, fewest, most = _WRITING_FROM_NOTHING if writes else _FROM_NOTHING
        optimizer = muon(6e-3) if task in (*RUNNING_TEXT, "chat") else muon(2e-3, weight_decay=0.1)
        optimizer = muon(2e-3, adam_lr_ratio=2.0) if writes else optimizer
    steps = min(max(math.ceil(epochs * rows / batch / 50) * 50, fewest), most)
    optimizer = dataclasses.replace(optimizer, warmup_steps=_warmup(steps))
    run = TrainConfig(
        recipe=f"own_{task}",
        task=task,
        preset=preset_of(task),
        data=config,
        optimizer=optimizer,
        finetune=FineTuneConfig(init_from=init_from, freeze=freeze),
        distill=DistillConfig(teacher=teacher),
        batch_size=batch,
        steps=steps,
        evaluate_every=steps // 5,
        sample_prompts=None,
        **fields,
    )
    run = with_overrides(run, _fitting(run, settings))
    lines.append(
        f"{run.steps} steps of {run.batch_size}, evaluated every {run.evaluate_every}; change with "
        "--set=steps=... --set=batch_size=..."
    )
    if teacher is not None:
        lines.append(f"learning from the labels and from what {teacher} answers")
    if init_from is not None:
        rate = f"learning rate {run.optimizer.learning_rate:.2g}; change with "
        lines.append(f"{rate}--set=optimizer.learning_rate=...")
        if run.finetune.freeze == "embeddings":
            way = "--set=finetune.freeze=none trains them, too"
            lines.append(f"the vocabulary's many weights stay as they are; {way}")
        return run, [*lines, f"starting from the weights of {init_from}"]
    return run, [
        *lines,
        f"model {run.preset}: {PRESETS[run.preset].purpose}; change with --set=preset=...",
        "no --init_from: the model starts from nothing and knows no language yet. Published "
        "weights (--init_from=hf://..., a downloaded folder, or an earlier --workdir) mostly do "
        "better",
    ]


def _fitting(config: TrainConfig, settings: Sequence[str]) -> list[str]:
    """The settings; of other steps a distance of evaluations that divides them, and a warm-up."""
    values = dict(setting.partition("=")[::2] for setting in settings)
    steps, fitting = values.get("steps", ""), list(settings)
    if not steps.isdigit() or steps == "0":
        return fitting
    if "evaluate_every" not in values:
        most = min(config.evaluate_every, int(steps))
        every = next(n for n in range(most, 0, -1) if int(steps) % n == 0)
        fitting.append(f"evaluate_every={every}")
    if not {"optimizer", "optimizer.warmup_steps"} & values.keys():
        fitting.append(f"optimizer.warmup_steps={_warmup(int(steps))}")
    return fitting


def _warmup(steps: int) -> int:
    """Steps until the peak of the learning rate."""
    return min(100, steps // 10)


def _conversations(source, given, settings, data_dir):
    """How conversations are read, tokens of a window, how many windows, and what was found."""
    if any(given.values()):
        raise ValueError(f"--task=chat reads no columns, such as --text_column names. {CHAT_FORM}")
    data = data_config("chat", settings, train=source, tokenizer="bytepair")
    talks = [talk for talk, _ in read_conversations(source, data, data_dir)]
    # English has four bytes a token, Chinese three.
    sizes = [sum(len(one["content"].encode()) // 3 + 8 for one in talk) for talk in talks]
    length = next((size for size in (256, 512) if np.quantile(sizes, 0.9) <= size), 1024)
    found = f"{len(talks):,} conversations of {sum(map(len, talks)):,} messages; a tenth validates"
    data = dataclasses.replace(data, window=data.window or length)
    return data, data.window, sum(sizes) / data.window, [f"{source}: {found}"]


def _pairs(task, source, given, settings, data_dir):
    """How pairs are read, the pairs, and what was found."""
    paths = [find_source(part, settings, data_dir) for part in source.split(",")]
    if None in paths:
        raise FileNotFoundError(f"--data={source.split(',')[paths.index(None)]}: no such file")
    if any(map(os.path.isdir, paths)):
        raise ValueError(f"--data={source} is a folder; give the file with the pairs")
    layout = inspect_table(paths[0], task if len(paths) == 1 else "lm")
    if len(paths) == 1:
        options, line = reading_options(source, layout)
        columns, reading = table_columns(task, source, layout, given)
        options, lines = options | columns, [line, reading]
    else:
        if any(given.values()):
            raise ValueError(f"--data={source}: two files of lines have no columns")
        options = {"encoding": layout.encoding}
        lines = [f"{source}: {layout.encoding}, a line of the first for each of the second"]
    data = data_config(task, settings, train=source, mismatched="skip", **options)
    pairs = read_examples(task, source, data, data_dir)
    first = " -> ".join(f"{texts[0]:.60}" for texts in (pairs.source, pairs.target))
    turned = ", turned around" if data.reverse else "; --set=data.reverse=true turns all around"
    lines.append(f"first pair: {first}{turned}")
    share = min(0.1, _HELD_OUT / len(pairs))
    test = share if len(pairs) >= _FEW_ROWS else 0.0
    tests = f"{test:.1%} tests" if test else "too few for a test as well"
    lines.append(f"{len(pairs):,} pairs: {share:.1%} validates, {tests}")
    return dataclasses.replace(data, validation_fraction=share, test_fraction=test), pairs, lines


def _tokens(texts: list[str]) -> int:
    """About how many byte pairs hold 99 of 100 texts: a power of two."""
    words = [len(_TOKEN.findall(text)) for text in texts]
    needed = 1.5 * np.quantile(words, 0.99) + 8
    return next((size for size in (32, 64, 128, 256) if needed <= size), 512)


def _labelled(task, source, given, settings, data_dir):
    """How labelled data are read, the examples, and what was found."""
    path = find_source(source, settings, data_dir)
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
        options, line = reading_options(source, layout)
        lines = [line]
        if task != "span":
            choose = tag_columns if task == "tag" else table_columns
            columns, line = choose(task, path, layout, given)
            options |= columns
            lines.append(line)
    options |= {"mismatched": "skip", "lowercase": task != "tag"}
    data = data_config(task, settings, train=source, **options)
    examples = read_examples(task, source, data, data_dir)
    if task in _LABELLED:
        lines.append(_check_classes(source, data.label_column, examples.label))
    most = max(Counter(examples.label).values()) if task in _LABELLED else len(examples)
    # Of each class one validates and one trains before any tests.
    test = 0.1 if len(examples) >= _FEW_ROWS and most > 2 else 0.0
    tested = "a tenth tests" if test else "too few for a test as well"
    lines.append(f"{len(examples):,} examples: a tenth validates, {tested}")
    return dataclasses.replace(data, test_fraction=test), examples, lines


def _windows(
    task: str, examples: LabeledTexts | TaggedTexts | Questions, longest: float
) -> tuple[int, int]:
    """Tokens of a window, of at most `longest`, that holds nine of ten examples where that is not
    too long; and about how many windows there are.
    """
    if isinstance(examples, TaggedTexts):
        tokens = [len(words) for words in examples.words]
    else:
        columns = [getattr(examples, name, None) for name in ("text", "text_pair")]
        if isinstance(examples, Questions):
            columns = [examples.question, examples.context]
        texts = zip(*(column for column in columns if column is not None))
        tokens = [len(_TOKEN.findall(" ".join(row))) for row in texts]
    needed = 1.2 * np.array(tokens) + 8  # (N,)
    most = int(min(_LONGEST.get(task, 128), longest))
    wanted = int(np.quantile(needed, 0.9))
    length = min(next((size for size in (32, 64, 128, 256) if wanted <= size), most), most)
    if getattr(examples, "text_pair", None) is not None:  # pairs are cut
        return length, len(examples)
    beyond = np.maximum(needed - length, 0)
    return length, int(np.sum(1 + np.ceil(beyond / (length / 2))))


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
