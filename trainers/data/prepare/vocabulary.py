"""The tokenizer of a job: read, made, or trained on the source, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from absl import logging

from trainers.data.prepare.folder import tokenizer_folder
from trainers.data.prepare.plan import Plan
from trainers.data.prepare.unit import unit_pieces
from trainers.tokenizers import encoder_tokenizer, language_model_tokenizer
from zoo.tokenizers import Tokenizer, load_tokenizer


def read_tokenizer(place: str | Path) -> Tokenizer:
    """The tokenizer in a folder, or in a bundle's folder.

    Raises:
        ValueError: there is none, or it is damaged; the message names the file.
    """
    inner = Path(place) / "tokenizer"
    return load_tokenizer(inner if inner.is_dir() else place)


def job_tokenizer(folder: Path, plan: Plan) -> Tokenizer:
    """The tokenizer in the job's folder; where there is none yet it is made and saved there.

    Raises:
        ValueError, OSError: a vocabulary, or the text to train one on.
    """
    if tokenizer_folder(folder).is_dir():
        return load_tokenizer(tokenizer_folder(folder))
    config = plan.config
    if config.tokenizer_from is not None:
        tokenizer = read_tokenizer(config.tokenizer_from)
    elif config.task == "mlm":
        tokenizer = encoder_tokenizer(config.data, lambda: training_texts(plan))
    else:
        tokenizer = language_model_tokenizer(config.data)
        if not isinstance(tokenizer, Tokenizer):
            logging.info("%s: training a %s vocabulary", folder, config.data.tokenizer)
            tokenizer = tokenizer(training_texts(plan))
    tokenizer.save(tokenizer_folder(folder))
    return tokenizer


def training_texts(plan: Plan) -> Iterator[str]:
    """Training text from every unit, `tokenizer_mb` in all; for characters everything."""
    everything = plan.config.data.tokenizer == "character"
    share = plan.config.tokenizer_mb * 1e6 / len(plan.units)
    for number in range(len(plan.units)):
        taken = 0
        for split, piece in unit_pieces(plan, number):
            if split == "train":
                yield piece.text
                taken += len(piece.text)
            if taken >= share and not everything:
                break
