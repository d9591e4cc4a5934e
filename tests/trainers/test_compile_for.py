"""Steps compiled for devices that are not there: what they need, and mistakes by layer."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from trainers.__main__ import main
from trainers.compile.chips import CHIPS, find_slice
from trainers.config import with_overrides
from trainers.distribution import Distribution
from trainers.recipes import find_recipe
from zoo.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "--recipe=shakespeare_gpt_cpu"
ONE_LAYER = "--set=model.num_layers=1"  # each takes XLA half a minute for a TPU
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu, of `make peers`"
)


def on_jax(*command, seconds: float = 280, **environment) -> subprocess.CompletedProcess:
    """A process of its own, because Keras has one backend, and JAX its devices from the start."""
    # Most of the time would be compiling what runs once.
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    settings = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path_with_house()}
    environment["XLA_FLAGS"] = f"{quick} {environment.pop('flags', '')}"
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def path_with_house() -> str:
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])


def compile_runs(
    folder: Path, where: str, *runs: str, devices: int = 1, seconds: float = 280, rows: int = 0
):
    """What `compile_runs.py` finds, by run."""
    out, script = folder / "out.json", Path(__file__).with_name("compile_runs.py")
    flags = f"--xla_force_host_platform_device_count={devices}"
    options = {"seconds": seconds, "flags": flags, "ROWS": str(rows)}
    result = on_jax(script, folder, out, where, *runs, **options)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(out.read_text(encoding="utf-8"))


def check_steps(steps: list[dict]) -> None:
    """All state is given back in the memory that it came in."""
    assert steps[0]["name"] == "train"
    for step in steps:
        assert step["donated"] == step["state"]
        assert step["memory"] > step["weights"] > 0


def message_of(*arguments: str) -> str:
    """What the command says, in one line, of a mistake in it."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
        flags.FLAGS(["trainers", *arguments])
        main(["trainers"])
    message = caught.value.code
    assert isinstance(message, str)
    assert "\n" not in message
    return message


def test_names_of_slices():
    assert find_slice("v5e-8").topology == "v5e:2x4"
    assert find_slice("v6e-1").shape == (1, 1)
    # Named by cores, of which a chip has two.
    assert find_slice("v5p-8").topology == "v5:2x2x1"
    assert all(10 * 2**30 < chip.memory < 100 * 2**30 for chip in CHIPS.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-7", r"no slice of so many; there are v5e-1, v5e-4, v5e-8"),
        ("v9-8", r"name TPUs like v5e-8; there are v5e-1, v5p-8, v6e-1"),
        ("tpu", r"name TPUs like v5e-8"),
    ],
)
def test_a_slice_that_is_not_there(name, message):
    assert re.search(message, message_of(RECIPE, f"--compile_for={name}"))


@pytest.mark.tensorflow_only
def test_it_is_for_jax():
    message = message_of(RECIPE, "--compile_for=v5e-8")
    assert "Keras is on tensorflow: KERAS_BACKEND=jax python -m trainers" in message


def test_float16_is_refused_on_tpus():
    with pytest.raises(ConfigError, match="TPUs multiply bfloat16, which needs no scaled loss"):
        distribution = Distribution("data_parallel", 8, hardware="tpu")
        settings = ["precision=mixed_float16", "batch_size=8"]
        distribution.check(with_overrides(find_recipe("shakespeare_gpt_cpu"), settings))


def test_without_libtpu_it_says_what_to_install(text_file):
    # An import that fails is as good as a package that is not there.
    code = "import sys; sys.modules['libtpu'] = None; import trainers.__main__ as m; "
    code += "from absl import app; app.run(m.main)"
    result = on_jax("-c", code, RECIPE, f"--set=data.train={text_file}", "--compile_for=v5e-1")
    assert result.returncode == 1
    assert "package libtpu: pip install libtpu" in result.stderr


@pytest.mark.slow
def test_steps_and_mistakes_on_cpu_devices(tmp_path):
    mistakes = ("gpt !shape", "gpt !callback", "gpt !float64")
    runs = ("gpt", "gpt model_parallel-4", "tag")
    found = compile_runs(tmp_path, "cpu", *runs, *mistakes, devices=4)
    for run in runs:
        check_steps(found[run])
    whole, parts = found["gpt"][0], found["gpt model_parallel-4"][0]
    assert "all-reduce" in whole["collectives"]
    assert parts["weights"] < 0.6 * whole["weights"]
    assert [step["shape"] for step in found["tag"]] == [[8, 16], [8, 8]]  # a step for each bucket
    layer = "backbone/block_0/feedforward"
    assert re.search(f"{layer}: .*Error: .*[Ss]hape", found["gpt !shape"])
    assert re.search(f"{layer} asks the host in every step .debug_", found["gpt !callback"])
    assert re.search(f"{layer}: .*float64", found["gpt !float64"])


