"""Checkpoints: everything comes back, and no failure spoils the one before."""

import dataclasses
import errno
import json
import resource
import threading

import keras
import numpy as np
import pytest
from absl import logging

from trainers import checkpoints as checkpoints_module
from trainers.checkpoints import Checkpoints, Progress, read_variables, snapshot, write_values
from trainers.config import OptimizerConfig
from trainers.metrics import MetricsLog
from trainers.optim.optimizers import make_optimizer
from trainers.tasks.lm import CarriedState
from zoo.models.build import build
from zoo.models.configs import GPTConfig, LSTMConfig


def compiled_model(family="gpt", optimizer="adamw"):
    """With dropout, ready for its first step."""
    if family == "gpt":
        model = build(GPTConfig(5, 4, num_layers=1, num_heads=2, hidden_dim=8, dropout=0.5))
    else:
        model = CarriedState(build(LSTMConfig(5, 4, num_layers=1, hidden_dim=8, dropout=0.5)), 2, 3)
    model.compile(
        make_optimizer(OptimizerConfig(name=optimizer), 10),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def model():
    """For tests that train no step."""
    return compiled_model()


def step(model):
    ids = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], "int32")
    return float(model.train_on_batch(ids, ids))


@pytest.mark.parametrize(("family", "optimizer"), [("gpt", "muon"), ("lstm", "adamw")])
def test_the_next_step_is_the_same(tmp_path, family, optimizer):
    """Weights, optimizer, carried state and the seeds of dropout: the loss depends on them all."""
    model = compiled_model(family, optimizer)
    step(model)
    step(model)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Progress(step=2))
    expected = [step(model) for _ in range(3)]
    checkpoints.wait()
    other = compiled_model(family, optimizer)
    assert step(other) != expected[0]
    checkpoints.restore(other, 2)
    assert [step(other) for _ in range(3)] == expected
    assert int(other.optimizer.iterations) == 5
    for variable, restored in zip(model.variables, other.variables):
        np.testing.assert_array_equal(variable.numpy(), restored.numpy())


def test_a_fresh_model_restores_too(tmp_path):
    model = compiled_model()
    step(model)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Progress(step=2))
    checkpoints.wait()
    fresh = keras.models.clone_model(model)
    fresh.compile(make_optimizer(OptimizerConfig(), 10), "mse")
    Checkpoints(tmp_path).restore(fresh, 2)
    for one, two in zip(model.optimizer.variables, fresh.optimizer.variables):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_bfloat16_comes_back(tmp_path):
    values = np.array([1.5, -2.0, 3e38])
    variable = keras.Variable(values, dtype="bfloat16")
    expected = np.array(variable.numpy(), "float32")
    write_values(tmp_path / "v.npz", snapshot([variable]))
    variable.assign(np.zeros(3))
    read_variables(tmp_path / "v.npz", [variable])
    np.testing.assert_array_equal(np.array(variable.numpy(), "float32"), expected)


