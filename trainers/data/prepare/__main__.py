"""Tokenizes text once, into sharded TFRecords that training reads.

python -m trainers.data.prepare --source=TEXT --out=FOLDER [--tokenizer=KIND or FOLDER]
[--processes=N]
python -m trainers.data.prepare --beam --source=TEXT --out=FOLDER [--runner=NAME] [--
--runner_option=X] python -m trainers.data.prepare --verify=FOLDER

Run the same command again to go on where it was. Then: python -m trainers --set=data.train=FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import app, flags, logging

from zoo.output import outlive_readers

# Name, kind, default, meaning, and what the kind needs further.
_FLAGS = (
    ("source", "string", None, "The text: file, folder, glob, address or name."),
    ("out", "string", None, "Folder of the result; a job there is resumed."),
    ("verify", "string", None, "Check every byte of a prepared folder, and stop."),
    ("validation", "string", None, "Text to validate on, in place of a share."),
    ("validation_fraction", "float", 0.1, "Share held out for validation."),
    ("task", "enum", "lm", ["lm", "mlm"], "What the tokenizer is for."),
    (
        "tokenizer",
        "string",
        "bytepair",
        "Kind (byte, character, bytepair, wordpiece, sentencepiece), or the folder of a tokenizer "
        "or bundle.",
    ),
    ("vocabulary_size", "integer", None, "Of a vocabulary that is trained."),
    (
        "split",
        "enum",
        "files",
        ["files", "lines", "rows"],
        "What a document is. --field means rows.",
    ),
    ("field", "string", None, "Field or column of rows that holds the text."),
    ("encoding", "string", "utf-8", "Codec of the files."),
    ("shard_mb", "float", 64.0, "Megabytes of text that make a shard."),
    ("seed", "integer", 0, "Chooses the documents that validate."),
    (
        "processes",
        "integer",
        None,
        "Processes that work beside each other. Default: the cores there are.",
        1,
    ),
    ("data_dir", "string", None, "Folder with named corpora. Default: $ZOO_DATA."),
    (
        "set",
        "multi_string",
        [],
        "data.KEY=value or KEY=value, edits one further setting; may be repeated.",
    ),
    ("beam", "bool", False, "Run as an Apache Beam pipeline."),
    ("runner", "string", "DirectRunner", "The Beam runner."),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, where those of another command may be."""
    for name, kind, *options in _FLAGS:
        getattr(flags, f"DEFINE_{kind}")(name, *options, flag_values=values)


def main(argv: list[str]) -> None:
    """Reads flags, prepares, says where the result lies.

    Exit codes: 1 for bad input, 130 if stopped by Ctrl-C.
    """
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    run(flags.FLAGS, argv)


def run(values: flags.FlagValues, argv: list[str]) -> None:
    """Does what the flags ask for; exits as `main` does."""
    if len(argv) > 1 and not values.beam:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags are --name=value")
    try:
        _run(values, argv[1:])
    except KeyboardInterrupt:
        print("\nprepare: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        logging.debug("where it was raised", exc_info=True)
        sys.exit(f"prepare: {error}")


def _run(values: flags.FlagValues, options: list[str]) -> None:
    if values.verify:
        from trainers.data.shards import verify

        print(f"{values.verify}: {len(verify(Path(values.verify)).shards)} shards are whole")
        return
    if not values.source or not values.out:
        sys.exit("prepare: --source and --out are needed")
    # Imported here, as TensorFlow takes seconds, so that --help and a mistyped flag answer at once.
    from trainers.data.prepare import job

    config, out = _config(values), Path(values.out)
    if values.beam:
        job.prepare_with_beam(
            config, out, runner=values.runner, options=options, data_dir=values.data_dir
        )
    else:
        processes = values.processes or len(os.sched_getaffinity(0))
        job.prepare(config, out, processes=processes, data_dir=values.data_dir)
    print(f"train on it: python -m trainers --set=data.train={values.out} ...")


def _config(values: flags.FlagValues):
    from trainers.config import with_overrides
    from trainers.data.config import DataConfig, PrepareConfig
    from trainers.data.prepare.job import read_tokenizer
    from zoo.tokenizers import TOKENIZERS

    kind, tokenizer_from = values.tokenizer, None
    if kind not in TOKENIZERS:
        tokenizer_from = kind
        kind = read_tokenizer(kind).kind
    data = DataConfig(
        train=values.source,
        validation=values.validation,
        validation_fraction=values.validation_fraction,
        encoding=values.encoding,
        split="rows" if values.field else values.split,
        text_column=values.field or "text",
        tokenizer=kind,
        max_vocabulary_size=values.vocabulary_size,
    )
    config = PrepareConfig(
        data, values.task, tokenizer_from, shard_mb=values.shard_mb, seed=values.seed
    )
    return with_overrides(config, values.set)


if __name__ == "__main__":
    outlive_readers()
    define_flags()
    app.run(main)
