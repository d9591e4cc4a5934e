"""What a job of preparing has to do: the source parted into units, each of which makes a shard.

It follows from source and settings alone: any number of processes, and Beam, make the same shards.
"""

import dataclasses
import hashlib
import itertools
import math
import os
from collections.abc import Iterator

from trainers.data.config import DataConfig, PrepareConfig
from trainers.data.corpus import find_source, held_out, reading_of
from trainers.data.prepare.shards import Split
from trainers.data.rows import HUGGING_FACE, open_dataset, row_format, row_group_sizes
from trainers.data.sources import File
from trainers.data.text import content_size, is_compressed, keeps_lines, line_start

_ROW_BYTES = 1000  # guessed of a data set by name, whose rows are not measured before they are read


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file to read; `version` changes with it, `validates` says that it is of `--validation`."""

    name: str
    path: str
    size: int
    version: str
    validates: bool = False


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A part of a file, as `corpus.read_pieces` counts it; None goes to the end of the file."""

    file: int  # its number in the plan
    start: int
    stop: int | None
    bytes: int  # about how much it is
    split: Split | None  # where its documents go; None asks `Plan.split_of` for each
    ends: bool = True  # whether a document that reaches its end ends there


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job."""

    config: PrepareConfig
    files: tuple[SourceFile, ...]
    single: bool  # the source is one document: no end-of-text token is put behind it
    units: tuple[tuple[Stretch, ...], ...]

    def split_of(self, stretch: Stretch, text: str) -> Split:
        """Where a document goes: by its stretch, or a hash of its text: copies go one way."""
        if stretch.split is not None:
            return stretch.split
        key = self.config.seed.to_bytes(8, "little")
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, key=key).digest()
        share = int.from_bytes(digest, "little") / 2**64
        return "validation" if share < self.config.data.validation_fraction else "train"

    def unit_bytes(self, number: int) -> int:
        """About how much a unit reads."""
        return sum(stretch.bytes for stretch in self.units[number])


def reading_of_file(file: SourceFile, data: DataConfig) -> DataConfig:
    """How a file is read."""
    return reading_of((file.validates and data.validation) or data.train, data)


def make_plan(config: PrepareConfig, data_dir: str | None = None) -> Plan:
    """Finds the files of a job and parts them into units of about `shard_mb`."""
    data = config.data
    files = _find(data.train, data, data_dir, validates=False)
    reading = reading_of(data.train, data)
    last_stop = None
    if data.max_bytes is not None:
        before = [0, *itertools.accumulate(file.size for file in files)]
        files = [file for file, size in zip(files, before) if size < data.max_bytes]
        if _has_seams(files[-1], reading):  # it is left at a line
            stop = line_start(files[-1].path, data.max_bytes - before[len(files) - 1])
            last_stop = stop if stop < files[-1].size else None
    last = len(files) - 1
    single = reading.split == "files" and last == 0
    splits: list[Split | None] = ["train" if reading.split == "files" else None] * len(files)
    if data.validation is not None:
        further = _find(data.validation, data, data_dir, validates=True)
        splits = ["train"] * len(files) + ["validation"] * len(further)
        files += further
    elif reading.split == "files" and not single:
        sizes = [file.size for file in files]
        for index in held_out(sizes, data.validation_fraction, config.seed)[1]:
            splits[index] = "validation"
    target = max(int(config.shard_mb * 1e6), 1)
    stretches = []
    for number, (file, split) in enumerate(zip(files, splits)):
        own = reading_of_file(file, data)
        stop = last_stop if number == last else None
        parts = [(0, stop, split)]
        if single and data.validation is None:
            cut = _cut(file, reading, stop, data.validation_fraction)
            parts = [(0, cut, "train"), (cut, stop, "validation")]
        for part_start, part_stop, part_split in parts:
            for first, end, size in _parts(file, own, part_start, part_stop, target):
                ends = own.split != "files" or end == stop
                stretches.append(Stretch(number, first, end, size, part_split, ends))
    units = tuple(_packed(stretches, target))
    return Plan(config, tuple(files), single, units)


def _find(source: str, data: DataConfig, data_dir: str | None, validates: bool) -> list[SourceFile]:
    found = find_source(source, data, data_dir)
    files = [_source_file(*file, validates) for file in found]
    files = [file for file in files if file.size]
    if not files:
        raise ValueError(f"{source}: no text in {len(found)} file(s), such as {found[0].path}")
    return files


def _source_file(name: str, path: str, validates: bool) -> SourceFile:
    if path.startswith(HUGGING_FACE):
        dataset = open_dataset(path)
        return SourceFile(name, path, dataset.num_rows, dataset._fingerprint, validates)
    status = os.stat(path)
    return SourceFile(name, path, status.st_size, str(status.st_mtime_ns), validates)


def unchanged(file: SourceFile) -> File:
    """The file, which must be as it was when the plan was made."""
    now = _source_file(file.name, file.path, file.validates)
    if now != file:
        raise ValueError(
            f"{file.path}: changed since this job began: {file.size} bytes, now {now.size}, or "
            "written to since. Restore it, or prepare into another --out."
        )
    return File(file.name, file.path)


def _cut(file: SourceFile, reading: DataConfig, stop: int | None, fraction: float) -> int:
    """Where the validation part of a corpus of one document begins."""
    size = content_size(file.path) if stop is None else stop
    cut = line_start(file.path, int(size * (1 - fraction)))
    if not keeps_lines(reading.encoding) or not 0 < cut < size:
        raise ValueError(
            f"{file.path}: one document that cannot be cut at a line break near its end, to "
            "validate on the rest. Name other text with --validation, or make each line a document "
            "with --split=lines."
        )
    return cut


def _has_seams(file: SourceFile, reading: DataConfig) -> bool:
    """Whether a file of text may be cut at its lines."""
    if is_compressed(file.path) or not keeps_lines(reading.encoding):
        return False
    if reading.split == "rows":
        return row_format(file.path, reading.format) == "jsonl"
    return reading.split in ("files", "lines")


def _parts(
    file: SourceFile, reading: DataConfig, start: int, stop: int | None, target: int
) -> Iterator[tuple[int, int | None, int]]:
    """(start, stop, bytes) of parts of about `target` bytes, as far as a file has seams."""
    format = row_format(file.path, reading.format) if reading.split == "rows" else None
    end = file.size if stop is None else stop
    if format == "hfds":
        cuts = _even(0, end, end * _ROW_BYTES // target)
        sizes = [(last - first) * _ROW_BYTES for first, last in zip(cuts, [*cuts[1:], end])]
    elif format == "parquet":
        cuts, sizes = [], []
        for group, size in enumerate(row_group_sizes(file.path)):
            if not cuts or sizes[-1] >= target:
                cuts.append(group)
                sizes.append(0)
            sizes[-1] += size
    elif _has_seams(file, reading):
        cuts = [start]
        for place in _even(start, end, math.ceil((end - start) / target))[1:]:
            cut = line_start(file.path, place)
            if cuts[-1] < cut < end:
                cuts.append(cut)
        sizes = [last - first for first, last in zip(cuts, [*cuts[1:], end])]
    else:
        # A compressed file that is cut in two has fewer bytes than its parts.
        cuts, sizes = [start], [min(max(end - start, 0), file.size)]
    return zip(cuts, [*cuts[1:], stop], sizes)


def _even(start: int, stop: int, count: int) -> list[int]:
    count = max(count, 1)
    return [start + index * (stop - start) // count for index in range(count)]


def _packed(stretches: list[Stretch], target: int) -> Iterator[tuple[Stretch, ...]]:
    unit: list[Stretch] = []
    size = 0
    for stretch in stretches:
        # Half a unit too much is as far off as half a unit too little.
        if unit and size + stretch.bytes / 2 > target:
            yield tuple(unit)
            unit, size = [], 0
        unit.append(stretch)
        size += stretch.bytes
    if unit:
        yield tuple(unit)
