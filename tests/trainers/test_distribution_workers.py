"""Several processes as workers: the losses of one, and what happens when one is not there."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainers.checkpoints import Checkpoints
from trainers.distribution.tf_config import join_failure, lost_worker, read_cluster
from zoo.config import ConfigError

pytestmark = pytest.mark.tensorflow_only
ROOT = Path(__file__).resolve().parent.parent.parent
QUICK_XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Workers:
    """The processes of one cluster on loopback.

    Args:
        absent: workers that TF_CONFIG names and nobody starts.
        environment: of all processes, beside TF_CONFIG.
    """

    def __init__(
        self, text, workdir, out, count=2, kill=(0, 0), absent=(), join=120, **environment
    ):
        self.out = out
        addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self.addresses = addresses
        self.processes = {}
        for worker in range(count):
            if worker in absent:
                continue
            task = {"type": "worker", "index": worker}
            cluster = {"cluster": {"worker": addresses}, "task": task}
            settings = {
                "TF_CONFIG": json.dumps(cluster),
                "PYTHONPATH": str(ROOT),
                "TF_CPP_MIN_LOG_LEVEL": "2",
                "XLA_FLAGS": QUICK_XLA,
                "ZOO_JOIN_SECONDS": str(join),
                "ZOO_HEARTBEAT_SECONDS": "5",
            }
            arguments = [text, workdir, out / f"{worker}.json", kill[worker] if kill else 0]
            self.processes[worker] = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("distribution_worker.py")),
                    *map(str, arguments),
                ],
                cwd=ROOT,
                env={**os.environ, **settings, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def finish(self) -> dict[int, tuple[int, str]]:
        """Worker -> exit code and output."""
        ended = {}
        for worker, process in self.processes.items():
            output, _ = process.communicate(timeout=280)
            ended[worker] = process.returncode, output
        return ended

    def losses(self, worker: int) -> list[float]:
        return json.loads((self.out / f"{worker}.json").read_text(encoding="utf-8"))


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    with np.load(Checkpoints(workdir).path(20)) as values:
        return {name: values[name] for name in values.files}


@pytest.fixture(scope="module")
def undisturbed(text_file, tmp_path_factory):
    """A finished run of 2 workers: its workers and its workdir."""
    folder = tmp_path_factory.mktemp("workers")
    workers = Workers(text_file, folder / "run", folder)
    for code, output in workers.finish().values():
        assert code == 0, output[-3000:]
    return workers, folder / "run"


@pytest.mark.slow
def test_two_workers_have_the_losses_of_one(undisturbed, text_file, tmp_path):
    workers, workdir = undisturbed
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
    script = str(Path(__file__).with_name("distribution_worker.py"))
    subprocess.run(
        [sys.executable, script, str(text_file), str(tmp_path / "run"), str(tmp_path / "0.json")],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "XLA_FLAGS": QUICK_XLA},
        check=True,
        timeout=280,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    alone = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    assert len(alone) == 20
    np.testing.assert_allclose(workers.losses(0), alone, rtol=0, atol=1e-5)
    assert workers.losses(0) == workers.losses(1)
    # One has written, and what it has written is whole.
    assert (workdir / "report.md").is_file()
    assert len(list((workdir / "tensorboard").rglob("events.*"))) == 2  # train and validation
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20]


@pytest.mark.slow
def test_jax_processes_have_the_losses_of_one_and_stop_together(text_file, tmp_path):
    options = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}

    def finished(name, code=0, **how):
        workers = Workers(text_file, tmp_path / name, tmp_path, **options, **how)
        if code:
            for line in workers.processes[1].stdout:
                if line.startswith("step 3"):
                    workers.processes[1].send_signal(signal.SIGTERM)
                    break
        for found, output in workers.finish().values():
            assert found == code, output[-3000:]
        return workers

    # A cluster of one is no cluster.
    alone = finished("alone", count=1).losses(0)
    workers = finished("whole")
    np.testing.assert_allclose(workers.losses(0), alone, rtol=0, atol=1e-5)
    assert workers.losses(0) == workers.losses(1)
    finished("stopped", code=75)
    assert Checkpoints(tmp_path / "stopped").latest().step == 10  # where both looked
    finished("stopped")
    expected, found = arrays(tmp_path / "whole"), arrays(tmp_path / "stopped")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    assert (tmp_path / "stopped" / "report.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_dies_stops_the_others_and_nothing_is_lost(
    undisturbed, text_file, tmp_path, killed
):
    workdir = tmp_path / "run"
    kill = [15 if worker == killed else 0 for worker in range(2)]
    workers = Workers(text_file, workdir, tmp_path, kill=kill)
    ended = workers.finish()
    assert ended[killed][0] == -signal.SIGKILL
    code, output = ended[1 - killed]
    assert code == 1
    assert f"worker {killed} ({workers.addresses[killed]}) stopped or cannot be reached" in output
    assert Checkpoints(workdir).latest().step == 10
    for code, output in Workers(text_file, workdir, tmp_path).finish().values():
        assert code == 0, output[-3000:]
    expected, found = arrays(undisturbed[1]), arrays(workdir)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_stops_all_and_nothing_is_lost(
    undisturbed, text_file, tmp_path
):
    workdir = tmp_path / "run"
    workers = Workers(text_file, workdir, tmp_path)
    for line in workers.processes[1].stdout:
        if line.startswith("step 13"):
            workers.processes[1].send_signal(signal.SIGTERM)
            break
    for code, output in workers.finish().values():
        assert code == 75, output[-3000:]
    assert Checkpoints(workdir).latest().step > 10
    for code, output in Workers(text_file, workdir, tmp_path).finish().values():
        assert code == 0, output[-3000:]
    expected, found = arrays(undisturbed[1]), arrays(workdir)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.slow
def test_workers_share_an_object_store(undisturbed, text_file, tmp_path):
    store = f"file://{tmp_path}/store/run"
    workers = Workers(text_file, store, tmp_path, kill=(0, 15))
    for code, output in workers.finish().values():
        assert code != 0, output[-3000:]
    for code, output in Workers(text_file, store, tmp_path).finish().values():
        assert code == 0, output[-3000:]
    expected, found = arrays(undisturbed[1]), arrays(tmp_path / "store" / "run")
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.slow
def test_a_worker_that_never_comes_is_named(text_file, tmp_path):
    workers = Workers(text_file, tmp_path / "run", tmp_path, 3, (0, 0, 0), absent=(2,), join=20)
    for code, output in workers.finish().values():
        assert code == 1
        assert f"1 of 3 workers did not come: worker 2 ({workers.addresses[2]})" in output
    assert not (tmp_path / "run").exists()


GOOD = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ({**GOOD, "cluster": ["a:1"]}, "cluster: .* should be an object"),
        ({**GOOD, "cluster": {"worker": "a:1"}}, "cluster.worker: .* valid array"),
        ({**GOOD, "cluster": {"worker": ["a"]}}, "worker.0: .*\"host:port\" text, not 'a'"),
        ({**GOOD, "cluster": {"worker": ["a:99999"]}}, '"host:port" text'),
        ({**GOOD, "cluster": {"worker": ["a:1", "b:2", "a:1"]}}, "an address twice"),
        ({**GOOD, "cluster": {"chief": ["a:1", "b:1"], "worker": ["c:1"] * 2}}, "two chiefs"),
        ({**GOOD, "cluster": {"worker": ["a:1"], "ps": ["c:1"]}}, "'chief' or 'worker', not 'ps'"),
        ({"cluster": GOOD["cluster"]}, '"task" is None, of which "cluster" has no address'),
        ({**GOOD, "task": {"type": "evaluator", "index": 0}}, '"task" is evaluator 0, of which'),
        ({**GOOD, "task": {"type": "worker", "index": 2}}, '"task" is worker 2, of which'),
        ({**GOOD, "task": {"type": "worker", "index": "0"}}, "task.index: .* valid integer"),
        ({**GOOD, "task": {"type": "worker"}}, "task.index: Field required"),
    ],
)
def test_a_damaged_tf_config_says_what_is_wrong(values, message):
    text = values if isinstance(values, str) else json.dumps(values)
    with pytest.raises(ConfigError, match=rf"TF_CONFIG.*{message}"):
        read_cluster({"TF_CONFIG": text})


def test_a_cluster_counts_its_chief_first():
    cluster = {"chief": ["c:1"], "worker": ["a:1", "[::1]:2"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    found = read_cluster({"TF_CONFIG": text})
    assert list(found.addresses.values()) == ["c:1", "a:1", "[::1]:2"]
    assert found.worker == 2
    assert found.title("worker 1") == "worker 1 ([::1]:2)"
    assert read_cluster({}) is None
    alone = {"cluster": {}, "environment": "cloud", "task": {"type": "master", "index": 0}}
    assert read_cluster({"TF_CONFIG": json.dumps(alone)}) is None


TIMED_OUT = """Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0.
# of tasks that reached the barrier: 1/2.
The first task at the barrier: /job:worker/replica:0/task:1. Some timed out task names:
/job:worker/replica:0/task:0
"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            tf.errors.DeadlineExceededError(None, None, TIMED_OUT),
            "after 9 s 1 of 2 workers did not come: worker 0 (a:1). Start them",
        ),
        (
            tf.errors.DeadlineExceededError(None, None, "Deadline Exceeded"),
            "worker 0 (a:1), the chief, did not answer in 9 s. Start it",
        ),
        (
            tf.errors.UnknownError(None, None, "Could not start gRPC server"),
            "worker 1 (b:2) cannot start (Could not start gRPC server): if another process has",
        ),
    ],
)
def test_workers_that_do_not_come_together(error, told):
    """Said by what TensorFlow 2.21 says; the slow tests have it from TensorFlow itself."""
    cluster = read_cluster({"TF_CONFIG": json.dumps(GOOD)})
    assert str(join_failure(cluster, 9, error)).startswith(told)


def test_who_reports_that_a_worker_is_missing_is_there():
    addresses = {"worker": ["a:1", "b:2", "c:3"]}
    cluster = read_cluster({"TF_CONFIG": json.dumps({**GOOD, "cluster": addresses})})
    told = TIMED_OUT.replace("task:0", "task:2") + (
        "\n\nAdditional GRPC error from remote target /job:worker/replica:0/task:0 while"
    )
    error = tf.errors.DeadlineExceededError(None, None, told)
    expected = "after 9 s 1 of 3 workers did not come: worker 2 (c:3)."
    assert str(join_failure(cluster, 9, error)).startswith(expected)


def test_a_lost_worker_is_named_by_what_tensorflow_says():
    cluster = read_cluster({"TF_CONFIG": json.dumps(GOOD)})
    told = "aborted: Error reported from /job:worker/replica:0/task:0: no heartbeat"
    message = str(lost_worker(cluster, tf.errors.UnavailableError(None, None, told)))
    assert "worker 1 cannot go on: worker 0 (a:1) stopped" in message
