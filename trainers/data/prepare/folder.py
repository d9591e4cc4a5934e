"""The folder of a job: one job each, one process at a time, and what of it is finished.

plan.json            the settings, the files and the units; written first
units/00003.json     the shards of a finished unit; written when they are whole
index.json           written when all units are finished; see `trainers.data.shard_format`
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging

from trainers.config import differing_keys
from trainers.data.prepare.plan import Plan, make_plan
from trainers.data.prepare.settings import PrepareConfig
from trainers.data.shard_format import (
    INDEX_FILE,
    TOKENIZER_FOLDER,
    Index,
    Shard,
    token_dtype,
    write_index,
)
from zoo.config import from_dict, to_dict
from zoo.files import locked_folder, own_files, replacing
from zoo.tokenizers import Tokenizer

PLAN_FILE = "plan.json"
_UNITS = "units"


class PrepareError(ValueError):
    """The folder cannot hold this job."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder, made and locked while the block runs.

    Raises:
        PrepareError: not writable, in use by another process, or not empty and no job's.
    """
    if folder.is_dir() and not (folder / PLAN_FILE).is_file():
        foreign = own_files(folder)
        if foreign:
            raise PrepareError(
                f"--out={folder} is not empty ({', '.join(foreign[:3])}) and holds no "
                "prepared data: choose another"
            )
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise PrepareError(f"--out={folder}: another process is preparing there") from None
        except OSError as error:
            raise PrepareError(
                f"--out={folder} cannot be written: {error.strerror}; choose another"
            ) from error
        yield


def begin(folder: Path, config: PrepareConfig, data_dir: str | None) -> Plan:
    """The plan of the job, written to the folder; a job under way must be the same one.

    Raises:
        PrepareError: the folder holds a job with other settings, or the source has changed.
        ValueError, OSError: from the source.
    """
    plan = make_plan(config, data_dir)
    if (folder / PLAN_FILE).is_file():
        _refuse_other(folder, read_plan(folder), plan)
    with replacing(folder / PLAN_FILE) as temporary:
        temporary.write_text(json.dumps(to_dict(plan)) + "\n", encoding="utf-8")
    return plan


def read_plan(folder: Path) -> Plan:
    """The plan in a folder.

    Raises:
        PrepareError: it is damaged. OSError: it cannot be read.
    """
    path = folder / PLAN_FILE
    try:
        return from_dict(Plan, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except ValueError as error:
        raise PrepareError(f"{path}: damaged ({error}); choose another --out") from error


def _refuse_other(folder: Path, old: Plan, new: Plan) -> None:
    settings = differing_keys(old.config, new.config)
    if settings:
        raise PrepareError(
            f"--out={folder} holds a job with other settings:\n  "
            + "\n  ".join(settings)
            + "\nRepeat its settings to go on with it, or choose another --out"
        )
    before, now = ({file.name: (file.size, file.version) for file in p.files} for p in (old, new))
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed:
        raise PrepareError(
            f"--out={folder}: the source has changed since this job began: {changed[0]}"
            f"{f' and {len(changed) - 1} more file(s)' if changed[1:] else ''}. Restore it, or "
            "choose another --out"
        )
    if old.units != new.units:
        raise PrepareError(
            f"--out={folder} was begun by a release that parts the source otherwise; choose "
            "another --out"
        )


def unfinished(folder: Path, plan: Plan) -> list[int]:
    """Units whose shards are not there."""
    return [number for number in range(len(plan.units)) if not _is_finished(folder, number)]


def mark_finished(folder: Path, number: int, shards: tuple[Shard, ...]) -> None:
    """Notes that the shards of a unit are whole."""
    with replacing(_unit_file(folder, number)) as temporary:
        values = [to_dict(shard) for shard in shards]
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")


def finish(folder: Path, plan: Plan, tokenizer: Tokenizer) -> Index:
    """Writes the index of a job whose units are all finished.

    Raises:
        ValueError: a split has no text.
    """
    shards = [shard for number in range(len(plan.units)) for shard in _shards(folder, number)]
    shards.sort(key=lambda shard: (shard.split, shard.unit))
    config = plan.config
    for split, fix in (
        ("train", "name another --source"),
        ("validation", "set --validation, a larger --validation_fraction or another --seed"),
    ):
        if not any(shard.split == split for shard in shards):
            documents = sum(shard.documents for shard in shards)
            raise ValueError(
                f"{config.data.train}: no {split} text among {documents} document(s): {fix}, and "
                "choose another --out"
            )
    index = Index(
        tokenizer=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_id=tokenizer.end_id,
        ends=not plan.single,
        dtype=token_dtype(tokenizer.vocabulary_size),
        record_tokens=config.record_tokens,
        shards=tuple(shards),
        settings=_as_json(config),
        sources=tuple(_as_json(file) for file in plan.files),
    )
    write_index(folder, index)
    return index


def log_totals(folder: Path, index: Index) -> None:
    """Says what is there, in a line for each split."""
    for split in ("train", "validation"):
        shards = index.split(split)
        logging.info(
            "%s: %s: %d shard(s), %s tokens, %s characters, %s document(s)",
            folder,
            split,
            len(shards),
            *(
                f"{sum(getattr(shard, name) for shard in shards):,}"
                for name in ("tokens", "characters", "documents")
            ),
        )


def tokenizer_folder(folder: Path) -> Path:
    """Where a job's tokenizer lies."""
    return folder / TOKENIZER_FOLDER


def is_finished(folder: Path, plan: Plan) -> bool:
    """Whether the index is written and no shard has gone since."""
    return (folder / INDEX_FILE).is_file() and not unfinished(folder, plan)


def _is_finished(folder: Path, number: int) -> bool:
    if not _unit_file(folder, number).is_file():
        return False
    for shard in _shards(folder, number):
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            return False
    return True


def _shards(folder: Path, number: int) -> list[Shard]:
    path = _unit_file(folder, number)
    values = json.loads(path.read_text(encoding="utf-8"))
    return [from_dict(Shard, value, where=str(path)) for value in values]


def _unit_file(folder: Path, number: int) -> Path:
    return folder / _UNITS / f"{number:05d}.json"


def _as_json(config: Any) -> dict[str, Any]:
    """As it comes back from JSON, which has no tuples."""
    return json.loads(json.dumps(to_dict(config)))