def test_the_newest_and_the_best_are_kept(model, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    for number in (1, 2, 3, 4):
        best = 1 if number < 3 else 3
        checkpoints.save(model, Progress(step=number, training_logs={"loss": 0.1 + 0.2}))
        if number in (1, 3):
            checkpoints.save_best(model, number)
        progress = Progress(number, number, best_step=best, best_value=0.5, metric_values=(1 / 3,))
        checkpoints.update(progress)
    found = checkpoints.latest()
    digests = {"sha256": found.sha256, "best_sha256": found.best_sha256}
    assert all(digests.values())
    assert found == dataclasses.replace(progress, **digests)
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == [
        "step-00000003.best-00000003.npz",
        "step-00000003.json",
        "step-00000003.npz",
        "step-00000004.best-00000003.npz",
        "step-00000004.json",
        "step-00000004.npz",
    ]


def test_values_of_the_moment_are_saved_while_training_goes_on(tmp_path, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def slow(path, values):
        started.set()
        assert go_on.wait(timeout=60)
        write_values(path, values)

    monkeypatch.setattr(checkpoints_module, "write_values", slow)
    model = compiled_model()
    expected = snapshot(model.weights)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Progress(step=1))
    assert started.wait(timeout=60)
    step(model)  # while the file is written
    assert not np.array_equal(model.weights[0].numpy(), expected[0])
    go_on.set()
    checkpoints.wait()
    checkpoints.restore(model, 1)
    for weight, value in zip(model.weights, expected):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_the_best_before_stays_until_the_evaluation_is_told(tmp_path):
    """A process killed between the two goes on from a step whose best weights are still there."""
    model = compiled_model()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(model, Progress(step=1))
    checkpoints.save_best(model, 1)
    checkpoints.update(Progress(step=1, evaluated_step=1, best_step=1))
    best = [weight.copy() for weight in model.get_weights()]
    model.set_weights([weight + 1 for weight in best])
    checkpoints.save(model, Progress(step=2, evaluated_step=1, best_step=1))
    checkpoints.save_best(model, 2)
    checkpoints.restore_best(model, checkpoints.latest())
    for weight, expected in zip(model.get_weights(), best):
        np.testing.assert_array_equal(weight, expected)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", ["flip", "remove", "cut", "json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, spoil, caplog):
    model = compiled_model()
    checkpoints = Checkpoints(tmp_path)
    for number in (6, 7):
        checkpoints.save(model, Progress(step=number))
    checkpoints.wait()
    path = checkpoints.path(7)
    if spoil == "flip":
        damage(path)
    elif spoil == "remove":
        path.unlink()
    elif spoil == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path = path.with_suffix(".json")
        path.write_text('{"step": 7')
    logging.set_verbosity(logging.WARNING)
    with caplog.at_level("WARNING"):
        assert checkpoints.latest().step == 6
    assert f"{path}: " in caplog.text
    assert "damaged" in caplog.text
    assert "going back to step 6" in caplog.text
    checkpoints.restore(model, 6)
    checkpoints.drop_after(6)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        "step-00000006.json",
        "step-00000006.npz",
    ]
    damage(checkpoints.path(6))
    with pytest.raises(ValueError, match=r"step-00000006\.npz: missing or damaged, its checksum"):
        checkpoints.latest()


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"step": "x"}', '{"stop": 3}'])
def test_damaged_progress_is_named(tmp_path, content):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step-00000003.json").write_text(content)
    with pytest.raises(ValueError, match=r"step-00000003\.json: damaged"):
        Checkpoints(tmp_path).latest()


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_weights_that_cannot_be_read_are_named(model, tmp_path, content):
    checkpoints = Checkpoints(tmp_path)
    if content is None:  # another model's
        checkpoints.save_best(compiled_model("lstm"), 3)
        checkpoints.wait()
    else:
        checkpoints.folder.mkdir()
        checkpoints.best(3, 3).write_bytes(content)
    with pytest.raises(ValueError, match=r"best-00000003\.npz: cannot be restored"):
        checkpoints.restore_best(model, Progress(step=3, best_step=3))


def full_disk(monkeypatch):
    def write(path, variables):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "write_values", write)


