"""The embedded server when things go wrong: deadlines, lost clients, broken versions, stops."""

import gc
import os
import shutil
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
)
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from toy_server import State, add_version, refused, serving, until

from export.server import (
    BatchingParameters,
    Loader,
    Manager,
    Retries,
    ServedModel,
    Server,
    ServingError,
    every_version,
)
from export.server.status import RequestClock

pytestmark = pytest.mark.timeout(120)


# --- deadlines and clients


def test_run_ends_at_its_deadline(versions):
    with serving(versions) as (server, client):
        begin = time.monotonic()
        assert refused(client.work, 100_000, timeout=0.2)[0] == "DEADLINE_EXCEEDED"
        # The run itself has ended, which would take a minute: nothing uses the version.
        (version,) = (v for v in server.manager.versions_of("m") if v.number == 3)
        until(lambda: version.users == 0)
        assert time.monotonic() - begin < 10
        with server.manager.acquire("m") as servable:
            clock = RequestClock(0.1)
            signature = servable.signatures["work"]
            feeds = {signature.inputs["steps"].name: np.int32([100_000])}
            with pytest.raises(ServingError) as caught:
                servable.run(feeds, [signature.outputs["y"].name], clock)
            assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.message == "Timed out waiting for notification"
            assert 0.05 < clock.run_seconds < 10
        assert client.added() == 3


@pytest.mark.parametrize("batching", [None, BatchingParameters(max_batch_size=4)])
def test_stop_lets_what_runs_finish(versions, batching):
    with serving(versions, loader=Loader(batching=batching)) as (server, client):
        client.work(1)
        calls = [
            client.prediction.Predict.future(
                client.request(signature="work", steps=np.int32([400])), timeout=20
            )
            for _ in range(4)
        ]
        (version,) = (v for v in server.manager.versions_of("m") if v.number == 3)
        until(lambda: version.users == 4 or all(call.done() for call in calls))
        assert server.stop() is True
        assert [call.code().name for call in calls] == ["OK"] * 4
        assert refused(client.work, 1, timeout=0.5)[0] in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
        )


# --- versions


def test_new_version_that_does_not_warm_up_leaves_the_old_one_serving(versions, tmp_path):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path, retries=Retries(2, 0.2)) as (_, client):
        add_version(versions / "2", tmp_path / "2", "nope")
        until(lambda: client.states() == {2: "LOADING", 1: "AVAILABLE"})
        until(lambda: client.states() == {2: "END", 1: "AVAILABLE"})
        status = client.statuses()[2].status
        assert status.error_code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert status.error_message == 'Serving signature key "nope" not found.'
        assert client.added() == 1
        # Given up until it goes away and comes back.
        shutil.rmtree(tmp_path / "2" / "assets.extra")
        time.sleep(0.5)
        assert client.states() == {2: "END", 1: "AVAILABLE"}
        (tmp_path / "2").rename(tmp_path / "away")
        time.sleep(0.3)
        (tmp_path / "away").rename(tmp_path / "2")
        until(lambda: client.states() == {2: "AVAILABLE", 1: "END"})
        assert client.added() == 2


def test_corrupt_version_is_tried_as_often_as_told(versions, tmp_path, caplog):
    shutil.copytree(versions / "1", tmp_path / "1")
    with serving(tmp_path, retries=Retries(2, 0.05)) as (_, client):
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "saved_model.pb").write_bytes(b"\x0a\xff\xff\xff\xff\x0f")
        until(lambda: client.states() == {2: "END", 1: "AVAILABLE"})
        assert client.statuses()[2].status.error_message == "Read less bytes than requested"
        for text in ("in 0.05 s, 1 of 2", "in 0.05 s, 2 of 2", "given up, until"):
            assert caplog.text.count(text) == 1
        assert client.added() == 1


def test_start_that_fails_tells_of_each_model(versions, tmp_path):
    (tmp_path / "empty" / "1").mkdir(parents=True)
    models = [ServedModel("good", str(versions)), ServedModel("bad", str(tmp_path / "empty"))]
    server = Server(models, port=0, retries=Retries(0))
    with pytest.raises(ServingError) as caught:
        server.start()
    assert str(caught.value).startswith(
        "UNKNOWN: 1 servable(s) did not become available: {{{name: bad version: 1} due to error: "
        "NOT_FOUND: Specified file path does not appear to contain a SavedModel bundle"
    )
    assert {s.state for s in server.manager.versions_of("good")} == {State.END}


