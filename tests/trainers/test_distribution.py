"""The same losses on whatever devices; messages about devices and workers that are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers.config import TrainConfig
from trainers.data.config import DataConfig
from trainers.distribution import Distribution, make_distribution
from trainers.distribution.hardware import compiles, precision_policy, tpu_address, tpu_is_there
from trainers.distribution.rows import own_rows
from zoo.config import ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
# Most of the time of these processes would be compiling what runs once.
QUICK_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def start(script: str, *arguments, **environment) -> subprocess.Popen:
    """A process of its own: devices are made when TensorFlow or JAX starts."""
    settings = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS": QUICK_XLA}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, seconds: float = 280) -> str:
    """Its output; fails with it if the process did."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope="module")
def results(text_file, tmp_path_factory):
    """Run name -> losses, of two processes side by side."""
    runs = ["gpt reference", "gpt mirrored-4"]
    folder = tmp_path_factory.mktemp("runs")
    return losses_of(text_file, folder, runs, ["gpt data_parallel"])


@pytest.fixture(scope="module")
def others(text_file, tmp_path_factory):
    """`results` of other models and layouts."""
    runs = ["gpt reference", "lstm reference", "lstm mirrored-2"]
    runs += ["mask reference", "mask mirrored-2", "muon mirrored-2"]
    folder = tmp_path_factory.mktemp("others")
    return losses_of(text_file, folder, runs, ["gpt model_parallel-4"])


@pytest.fixture(scope="module")
def mixtures(text_file, tmp_path_factory):
    """`results` of what validates on several sets."""
    runs = ["mixture reference", "mixture mirrored-2"]
    folder = tmp_path_factory.mktemp("mixtures")
    return losses_of(text_file, folder, runs, ["mixture data_parallel"])


def losses_of(text_file, folder, mirrored, on_jax):
    processes = [
        start("distribution_runs.py", text_file, folder / "tensorflow.json", *mirrored),
        start(
            "distribution_runs.py",
            text_file,
            folder / "jax.json",
            *on_jax,
            KERAS_BACKEND="jax",
            XLA_FLAGS=f"{QUICK_XLA} --xla_force_host_platform_device_count=8",
        ),
    ]
    for process in processes:
        finish(process)
    found = json.loads((folder / "tensorflow.json").read_text(encoding="utf-8"))
    there = json.loads((folder / "jax.json").read_text(encoding="utf-8"))
    return found | {f"jax {name}": value for name, value in there.items()}


@pytest.mark.parametrize(
    ("runs", "run"),
    [
        ("results", "gpt mirrored-4"),
        ("results", "jax gpt data_parallel"),
        # gathers gradients, and carries its state from batch to batch
        pytest.param("others", "lstm mirrored-2", marks=pytest.mark.slow),
        # 2 replicas of 4 devices each
        pytest.param("others", "jax gpt model_parallel-4", marks=pytest.mark.slow),
        pytest.param("mixtures", "mixture mirrored-2", marks=pytest.mark.slow),
        pytest.param("mixtures", "jax mixture data_parallel", marks=pytest.mark.slow),
    ],
)
def test_the_losses_of_one_device(request, runs, run):
    results = request.getfixturevalue(runs)
    expected = results[f"{run.removeprefix('jax ').split()[0]} reference"]
    assert len(expected["steps"]) == 20
    np.testing.assert_allclose(results[run]["steps"], expected["steps"], rtol=0, atol=1e-5)
    for here, there in zip(results[run]["evaluations"], expected["evaluations"], strict=True):
        assert here == pytest.approx(there, abs=1e-5)
    corpora = ("/whole", "/start") if "mixture" in run else ("",)
    validation = {f"val_{metric}{of}" for metric in ("loss", "accuracy") for of in corpora}
    assert {"loss", "accuracy"} | validation == set(expected["evaluations"][0])


@pytest.mark.slow
def test_keras_fit_shares_padded_rows(others):
    expected = others["mask reference"]
    assert expected["steps"][0] != expected["steps"][-1]
    for name, values in others["mask mirrored-2"].items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_muon_refuses_gradients_that_keras_sums_later(others):
    assert "train by trainers.distribution.strategy_loop" in others["muon mirrored-2"]


@pytest.mark.slow
def test_one_program_for_each_shape(results, others):
    assert results["gpt mirrored-4"]["traces"] == 1
    assert others["lstm mirrored-2"]["traces"] == 2  # one that gathers gradients, one that updates


def check_task(found: dict) -> None:
    """One program a shape, none after the first epoch; the same losses on two replicas."""
    assert found["static"]
    assert found["programs"][11] == found["programs"][-1] == found["shapes"]
    if "one" in found:
        np.testing.assert_allclose(found["one"], found["two"], rtol=0, atol=1e-5)
        assert found["traces"] == found["shapes"]
        for alone, shared in zip(*found["validation"], strict=True):
            assert alone == pytest.approx(shared, abs=1e-5)


