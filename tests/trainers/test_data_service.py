"""Batches from tf.data services: those of this process, in order, or a clear error."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf

import zoo
from trainers import batches, data_service
from trainers.batches import training_batches, wait_for
from trainers.checkpoints import Checkpoints
from trainers.config import TrainConfig
from trainers.data.service import DataServiceLost, DataServices
from trainers.data_config import DataConfig, MixedCorpus
from trainers.data_service import DataService
from trainers.distribution import Distribution
from trainers.loop import train
from trainers.prepare.local import prepare
from trainers.prepare.settings import PrepareConfig
from trainers.tasks import make_task
from zoo.strict_config import ConfigError, from_dict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def running():
    """Two services in this process."""
    both = [DataService("localhost") for _ in range(2)]
    yield both
    for service in both:
        service.stop()


def named(*running, seconds=20.0):
    addresses = tuple(service.address.removeprefix("grpc://") for service in running)
    return DataServices(addresses, seconds)


def hosts(number):
    """What each of some workers has in place of a whole distribution."""
    return [
        Distribution("multi_worker", replicas=number, workers=number, worker=worker)
        for worker in range(number)
    ]


def assert_same(one, other):
    for batch, expected in zip(one, other, strict=True):
        for part, value in zip(*map(tf.nest.flatten, (batch, expected)), strict=True):
            assert part.shape == value.shape
            np.testing.assert_array_equal(part, value)


@pytest.fixture(params=["gpt", "lstm", "mlm", "mixture", "prepared"])
def task(request, tiny, text_file, tmp_path):
    if request.param == "mlm":
        values = {
            "recipe": "tiny_mlm",
            "task": "mlm",
            "preset": "bert_tiny",
            "model": {"hidden_dim": 8, "num_layers": 1, "intermediate_dim": 16},
            "text": {"max_length": 16},
            "data": {
                "train": str(text_file),
                "tokenizer": "wordpiece",
                "max_vocabulary_size": 60,
            },
            "batch_size": 4,
            "steps": 12,
            "evaluate_every": 6,
        }
        return make_task(from_dict(TrainConfig, values))
    config = tiny("lstm" if request.param == "lstm" else "gpt", steps=20)
    data = config.data
    if request.param in ("mixture", "prepared"):
        prepare(PrepareConfig(DataConfig(str(text_file), tokenizer="byte")), tmp_path / "out")
        data = DataConfig(str(tmp_path / "out"), tokenizer="byte", start_text="\n")
    if request.param == "mixture":
        corpora = (MixedCorpus(data.train, 3), MixedCorpus(str(text_file)))
        data = dataclasses.replace(data, train="", mixture=corpora)
    return make_task(dataclasses.replace(config, data=data))


def test_batches_are_those_of_this_process(task, running):
    assert task.reads_rows
    alone = Distribution("one_device")
    services = named(*running)
    services.wait()
    here = list(task.training_data(3))
    for some in (named(running[0]), services):
        data = training_batches(task, 3, alone, some)
        assert data.element_spec == task.training_data(3).element_spec
        assert_same(data, here)
        assert_same(data.take(2), here[:2])  # each iterator begins at the beginning
    # Each worker reads its rows, here or there; together they are the batch.
    for worker in hosts(2):
        own = list(worker.worker_rows(task.training_data(3)))
        assert_same(training_batches(task, 3, worker), own)
        assert_same(training_batches(task, 3, worker, services), own)


def test_other_tasks_read_whole_batches(tiny, text_file):
    class Whole:
        reads_rows = False

        def training_data(self, start_step):
            return tf.data.Dataset.from_tensors((tf.range(4), tf.range(4)))

    ((inputs, _),) = training_batches(Whole(), 0, hosts(2)[1])
    np.testing.assert_array_equal(inputs, [2, 3])
    values = {"train": str(text_file), "tokenizer": "wordpiece"}
    config = TrainConfig(recipe="t", task="tag", preset="bert_tiny", data=DataConfig(**values))
    with pytest.raises(ConfigError, match=r"--data_service is for tasks lm and mlm: .*'tag'"):
        wait_for(DataServices(("localhost:1",)), config)


def test_text_too_large_to_be_sent_is_told_of(tiny, running, monkeypatch):
    monkeypatch.setattr(batches, "_SENT_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"0\.0 GiB of tokens would .*trainers\.prepare"):
        training_batches(make_task(tiny("gpt")), 0, hosts(1)[0], named(*running))


def test_a_run_with_a_service_is_the_run_without(tiny, tmp_path, running):
    config = tiny("gpt", sample_prompts=(), steps=20)
    here = train(config, tmp_path / "here")
    there = train(config, tmp_path / "there", services=named(*running))
    for one, other in zip(here.model.get_weights(), there.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# What is wrong.


@pytest.mark.parametrize(
    ("flag", "addresses"),
    [
        ("grpc://localhost:5050", ("localhost:5050",)),
        ("localhost:5050", ("localhost:5050",)),
        ("grpc://a:1, grpc://[::1]:2", ("a:1", "[::1]:2")),
    ],
)
def test_the_flag_names_services(flag, addresses, monkeypatch):
    monkeypatch.delenv("ZOO_DATA_SERVICE_SECONDS", raising=False)
    assert DataServices.named(flag).addresses == addresses
    assert DataServices.named(flag).seconds == 60
    monkeypatch.setenv("ZOO_DATA_SERVICE_SECONDS", "7.5")
    assert DataServices.named(flag).seconds == 7.5
    for wrong in ("0", "nan", "-1", "soon", "inf"):
        monkeypatch.setenv("ZOO_DATA_SERVICE_SECONDS", wrong)
        with pytest.raises(ConfigError, match=f"ZOO_DATA_SERVICE_SECONDS={wrong}: must be a num"):
            DataServices.named(flag)


@pytest.mark.parametrize("flag", ["", "http://a:1", "a", "a:99999", "a:1,,b:2", "grpc://a:b"])
def test_a_wrong_flag_is_named(flag):
    with pytest.raises(ConfigError, match=f"--data_service={flag}: write grpc://host:port"):
        DataServices.named(flag)
    with pytest.raises(ConfigError, match="has an address twice"):
        DataServices.named("a:1,grpc://a:1")


def test_a_service_that_is_not_there_is_named_in_time(tiny, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    told = f"no tf.data dispatcher answers at {address} .*, after 1 s. Start it: "
    with pytest.raises(DataServiceLost, match=told):
        train(tiny("gpt"), tmp_path / "run", services=DataServices((address,), 1.0))
    assert set(os.listdir(tmp_path / "run")) == {".lock", "train_config.json"}


def test_another_server_is_no_dispatcher():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(DataServiceLost, match=rf"answers at 127.0.0.1:{port} \(unimplemented\)"):
        DataServices((f"127.0.0.1:{port}",), 0.5).wait()
    server.stop(None)


def test_a_dispatcher_needs_one_worker():
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.removeprefix("grpc://")
    with pytest.raises(DataServiceLost, match=f"dispatcher at {address} has no worker, after 1 s"):
        DataServices((address,), 1.0).wait()
    workers = [
        service.WorkerServer(service.WorkerConfig(dispatcher_address=address)) for _ in range(2)
    ]
    with pytest.raises(ConfigError, match=f"{address} has 2 workers .*in no fixed order"):
        DataServices((address,), 20.0).wait()
    for worker in workers:
        worker.stop()


def slow_steps(first, stride):
    return tf.data.Dataset.range(first, 1000, stride).map(lambda step: (step, tf.fill([3], step)))


def test_a_worker_that_begins_anew_is_noticed():
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.removeprefix("grpc://")
    config = service.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=100)
    worker = service.WorkerServer(config)
    services = DataServices((address,), 60.0)
    services.wait()
    read = iter(services.batches(slow_steps, 5, 1000))
    assert int(next(read)[0]) == 5
    worker.stop()
    again = service.WorkerServer(config)
    told = r"a service was started anew, or .*\. The same command goes on from the last"
    with pytest.raises(DataServiceLost, match=told), services.told():
        for expected, (step, _) in enumerate(read, 6):
            assert int(step) == expected
    again.stop()


def test_a_service_that_falls_silent_is_told_of():
    one = DataService("localhost")
    said, heard = [], threading.Event()

    def lost(message):
        said.append(message)
        heard.set()

    services = DataServices(named(one).addresses, 0.4, lost)
    with services.told():
        one.stop()
        assert heard.wait(30)
    assert "no tf.data dispatcher answers at localhost" in said[0]
    assert "The same command goes on from the last checkpoint" in said[0]


def test_other_errors_pass():
    error = tf.errors.DataLossError(None, None, "corrupted record at 7")
    with pytest.raises(tf.errors.DataLossError), DataServices(()).told():
        raise error


# The program.


@pytest.fixture
def program():
    """`python -m trainers.data_service` in a process: the process, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainers.data_service", "--port=0", "--host=localhost"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    line = process.stdout.readline()
    assert line.startswith("train with --data_service=grpc://localhost:")
    yield process, line.strip().partition("=")[2]
    process.kill()
    process.wait()


