"""A workdir in an object store: `file://`, read by TensorFlow's file systems, stands for one."""

import json
import threading

import numpy as np
import pytest
import tensorflow as tf

import zoo
from trainers.distribution import Distribution
from trainers.loop import train
from trainers.recorder import Interruption, Preempted, Recorder
from trainers.workdir import RemoteWorkdir, WorkdirError, is_remote


@pytest.fixture
def store(tmp_path_factory):
    return f"file://{tmp_path_factory.mktemp('store')}/bucket/run"


def files(store):
    return sorted(
        f"{folder}/{name}".removeprefix(store + "/")
        for folder, _, names in tf.io.gfile.walk(store)
        for name in names
    )


def test_what_is_remote():
    assert is_remote("gs://bucket/run")
    assert not is_remote("runs/gs")


def test_changes_are_copied_both_ways(store, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "checkpoints").mkdir(parents=True)
    (one / "checkpoints" / "step-1.npz").write_bytes(b"\0\xff")
    (one / "checkpoints" / ".partial-x").write_text("")
    (one / ".lock").write_text("")
    (one / "metrics.jsonl").write_text("{}\n")
    first = RemoteWorkdir(store, one)
    first.download()
    first.upload()
    assert files(store) == ["checkpoints/step-1.npz", "metrics.jsonl"]
    second = RemoteWorkdir(store + "/", two)
    second.download()
    assert (two / "checkpoints" / "step-1.npz").read_bytes() == b"\0\xff"
    (two / "checkpoints" / "step-1.npz").unlink()
    (two / "metrics.jsonl").write_text("{}\n{}\n")
    second.upload()
    assert files(store) == ["metrics.jsonl"]
    with tf.io.gfile.GFile(f"{store}/metrics.jsonl") as file:
        assert file.read() == "{}\n{}\n"


def test_what_tells_that_others_are_whole_comes_last(store, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    names = ["report.md", "config.json", "checkpoints/step-2.json", "checkpoints/step-2.npz"]
    names += ["model.weights.h5", "metrics.jsonl"]
    for name in names:
        (tmp_path / name).write_text(name)
    copied, copy = [], tf.io.gfile.copy
    monkeypatch.setattr(
        tf.io.gfile,
        "copy",
        lambda source, target, overwrite: (
            copied.append(target.removeprefix(store + "/")),
            copy(source, target, overwrite),
        ),
    )
    workdir = RemoteWorkdir(store, tmp_path)
    workdir.upload()
    assert copied[-3:] == ["config.json", "report.md", "checkpoints/step-2.json"]
    assert copied.index("checkpoints/step-2.npz") < 3
    copied.clear()
    workdir.upload()
    assert copied == []


@pytest.mark.parametrize("scheme", ["abc", "gs"])
def test_what_cannot_be_reached_is_told(tmp_path, scheme, monkeypatch):
    def refuse(path):
        raise tf.errors.PermissionDeniedError(None, None, "no access\nto it")

    if scheme == "gs":
        monkeypatch.setattr(tf.io.gfile, "exists", refuse)
    with pytest.raises(WorkdirError, match=rf"--workdir={scheme}://b/run cannot be read: .*Check"):
        RemoteWorkdir(f"{scheme}://b/run", tmp_path).download()


def test_a_run_stopped_on_one_machine_goes_on_on_another(store, tiny, tmp_path, monkeypatch):
    """Each `train` has a local folder of its own: all that the second knows is in the store."""
    config = tiny("gpt", sample_prompts=())
    original = Recorder.on_train_batch_end

    def stop(self, batch, logs=None):
        self.interruption.requested = self.step == 12
        original(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_train_batch_end", stop)
        with pytest.raises(Preempted):
            train(config, store)
    assert "checkpoints/step-00000013.json" in files(store)
    assert "config.json" not in files(store)
    train(config, store)
    whole = train(config, tmp_path)
    found = zoo.load(store)
    for one, two in zip(found.model.get_weights(), whole.model.get_weights()):
        np.testing.assert_array_equal(one, two)
    assert {"report.md", "loss.png", "config.json", "model.weights.h5"} <= {*files(store)}
    with tf.io.gfile.GFile(f"{store}/metrics.jsonl") as file:
        assert [json.loads(line)["step"] for line in file.read().splitlines()] == [10, 20, 30]
    assert train(config, store).config == found.config  # finished: only loaded


@pytest.mark.parametrize("worker", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_of_several_workers_the_chief_alone_writes_there(store, tiny, monkeypatch, worker):
    """The workers meet nobody here: each trains on its rows of the batch."""
    monkeypatch.setattr(Distribution, "sum_of_workers", lambda self, value: value)
    distribution = Distribution("multi_worker", replicas=2, workers=2, worker=worker)
    uploads, upload = [], RemoteWorkdir.upload
    monkeypatch.setattr(RemoteWorkdir, "upload", lambda self: (uploads.append(1), upload(self)))
    bundle = train(tiny("gpt", sample_prompts=(), steps=10), store, distribution=distribution)
    assert (bundle is None) == bool(worker)
    assert bool(uploads) == (not worker)
    assert ("report.md" in files(store)) == (not worker)


def test_no_bundle_there(store):
    with pytest.raises(zoo.BundleError, match="no such folder"):
        zoo.load(store)


def test_a_thread_leaves_signals_alone():
    seen = []

    def enter():
        with Interruption() as interruption:
            seen.append(interruption._before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]