def test_base_path_that_goes_away_stops_nothing(versions, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(versions / "1", base / "1")
    with serving(base) as (_, client):
        base.rename(tmp_path / "away")
        time.sleep(0.3)
        assert client.added() == 1
        (tmp_path / "away").rename(base)
        shutil.rmtree(base / "1")
        until(lambda: client.states() == {1: "END"})
        assert refused(client.added)[0] == "NOT_FOUND"


def test_swaps_leak_no_threads_and_no_graphs(versions, tmp_path):
    shutil.copytree(versions / "1", tmp_path / "1")

    def threads():
        return len(os.listdir("/proc/self/task"))

    loader = Loader(batching=BatchingParameters(num_batch_threads=3))
    with serving(tmp_path, loader=loader) as (_, client):
        client.added()
        counts = []
        for number in (2, 3, 4):
            add_version(versions / "2", tmp_path / str(number))
            until(lambda n=number: client.states().get(n) == "AVAILABLE")
            until(lambda n=number: client.states().get(n - 1) == "END")
            client.added()
            gc.collect()
            counts.append(threads())
        assert max(counts) - counts[0] <= 3


def test_of_several_versions_the_newest_answers_first(versions, monkeypatch):
    order = []
    load = Loader.load

    def recorded(self, name, number, path):
        order.append(number)
        return load(self, name, number, path)

    monkeypatch.setattr(Loader, "load", recorded)
    manager = Manager([ServedModel("m", str(versions), every_version())])
    manager.start()
    assert manager.wait_until_available(20)
    until(lambda: len(manager.available_versions()) == 3)
    assert order == [3, 2, 1]
    assert manager.stop()


class Together(Loader):
    """Loads a version only while another one loads."""

    barrier = threading.Barrier(2)

    def load(self, name, number, path):
        self.barrier.wait(20)
        return super().load(name, number, path)


def test_versions_load_and_unload_side_by_side(versions):
    models = [ServedModel(name, str(versions)) for name in ("a", "b")]
    manager = Manager(models, loader=Together(), load_threads=2, unload_threads=1)
    manager.start()
    assert manager.wait_until_available(60)
    assert manager.available_versions() == [("a", 3), ("b", 3)]
    assert manager.stop(20)


class Refused(Loader):
    """Loads nothing."""

    tries = 0

    def load(self, name, number, path):
        Refused.tries += 1
        raise ServingError(grpc.StatusCode.UNKNOWN, "no")


def test_a_negative_number_of_retries_never_gives_up(versions):
    manager = Manager([ServedModel("m", str(versions))], retries=Retries(-1, 0.0), loader=Refused())
    manager.start()
    until(lambda: Refused.tries > 20)
    assert {status.state for status in manager.versions_of("m")} == {State.LOADING}
    manager.stop()


def test_models_that_are_gone_are_forgotten_in_the_end(versions, monkeypatch):
    monkeypatch.setattr("export.server.models.manager._MAX_ENDED", 2)
    manager = Manager([], retries=Retries(0), loader=Refused())
    manager.start()
    for number in range(6):
        with pytest.raises(ServingError, match="did not become available"):
            manager.reload([ServedModel(f"m{number}", str(versions))])
    until(lambda: not manager.versions_of("m1"))
    assert [bool(manager.versions_of(f"m{number}")) for number in range(6)][-2:] == [True, True]
    manager.stop()


# --- Signals, reloads and streams that would hold everybody up


@pytest.mark.parametrize("ends", [True, False])
def test_a_start_that_is_given_up_while_a_model_loads_is_bounded(versions, monkeypatch, ends):
    loading, go_on = threading.Event(), threading.Event()
    load = Loader.load

    def hung(self, *args):
        loading.set()
        go_on.wait()
        return load(self, *args)

    monkeypatch.setattr(Loader, "load", hung)
    monkeypatch.setattr("export.server.server._UNLOAD_SECONDS", 20.0 if ends else 0.2)
    server = Server([ServedModel("worker", str(versions))], port=0)
    try:
        assert server.start(Given(loading)) is False
        if ends:
            go_on.set()
        assert server.stop(grace=0) is ends
    finally:
        go_on.set()
        server.stop(grace=0)


class Given:
    """An event that is set as soon as another one is."""

    def __init__(self, other):
        self._other = other

    def is_set(self):
        return self._other.wait(20)


def test_a_new_configuration_takes_the_place_of_one_that_waits(versions, tmp_path, caplog):
    good = ServedModel("m", str(versions))
    with serving(versions) as (server, _):
        manager, result = server.manager, []

        def mistyped():
            try:
                manager.reload([good, ServedModel("other", str(tmp_path / "mistyped"))])
            except ServingError as error:
                result.append(error.code)

        waiting = threading.Thread(target=mistyped)
        waiting.start()
        until(lambda: "no versions of model other found" in caplog.text)
        manager.reload([good, ServedModel("other", str(versions))])
        waiting.join(timeout=20)
        assert result == [grpc.StatusCode.ABORTED]
        assert ("other", 3) in manager.available_versions()


def test_reloads_that_wait_never_block_a_later_one(versions, tmp_path):
    """Equal ones, too: clients that try again."""
    with serving(versions) as (server, _):
        channel = grpc.insecure_channel(f"localhost:{server.port}")
        reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        good, mistyped = ReloadConfigRequest(), ReloadConfigRequest()
        for config, paths in {
            "good": (good, {"m": versions}),
            "mistyped": (mistyped, {"m": versions, "other": tmp_path / "mistyped"}),
        }.values():
            for name, path in paths.items():
                config.config.model_config_list.config.add(
                    name=name, base_path=str(path), model_platform="tensorflow"
                )
        waiting = [reload.future(mistyped) for _ in range(6)]  # more than there are threads
        until(lambda: sum(call.done() for call in waiting) == 5)
        assert reload(good, timeout=60).status.error_code == 0
        codes = [call.code() for call in waiting]
        assert codes == [grpc.StatusCode.ABORTED] * 6
        channel.close()


def test_reflection_streams_are_no_requests_beyond_the_first(versions):
    with serving(versions, max_threads=1, max_queued=8, reflection=True) as (server, client):
        channel = grpc.insecure_channel(f"localhost:{server.port}")
        stopped = threading.Event()

        def idle():
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            stopped.wait(60)

        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        codes, streams = [], []
        for _ in range(40):
            streams.append(reflect(idle()))
            try:
                next(streams[-1])
            except grpc.RpcError as error:
                codes.append(error.code())
        assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * len(codes)
        assert len(codes) >= 40 - 16
        stopped.set()
        channel.close()
        until(lambda: client.added() == 3)


def test_streams_reloads_and_health_hold_no_thread_of_requests(versions, tmp_path):
    options = {"max_threads": 1, "health": True, "reflection": True}
    with serving(versions, **options) as (server, client):
        channel = grpc.insecure_channel(f"localhost:{server.port}")
        stopped = threading.Event()

        def idle():
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            stopped.wait(60)

        reflections = reflection_pb2_grpc.ServerReflectionStub(channel)
        streams = [reflections.ServerReflectionInfo(idle()) for _ in range(4)]
        assert all(next(stream).list_services_response.service for stream in streams)
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        watches = [health.Watch(request) for _ in range(4)]
        assert {next(watch).status for watch in watches} == {1}
        config = ReloadConfigRequest()
        for name, path in {"m": versions, "other": tmp_path / "missing"}.items():
            config.config.model_config_list.config.add(
                name=name, base_path=str(path), model_platform="tensorflow"
            )
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        reload = models.HandleReloadConfigRequest.future(config, timeout=60)
        assert client.added() == 3  # the only thread of requests is free
        client.work(1)
        slow = threading.Thread(target=client.work, args=(20_000, 60))
        slow.start()
        assert health.Check(request, timeout=20).status == 1
        assert client.states()
        assert not reload.done()
        reload.cancel()
        stopped.set()
        slow.join()
        channel.close()
