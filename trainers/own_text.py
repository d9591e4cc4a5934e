"""A user's own running text: how it is read, and how much there is."""

import dataclasses
import os
from typing import Any

from trainers.data.prepare.shards import find_prepared, open_prepared
from trainers.data.rows import table_format
from trainers.data.tables import inspect_table
from trainers.own_file import data_config, find_source, reading_options, text_columns
from trainers.tasks.running_text import read_running_text


def running_text(task, source, text_column, settings, data_dir, tokenizer: str | None):
    """How running text is read, about how many tokens there are, and what was found; `tokenizer`
    is the kind of that of weights to start from.
    """
    path, prepared = find_source(source, settings, data_dir), find_prepared(source, data_dir)
    if prepared is not None:
        opened = open_prepared(prepared)
        data = data_config(task, settings, train=source, tokenizer=opened.index.tokenizer)
        tokens = len(opened.train)
        return data, tokens, [f"{source}: prepared, {tokens:,} training tokens"]
    options: dict[str, Any] = {"split": "files"}
    lines = [f"{source}: running text"]
    if table_format(path or source) or text_column is not None:
        column = text_column or "text"
        if path is not None:
            layout = inspect_table(path, task)
            (column,) = text_columns(task, source, layout, {"text": text_column, "pair": None})
            options, line = reading_options(source, layout)
            lines = [line]
        options |= {"split": "rows", "text_column": column}
        lines.append(f"reading column {column!r} as text; change with --text_column=...")
    elif path is not None and os.path.isfile(path):
        options["encoding"] = inspect_table(path, task).encoding
        lines = [f"{source}: running text, {options['encoding']}"]
    if tokenizer is not None:
        options["tokenizer"] = tokenizer
    data = data_config(task, settings, train=source, **options)
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
