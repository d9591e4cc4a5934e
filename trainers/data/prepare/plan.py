"""What a job of preparing has to do: the source parted into units, each of which makes a shard.

The plan follows from the source and the settings alone, so any number of processes, and Beam, make
the same shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator

from trainers.data.config import PrepareConfig
from trainers.data.corpus import held_out
from trainers.data.documents import Reading, find_source
from trainers.data.records import open_dataset, row_group_sizes
from trainers.data.rows import HUGGING_FACE, row_format
from trainers.data.shards import Split
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
    """A part of a file, as `documents.read_pieces` counts it; None goes to the end of the file.

    Attributes:
        file: int, its number in the plan. start, stop: of the part.
        bytes: int, about how much it is.
        split: where its documents go; None asks `Plan.split_of` for each.
        ends: bool, whether a document that reaches its end ends there.
    """

    file: int
    start: int
    stop: int | None
    bytes: int
    split: Split | None
    ends: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job.

    Attributes:
        config: PrepareConfig. files: SourceFiles.
        reading, validation_reading: Reading of the source and of the validation source.
        single: bool, the source is one document: no end-of-text token is put behind it.
        units: of work, each a tuple of Stretches.
    """

    config: PrepareConfig
    files: tuple[SourceFile, ...]
    reading: Reading
    validation_reading: Reading
    single: bool
    units: tuple[tuple[Stretch, ...], ...]

    def split_of(self, stretch: Stretch, text: str) -> Split:
        """Where a document goes: as its stretch says, else by a hash of its text.

        Equal documents go the same way, so no copy of a training text validates.
        """
        if stretch.split is not None:
            return stretch.split
        key = self.config.seed.to_bytes(8, "little")
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, key=key).digest()
        share = int.from_bytes(digest, "little") / 2**64
        return "validation" if share < self.config.data.validation_fraction else "train"

    def unit_bytes(self, number: int) -> int:
        """About how much a unit reads."""
        return sum(stretch.bytes for stretch in self.units[number])


def make_plan(config: PrepareConfig, data_dir: str | None = None) -> Plan:
    """Finds the files of a job and parts them into units of about `shard_mb`."""
    data = config.data
    fields = (field.name for field in dataclasses.fields(Reading))
    asked = Reading(**{name: getattr(data, name) for name in fields})
    files, reading = _find(data.train, asked, data, data_dir, validates=False)
    single = reading.split == "files" and len(files) == 1
    validation_reading = reading
    if data.validation is not None:
        further, validation_reading = _find(data.validation, asked, data, data_dir, validates=True)
        splits: list[Split | None] = ["train"] * len(files) + ["validation"] * len(further)
        files += further
    elif reading.split != "files":
        splits = [None] * len(files)
    elif single:
        splits = ["train"]
    else:
        _, held = held_out([file.size for file in files], data.validation_fraction, config.seed)
        splits = ["train"] * len(files)
        for index in held:
            splits[index] = "validation"

    target = max(int(config.shard_mb * 1e6), 1)
    stops = _stops(files, reading, data.max_bytes)
    stretches: list[Stretch] = []
    for number, (file, split, stop) in enumerate(zip(files, splits, stops)):
        own = validation_reading if file.validates else reading
        parts = [(0, stop, split)]
        if single and data.validation is None:
            cut = _cut(file, reading, stop, data.validation_fraction)
            parts = [(0, cut, "train"), (cut, stop, "validation")]
        for part_start, part_stop, part_split in parts:
            for first, last, size in _parts(file, own, part_start, part_stop, target):
                ends = own.split != "files" or last == stop
                stretches.append(Stretch(number, first, last, size, part_split, ends))
    units = tuple(_packed(stretches, target))
    return Plan(config, tuple(files), reading, validation_reading, single, units)


def _find(source, reading, data, data_dir, validates):
    found, reading = find_source(source, reading, data_dir=data_dir, pattern=data.pattern)
    files = [_source_file(file, validates) for file in found]
    files = [file for file in files if file.size]
    if not files:
        raise ValueError(f"{source}: no text in {len(found)} file(s), such as {found[0].path}")
    if data.max_bytes is not None and not validates:
        files = _limited(files, data.max_bytes)
    return files, reading


def _source_file(file: File, validates: bool) -> SourceFile:
    if file.path.startswith(HUGGING_FACE):
        dataset = open_dataset(file.path)
        size, version = dataset.num_rows, dataset._fingerprint
    else:
        status = os.stat(file.path)
        size, version = status.st_size, str(status.st_mtime_ns)
    return SourceFile(file.name, file.path, size, version, validates)


def check_unchanged(file: SourceFile) -> None:
    """Refuses a file that is not as it was when the plan was made."""
    now = _source_file(File(file.name, file.path), file.validates)
    if (now.size, now.version) != (file.size, file.version):
        raise ValueError(
            f"{file.path}: changed since this job began: {file.size} bytes, now {now.size}, or "
            "written to since. Restore it, or prepare into another --out."
        )


def _limited(files: list[SourceFile], limit: int) -> list[SourceFile]:
    """The first files that together have `limit` bytes, with the one that passes it."""
    kept, total = [], 0
    for file in files:
        if total >= limit:
            break
        kept.append(file)
        total += file.size
    return kept


def _stops(files: list[SourceFile], reading: Reading, limit: int | None) -> list[int | None]:
    """Where each file is left; with a limit the last one at a line, if it has seams."""
    stops: list[int | None] = [None] * len(files)
    own = [index for index, file in enumerate(files) if not file.validates]
    if limit is not None and _has_seams(files[own[-1]], reading):
        last = files[own[-1]]
        stop = line_start(last.path, limit - sum(files[index].size for index in own[:-1]))
        stops[own[-1]] = stop if stop < last.size else None
    return stops


def _cut(file: SourceFile, reading: Reading, stop: int | None, fraction: float) -> int:
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


def _has_seams(file: SourceFile, reading: Reading) -> bool:
    """Whether a file of text may be cut at its lines."""
    if is_compressed(file.path) or not keeps_lines(reading.encoding):
        return False
    if reading.split == "rows":
        return row_format(file.path, reading.format) == "jsonl"
    return reading.split in ("files", "lines")


def _parts(
    file: SourceFile, reading: Reading, start: int, stop: int | None, target: int
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