def test_the_program_serves_until_it_is_told_to_stop(program, tiny):
    process, flag = program
    services = DataServices.named(flag)
    services.wait()
    task = make_task(tiny("gpt"))
    data = training_batches(task, 0, Distribution("one_device"), services)
    assert_same(data, task.training_data(0))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_run_whose_service_is_killed_ends_and_goes_on(program, text_file, tmp_path):
    """`python -m trainers`, each time in a process of its own."""
    process, flag = program
    settings = ["start_text=" + json.dumps("\n"), "train=" + str(text_file)]
    settings = [f"data.{setting}" for setting in settings]
    settings += ["model.hidden_dim=8", "model.num_heads=2", "model.context_length=8"]
    settings += ["steps=400", "evaluate_every=20", "jit_compile=false", "sample_prompts=[]"]

    def run(name, *more):
        command = ["-m", "trainers", "--recipe=shakespeare_gpt_cpu", f"--workdir={tmp_path / name}"]
        command += [f"--set={setting}" for setting in settings]
        environment = {"PYTHONPATH": str(ROOT), "ZOO_DATA_SERVICE_SECONDS": "4"}
        return subprocess.Popen(
            [sys.executable, *command, *more],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = run("run", f"--data_service={flag}")
    while Checkpoints(tmp_path / "run").latest() is None:
        assert first.poll() is None
        time.sleep(0.2)
    process.kill()
    _, said = first.communicate(timeout=200)
    assert first.returncode == 1
    address = flag.removeprefix("grpc://")
    assert f"no tf.data dispatcher answers at {address}" in said
    assert "The same command goes on from the last checkpoint" in said
    for name in ("run", "whole"):
        assert run(name).wait(200) == 0
    one, other = (zoo.load(tmp_path / name).model.get_weights() for name in ("run", "whole"))
    for value, expected in zip(one, other, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_taken_port_is_named(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} is taken .*choose another by --port"):
            DataService("localhost", port)
        with pytest.raises(OSError, match=rf"port {port} is taken"):
            DataService("localhost", 0, port)


def test_help_does_not_wait_for_tensorflow():
    code = "import sys, trainers.data_service; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    assert "--data_service=grpc://" in data_service.__doc__