def run_tasks(folder: Path, *tasks: str) -> dict:
    finish(start("distribution_tasks.py", folder, folder / "out.json", *tasks), seconds=1500)
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_task_with_buckets_and_an_unfilled_batch(tmp_path):
    """XLA with static shapes, as a TPU needs it; weights that differ between the replicas."""
    results = run_tasks(tmp_path, "tag")
    assert results["tag"]["shapes"] == 2
    check_task(results["tag"])
    masks = results["masks"]
    second = [round(both - first, 3) for both, first in zip(masks["moved"], masks["alone"])]
    assert set(second) == {0.0, 2.0}
    assert second != masks["alone"]
    one, *replicas = masks["seeds"]
    assert replicas == [one, one]  # and yet all replicas keep the same state


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_every_task_compiles_and_shares_its_batch(tmp_path):
    tasks = ("gpt", "lstm", "mlm", "classify", "pair", "regress", "embed", "span", "translate")
    results = run_tasks(tmp_path, *tasks)
    for task in tasks:
        check_task(results[task])


def config(**fields) -> TrainConfig:
    return TrainConfig(recipe="x", data=DataConfig(train="x"), preset="gpt_char_cpu", **fields)


@pytest.mark.parametrize(
    ("size", "replicas", "message"),
    [
        (12, 8, r"batch_size=12 does not divide by the 8 replicas.*--set=batch_size=8 or 16"),
        (3, 4, r"nearest that do: --set=batch_size=4"),
    ],
)
def test_a_batch_that_does_not_divide(size, replicas, message):
    with pytest.raises(ConfigError, match=message):
        Distribution("mirrored", replicas).check(config(batch_size=size))
    Distribution("mirrored", 2).check(config(batch_size=12))


def test_scaled_losses_need_one_device():
    strategy = object()
    with pytest.raises(ConfigError, match="mixed_bfloat16"):
        Distribution("mirrored", 2, strategy=strategy).check(config(precision="mixed_float16"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("horovod", "the tensorflow backend has auto, one_device, mirrored, multi_worker, tpu"),
        ("data_parallel", "by KERAS_BACKEND=NAME .* jax: auto, one_device, data_parallel, model_"),
        ("multi_worker", "needs the environment variable TF_CONFIG"),
        ("tpu", r"no TPU that TensorFlow .*KERAS_BACKEND=jax python -m trainers --strategy=data_"),
    ],
)
@pytest.mark.tensorflow_only
def test_a_strategy_that_cannot_be(name, message, monkeypatch):
    for variable in ("TF_CONFIG", "TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigError, match=message):
        make_distribution(name)


def test_model_shards_belong_to_model_parallel():
    with pytest.raises(ConfigError, match="model_parallel"):
        make_distribution("one_device", 2)


def test_auto_is_one_device_here(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    distribution = make_distribution("auto")
    assert distribution.name == "one_device"
    assert distribution.from_chief(3) == 3
    assert "8 rows a replica" in distribution.describe(config(batch_size=8))


def test_on_jax_tensorflow_takes_no_memory_of_a_gpu(tmp_path):
    """GPUs are hidden from it, and before it looked at them, which is when it takes them."""
    reviews = tmp_path / "reviews.csv"
    reviews.write_text("text,label\n" + "good,1\nbad,0\n" * 50, encoding="utf-8")
    code = f"""
import tensorflow as tf
from trainers.distribution import make_distribution
from trainers.own_data import own_config
hidden = []
tf.config.set_visible_devices = lambda *given: hidden.append(given)
own_config("classify", {str(reviews)!r}, [])
make_distribution("auto")
assert hidden == [([], "GPU")], hidden
cpus = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpus[0], two)  # refused once devices are in use
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)


def test_where_a_tpu_is():
    assert tpu_address({}) == "local"
    assert tpu_address({"TPU_NAME": "node-1"}) == "node-1"
    assert tpu_address({"COLAB_TPU_ADDR": "10.0.0.2:8470"}) == "grpc://10.0.0.2:8470"
    assert tpu_is_there({"TPU_NAME": "local"})
    assert not tpu_is_there({})


def test_policies_of_the_hardware():
    assert precision_policy("auto", "cpu") == "float32"
    assert precision_policy("auto", "tpu") == "mixed_bfloat16"
    assert precision_policy("float32", "tpu") == "float32"
    assert compiles(True)


@pytest.mark.tensorflow_only
def test_workers_share_a_batch_and_added_rows_leave_its_mean_as_it_was():
    import tensorflow as tf

    inputs = {"token_ids": np.arange(6, dtype="int32").reshape(3, 2)}
    weights = np.array([[1.0, 1], [1, 0], [0, 0]], "float32")
    dataset = tf.data.Dataset.from_tensors((inputs, np.ones((3, 2), "int32"), weights))
    parts = [next(iter(own_rows(dataset, 4, worker, 2))) for worker in range(2)]
    assert all(value.shape == (2, 2) for part in parts for value in tf.nest.flatten(part))
    together = tf.nest.map_structure(lambda *values: np.concatenate(values), *parts)
    np.testing.assert_array_equal(together[0]["token_ids"][:3], inputs["token_ids"])
    assert float(np.mean(together[2])) == pytest.approx(float(np.mean(weights)))
    assert own_rows(dataset, 3) is dataset
