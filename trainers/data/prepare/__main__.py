"""Tokenizes text once, into sharded TFRecords that training reads.

python -m trainers.data.prepare --source=TEXT --out=FOLDER [--tokenizer=KIND] [--processes=N]
python -m trainers.data.prepare --beam --source=TEXT --out=FOLDER [--runner=NAME] [-- --option=X]
python -m trainers.data.prepare --verify=FOLDER

Run the same command again to go on where it was. Then: python -m trainers --set=data.train=FOLDER
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging

from zoo.output import outlive_readers

_KINDS = "byte, character, bytepair, wordpiece, sentencepiece"
# Kind, name, default, meaning, and what the kind needs further.
_FLAGS = (
    ("string", "source", None, "The text: file, folder, glob, address or name."),
    ("string", "out", None, "Folder of the result; a job there is resumed."),
    ("string", "verify", None, "Check every byte of a prepared folder, and stop."),
    ("string", "validation", None, "Text to validate on, in place of a share."),
    ("float", "validation_fraction", 0.1, "Share held out for validation."),
    ("enum", "task", "lm", ["lm", "mlm"], "What the tokenizer is for."),
    ("string", "tokenizer", "bytepair", f"Kind ({_KINDS}), or folder of a tokenizer or bundle."),
    ("integer", "vocabulary_size", None, "Of a vocabulary that is trained."),
    ("enum", "split", "files", ["files", "lines", "rows"], "A document. --field means rows."),
    ("string", "field", None, "Field or column of rows that holds the text."),
    ("string", "encoding", "utf-8", "Codec of the files."),
    ("float", "shard_mb", 64.0, "Megabytes of text that make a shard."),
    ("integer", "seed", 0, "Chooses the documents that validate."),
    ("integer", "processes", None, "How many work beside each other. Default: the cores.", 1),
    ("string", "data_dir", None, "Folder with named corpora. Default: $ZOO_DATA."),
    ("multi_string", "set", [], "data.KEY=value or KEY=value, one further setting; repeatable."),
    ("bool", "beam", False, "Run as an Apache Beam pipeline."),
    ("string", "runner", "DirectRunner", "The Beam runner."),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the command's flags; not at import, where those of another command may be."""
    for kind, *options in _FLAGS:
        getattr(flags, f"DEFINE_{kind}")(*options, flag_values=values)


def main(argv: list[str]) -> None:
    """Exit codes: 1 for bad input, 130 if stopped by Ctrl-C."""
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
    # Imported here, as TensorFlow takes seconds, so that --help and a mistyped flag answer at once.
    if values.verify:
        from trainers.data.prepare.shards import verify

        print(f"{values.verify}: {len(verify(Path(values.verify)).shards)} shards are whole")
        return
    if not values.source or not values.out:
        sys.exit("prepare: --source and --out are needed")
    from trainers.config import with_overrides
    from trainers.data.config import DataConfig, PrepareConfig
    from trainers.data.prepare import job
    from zoo.tokenizers import TOKENIZERS

    tokenizer_from = None if values.tokenizer in TOKENIZERS else values.tokenizer
    data = DataConfig(
        train=values.source,
        validation=values.validation,
        validation_fraction=values.validation_fraction,
        encoding=values.encoding,
        split="rows" if values.field else values.split,
        text_column=values.field or "text",
        tokenizer=job.read_tokenizer(tokenizer_from).kind if tokenizer_from else values.tokenizer,
        max_vocabulary_size=values.vocabulary_size,
    )
    sizes = {"shard_mb": values.shard_mb, "seed": values.seed}
    config = PrepareConfig(data, values.task, tokenizer_from, **sizes)
    config, out = with_overrides(config, values.set), Path(values.out)
    beam = [f"--runner={values.runner}", *options] if values.beam else None
    processes = values.processes or len(os.sched_getaffinity(0))
    job.prepare(config, out, processes=processes, beam=beam, data_dir=values.data_dir)
    print(f"train on it: python -m trainers --set=data.train={values.out} ...")


if __name__ == "__main__":
    outlive_readers()
    define_flags()
    app.run(main)
