"""What a user's own file holds, found by looking at its start. It loads no TensorFlow."""

import glob
import os
from collections.abc import Sequence
from typing import Any

from trainers.config import TrainConfig, with_overrides
from trainers.data.config import SEQ2SEQ_TASKS, DataConfig
from trainers.data.rows import HUGGING_FACE
from trainers.data.sources import ADDRESSES, find_address
from trainers.data.tables import TableLayout
from trainers.data.text import read_bytes
from zoo.text.config import TextConfig

RUNNING_TEXT, _TWO_TEXTS = ("lm", "mlm"), ("pair", "embed", *SEQ2SEQ_TASKS)
_LM_PRESET, _SMALL_BERT, _SEQ2SEQ = "gpt_char_cpu", "bert_small_cpu", "seq2seq_cpu"


def preset_of(task: str) -> str:
    """The preset of a task whose data nothing else is known of."""
    if task in SEQ2SEQ_TASKS:
        return _SEQ2SEQ
    return _LM_PRESET if task in ("lm", "chat") else _SMALL_BERT


def find_source(data: str, settings: Sequence[str], data_dir: str | None) -> str | None:
    """What is looked at: a file or folder, of a glob the first file; None if there is none."""
    if data.startswith(HUGGING_FACE):
        return data
    if data.startswith(ADDRESSES):
        limits = [setting for setting in settings if setting.startswith("data.limits.")]
        return find_address(data, data_dir, data_config("lm", limits, train=data).limits).path
    for place in (data, os.path.join(data_dir or "", data)):
        if os.path.exists(place):
            return place
        if found := sorted(glob.glob(place, recursive=True)):
            return found[0]
    return None


def data_config(task: str, settings: Sequence[str], **options: Any) -> DataConfig:
    """How the data are read, as the settings change it: they are looked at that way."""
    kind = "character" if task == "lm" else "bytepair" if task in SEQ2SEQ_TASKS else "wordpiece"
    options.setdefault("tokenizer", kind)
    text = TextConfig(pairs=task == "regress" and "pair_column" in options)
    run = TrainConfig(f"own_{task}", DataConfig(**options), preset_of(task), task, text=text)
    return with_overrides(run, list(settings)).data


def reading_options(path: str, layout: TableLayout) -> tuple[dict[str, Any], str]:
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


def tag_columns(task, path, layout, given) -> tuple[dict[str, str], str]:
    """The columns of words and tags, and a line for people."""
    start = read_bytes(path, 1 << 16)[0].decode(layout.encoding, "replace")
    rows = [line.split("\t") for line in start.split("\n")]
    is_conllu = any(len(row) == 10 and row[0].isdigit() for row in rows)
    words, tags = ("FORM", "UPOS") if is_conllu else ("0", "-1")
    words, tags = given["text"] or words, given["label"] or tags
    return {"token_column": words, "tag_column": tags}, (
        f"reading column {words!r} as words, {tags!r} as tags (numbers count from 0, -1 is the "
        "last); change with --text_column=... --label_column=..."
    )


def table_columns(task, path, layout, given) -> tuple[dict[str, str], str]:
    """The columns of texts and labels, and a line for people."""
    texts = text_columns(task, path, layout, given)
    found = dict(zip(("text_column", "pair_column"), texts))
    plural = "s" if len(texts) > 1 else ""
    reading = f"{' and '.join(map(repr, texts))} as text{plural}"
    if task in SEQ2SEQ_TASKS:
        written = "translation" if task == "translate" else "summary"
        reading = f"{texts[0]!r} as source, {texts[1]!r} as its {written}"
    elif task != "embed":
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


def text_columns(task, path, layout: TableLayout, given) -> tuple[str, ...]:
    """The columns of one text, or two: as given, else as found."""
    needed = 2 if task in _TWO_TEXTS else 1
    names = list(layout.text_columns[:needed])
    for place, kind in enumerate(("text", "pair")):
        if given[kind] is not None:
            names[place:] = [given[kind], *names[place + 1 :]]
    if layout.format == "lines" and task not in RUNNING_TEXT:
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