@pytest.mark.slow
def test_a_run_on_jax_reads_seldom_and_needs_what_was_predicted(tmp_path, text_file):
    dump = tmp_path / "dump"
    flags = f"--xla_dump_to={dump} --xla_dump_hlo_module_re=.*train_step.*"
    script = Path(__file__).with_name("jax_run.py")
    result = on_jax(script, text_file, tmp_path / "run", flags=flags)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    # Between them the device is not waited for.
    assert found["reads"] == [10, 20, 30, 40]
    # Of the program that `fit` ran; the first is the one compiled for the prediction.
    reports = sorted(dump.glob("*train_step*memory-usage-report.txt"))
    needed = re.search(r"Total bytes: (\d+)", reports[-1].read_text(encoding="utf-8"))
    assert len(reports) == 2
    assert found["predicted"] == pytest.approx(int(needed[1]), rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@needs_libtpu
def test_every_task_compiles_for_tpus(tmp_path):
    tasks = ("gpt", "packed", "remat", "chat", "lstm", "mlm", "classify", "pair", "regress")
    tasks += ("embed", "tag", "span", "translate", "tuned", "distilled")
    cut = ("gpt", "packed", "lstm", "mlm", "classify", "translate")
    runs = (*tasks, *(f"{task} model_parallel-2" for task in cut))
    found = compile_runs(tmp_path, "v5e-4", *runs, seconds=2900)
    for run, steps in found.items():
        assert isinstance(steps, list), f"{run}: {steps}"
        check_steps(steps)
        assert "all-reduce" in steps[0]["collectives"], run
        assert steps[0]["flops"] > 0
    for task in cut:
        assert found[f"{task} model_parallel-2"][0]["weights"] < 0.9 * found[task][0]["weights"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_libtpu
def test_the_command_says_what_fits(text_file):
    command = ("-m", "trainers", RECIPE, f"--set=data.train={text_file}", "--set=precision=auto")
    result = on_jax(*command, ONE_LAYER, "--compile_for=v5e-1,v6e-1", seconds=1100)
    assert result.returncode == 0, result.stderr[-3000:]
    for part in (
        r"## v5e-1: 1 x TPU v5 lite, 15.75 GiB of HBM and 197 TFLOP/s",
        r"## v6e-1: 1 x TPU v6 lite, 31.24 GiB",
        r"mixed_bfloat16",  # "auto", of a TPU
        r"Batches, as the input pipeline's specs say: \(12, 64\) int32",
        r"\| train 12 x 64 \| 0.00 ",
        r"\| evaluate \d+ x 64 ",
        r"Largest batch that was compiled and fits: 768 rows",  # 64 times as many, the most
        r"At best .* tokens/s; at a model FLOPs utilisation of 40%",
        r"Padding to 128 x 128 adds \d+.\d% .*block_\*/attention",
        r"Padding to 256 x 256 adds",
    ):
        assert re.search(part, result.stdout), part


@pytest.mark.slow
@needs_libtpu
def test_a_batch_that_is_too_large(tmp_path):
    [step, _] = compile_runs(tmp_path, "v5e-1", "gpt", rows=30_000_000)["gpt"]
    assert not step["fits"]
    assert step["limit"] == int(15.75 * 2**30)
    assert step["memory"] > step["limit"]


class FakeRun:
    """A run whose step needs 1.5 GiB and so many for each row, on chips that have 15.75."""

    def __init__(self, gib_a_row: float):
        self.each, self.tried = gib_a_row, []
        self.distribution, self.model = types.SimpleNamespace(replicas=4), object()

    def train_step(self, batch):
        from trainers.compile.steps import Memory, Step

        rows = batch.shape[0]
        self.tried.append(rows)
        total = int((1.5 + self.each * rows) * 2**30)
        memory = Memory(2**29, 2**29, 0, total - 2**30)
        memory_of_chip = find_slice("v5e-4").chip.memory
        limit = None if total <= memory_of_chip else memory_of_chip
        return Step("train", tuple(batch.shape), 1.0, memory, None, limit)


@pytest.mark.parametrize(
    ("rows", "gib_a_row", "expected"),
    [
        (64, 0.1, "136 rows, 15.1 GiB a chip.$"),  # 142 would fit: near enough
        (400, 0.1, "140 rows, .*; 144 rows do not fit"),
        (8, 0.0001, "512 rows"),  # 64 times as many
        (8, 20.0, "A batch of 4 rows, 1 a replica, does not fit"),
    ],
)
def test_the_largest_batch(rows, gib_a_row, expected):
    from trainers.compile.summary import largest_batch

    run = FakeRun(gib_a_row)
    batch = tf.TensorSpec((rows, 64), tf.int32)
    found = largest_batch(run, find_slice("v5e-4"), batch, run.train_step(batch))
    assert re.search(expected, found)
    assert len(run.tried) <= 4
