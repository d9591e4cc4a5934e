"""Workdirs: one run each, one process at a time, and nothing of anybody else's is touched."""

import dataclasses
import fcntl

import pytest

from trainers.checkpoints import Checkpoints, Progress
from trainers.config import read_config
from trainers.workdir import WorkdirError, claimed


@pytest.fixture
def config(tiny):
    return tiny("gpt")


def with_checkpoint(workdir, monkeypatch):
    monkeypatch.setattr(Checkpoints, "latest", lambda self: Progress(step=10))


def test_a_new_folder_is_made_and_can_be_claimed_again(tmp_path, config):
    workdir = tmp_path / "deep" / "run"
    for _ in range(2):
        with claimed(workdir, config):
            assert read_config(workdir) == config


@pytest.mark.parametrize("below", [False, True])
def test_a_folder_that_cannot_be_written(tmp_path, config, below):
    file = tmp_path / "file"
    file.write_text("in the way")
    workdir = file / "run" if below else file
    with (
        pytest.raises(WorkdirError, match=rf"--workdir={workdir} cannot be written: .*; choose"),
        claimed(workdir, config),
    ):
        pass
    assert file.read_text() == "in the way"


def test_a_folder_of_something_else_is_left_as_it_was(tmp_path, config):
    for name in ("thesis.tex", "a", "b", "c", ".lock"):
        (tmp_path / name).write_text("mine")
    with (
        pytest.raises(
            WorkdirError, match=r"is not empty \(a, b, c, \.\.\.\) and holds no training"
        ),
        claimed(tmp_path, config),
    ):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ["thesis.tex", "a", "b", "c", ".lock"], "mine"
    )


def test_leftovers_of_a_killed_start_are_no_obstacle(tmp_path, config):
    (tmp_path / ".lock").touch()
    (tmp_path / ".partial-x-train_config.json").write_text("{")
    with claimed(tmp_path, config):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "train_config.json"]


def test_two_at_a_time_are_refused(tmp_path, config):
    with (
        claimed(tmp_path, config),
        pytest.raises(WorkdirError, match="another process is training there"),
        claimed(tmp_path, config),
    ):
        pass
    with claimed(tmp_path, config):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, config, monkeypatch):
    def no_locks(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.raises(WorkdirError, match="cannot be written: No locks available"),
        claimed(tmp_path, config),
    ):
        pass


def test_another_config_is_refused_with_its_keys(tmp_path, config, monkeypatch):
    with claimed(tmp_path, config):
        pass
    other = dataclasses.replace(config, seed=5, batch_size=9)
    with monkeypatch.context() as patch:
        with_checkpoint(tmp_path, patch)
        with (
            pytest.raises(WorkdirError, match=r"\n  batch_size: 4 -> 9\n  seed: 0 -> 5\nRepeat"),
            claimed(tmp_path, other),
        ):
            pass
        assert read_config(tmp_path) == config
    with claimed(tmp_path, other):  # nothing to lose yet
        assert read_config(tmp_path) == other