def small_files(monkeypatch):
    """The kernel itself refuses: no file may grow beyond 2 kB."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))


@pytest.mark.parametrize("fill", [full_disk, small_files])
def test_a_full_disk_leaves_what_was_there(model, tmp_path, monkeypatch, fill):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(model, 2)
    checkpoints.save(model, Progress(step=2, best_step=2))
    saved = checkpoints.latest()
    before = sorted(path.name for path in checkpoints.folder.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    reason = "No space left on device" if fill is full_disk else "File too large"
    try:
        fill(monkeypatch)
        with pytest.raises(OSError, match=rf"step-00000003\.npz could not be written: {reason}"):
            checkpoints.save(model, dataclasses.replace(saved, step=3))
            checkpoints.wait()
        # It ends what was to come: there is no .json of values that are not there.
        with pytest.raises(OSError, match="step-00000003"):
            checkpoints.update(dataclasses.replace(saved, step=3))
        with pytest.raises(OSError, match="step-00000003"):
            checkpoints.wait()
        checkpoints = Checkpoints(tmp_path)
        with pytest.raises(OSError, match=rf"best-00000003\.npz could not be written: {reason}"):
            checkpoints.save_best(model, 3)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == before
    assert Checkpoints(tmp_path).latest() == saved


def test_the_log_is_restored_up_to_a_step(tmp_path, warnings):
    log = MetricsLog(tmp_path)
    assert log.read() == []
    log.restore([])
    for number in (10, 20, 30):
        log.append({"step": number})
    with open(log.path, "a", encoding="utf-8") as file:
        file.write('{"ste')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:4: not JSON"):
        log.read()
    log.restore([{"step": 10}, {"step": 20}])
    assert log.read() == [{"step": 10}, {"step": 20}]
    assert warnings == []


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"stop": 1}', b'{"step": \xff}'])
def test_a_damaged_log_is_named(tmp_path, line):
    log = MetricsLog(tmp_path)
    log.append({"step": 10})
    log.path.write_bytes(log.path.read_bytes() + line + b'\n{"step": 20}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: .*remove it"):
        log.read()


@pytest.mark.parametrize("content", [None, b'{"step": 10}\n', b'\xff"step": 10}\n{"step": 20}\n'])
def test_a_log_that_is_not_the_checkpoints_is_written_anew(tmp_path, warnings, content):
    log = MetricsLog(tmp_path)
    if content is not None:
        log.path.write_bytes(content)
    log.restore([{"step": 10}, {"step": 20}])
    assert [record["step"] for record in log.read()] == [10, 20]
    assert "metrics.jsonl: missing or damaged" in warnings[0]


@pytest.mark.parametrize("change", [("best_value", 0.25), ("step", 6), ("evaluated_step", 0)])
def test_a_changed_number_in_the_json_is_damage(model, tmp_path, change):
    checkpoints = Checkpoints(tmp_path)
    for number in (6, 7):
        checkpoints.save(model, Progress(number, number, best_value=0.5))
    checkpoints.wait()
    path = checkpoints.path(7).with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), change[0]: change[1]}))
    assert checkpoints.latest().step == 6


@pytest.mark.parametrize("best_steps", [(6, 7), (6, 6)])
def test_damaged_best_weights_belong_to_one_checkpoint(model, tmp_path, best_steps):
    checkpoints = Checkpoints(tmp_path)
    for number, best_step in zip((6, 7), best_steps):
        checkpoints.save(model, Progress(number, best_step=best_steps[0] if number == 7 else 0))
        if best_step == number:
            checkpoints.save_best(model, number)
        checkpoints.update(Progress(number, number, best_step=best_step, best_value=0.5))
    checkpoints.wait()
    damage(checkpoints.best(7, best_steps[1]))
    found = checkpoints.latest()
    assert found.step == 6
    checkpoints.restore_best(compiled_model(), found)


def test_damaged_best_weights_are_not_copied(model, tmp_path):
    """Nor written under a new name: a later checkpoint has them from one that is whole, or ends."""
    checkpoints = Checkpoints(tmp_path)
    for number in (6, 7):
        checkpoints.save(model, Progress(number, best_step=6 if number == 7 else 0))
        if number == 6:
            checkpoints.save_best(model, number)
        checkpoints.update(Progress(number, number, best_step=6, best_value=0.5))
    checkpoints.wait()
    progress, content = checkpoints.latest(), checkpoints.best(6, 6).read_bytes()
    damage(checkpoints.best(7, 6))
    checkpoints = Checkpoints(tmp_path)  # of another process, which wrote none of them
    checkpoints.save(model, dataclasses.replace(progress, step=8))
    checkpoints.wait()
    assert checkpoints.best(8, 6).read_bytes() == content
    assert checkpoints.latest().step == 8
    damage(checkpoints.best(8, 6))
    with pytest.raises(ValueError, match="best weights, of step 6, were damaged or removed since"):
        checkpoints.save(model, dataclasses.replace(progress, step=9))
        checkpoints.wait()
    assert not checkpoints.best(9, 6).exists()
    assert not checkpoints.path(9).with_suffix(".json").exists()
