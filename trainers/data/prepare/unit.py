"""One unit of a job: its text to the shards of both splits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from trainers.data.corpus import StreamEncoder
from trainers.data.documents import Meter, Piece, read_pieces
from trainers.data.prepare.plan import Plan, Stretch, check_unchanged
from trainers.data.shards import Shard, Split, token_dtype, writing_shard
from trainers.data.sources import File
from zoo.tokenizers import Tokenizer

SPLITS: tuple[Split, ...] = ("train", "validation")


def unit_pieces(
    plan: Plan, number: int, on_bytes: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[Split, Piece]]:
    """The text of a unit, each piece with its split, documents without text left out.

    Args:
        plan: Plan. number: int, of the unit. on_bytes: told how many bytes were read since it was
            told before.

    Raises:
        ValueError, OSError: the text, or a file that changed; the message names it.
    """
    for stretch in plan.units[number]:
        yield from _stretch_pieces(plan, stretch, on_bytes)


def _stretch_pieces(plan: Plan, stretch: Stretch, on_bytes) -> Iterator[tuple[Split, Piece]]:
    file = plan.files[stretch.file]
    check_unchanged(file)
    reading = plan.validation_reading if file.validates else plan.reading
    meter, told, has_text = Meter(), 0, stretch.start > 0
    for piece in read_pieces(
        File(file.name, file.path), reading, meter, start=stretch.start, stop=stretch.stop
    ):
        on_bytes(meter.bytes - told)
        told = meter.bytes
        has_text = has_text or bool(piece.text)
        if has_text:
            split = plan.split_of(stretch, piece.text)
            yield split, Piece(piece.name, piece.text, piece.is_last and stretch.ends)
    on_bytes(meter.bytes - told)
    check_unchanged(file)


def prepare_unit(
    folder: Path,
    plan: Plan,
    number: int,
    tokenizer: Tokenizer,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> tuple[Shard, ...]:
    """Writes the shards of a unit, one for each split that has text in it.

    Memory does not grow with the unit: text is read in blocks and encoded by the million
    characters.

    Args:
        folder: Path of the result. plan: Plan. number: int, of the unit. tokenizer: Tokenizer.
        on_bytes: as in `unit_pieces`.

    Returns:
        The shards.

    Raises:
        ValueError, OSError: the text, or the disk; the message names the file. Then no shard of
            the unit is there.
    """
    end_id = None if plan.single else tokenizer.end_id
    dtype = token_dtype(tokenizer.vocabulary_size)
    with contextlib.ExitStack() as stack:
        writers, encoders = [], {}
        for split in SPLITS:
            name = shard_name(split, number, len(plan.units))
            writer = stack.enter_context(
                writing_shard(folder / name, number, split, dtype, plan.config.record_tokens)
            )
            writers.append(writer)
            encoders[split] = StreamEncoder(tokenizer, end_id, _sink(writer))
        for split, piece in unit_pieces(plan, number, on_bytes):
            encoders[split].add(piece.text, piece.is_last)
        for encoder in encoders.values():
            encoder.flush()
    return tuple(writer.shard for writer in writers if writer.shard is not None)


def shard_name(split: Split, number: int, count: int) -> str:
    """File name of a unit's shard.

    Example: `shard_name("train", 3, 16)` is `"train-00003-of-00016.tfrecord"`.
    """
    return f"{split}-{number:05d}-of-{count:05d}.tfrecord"


def _sink(writer):
    return lambda ids, characters, documents: writer.add(
        ids, characters=characters, documents=documents
    )
