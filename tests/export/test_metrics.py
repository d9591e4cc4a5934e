"""The page for Prometheus."""

import contextlib
import re
import threading

import grpc
from hypothesis import given
from hypothesis import strategies as st

from export.server.metrics import Metrics
from export.server.status import RequestClock, ServingError


def count(metrics, model, status, entrypoint, api, seconds=0.0, run_seconds=0.0):
    """A request that began `seconds` ago, and what moments this takes."""
    clock = RequestClock()
    clock.begin, clock.run_seconds = clock.begin - seconds, run_seconds
    with contextlib.suppress(ServingError), metrics.counting(model, entrypoint, api, clock):
        if status != "OK":
            raise ServingError(grpc.StatusCode[status], "refused")


def sample(text, name, **labels):
    shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return float(re.search(rf"^{re.escape(f'{name}{{{shown}}}')} (\S+)$", text, re.M)[1])


def test_names_labels_and_buckets_are_those_of_tensorflow_serving():
    metrics = Metrics()
    count(metrics, "m", "OK", "GRPC", "Predict", 3, run_seconds=2)
    count(metrics, "m", "OK", "REST", "predict", 100)
    count(metrics, "m", "OK", "REST", "classify", 3600)
    count(metrics, "m", "INVALID_ARGUMENT", "REST", "predict", 1)
    text = metrics.text()
    assert text.splitlines()[:3] == [
        "# TYPE :tensorflow:serving:request_count counter",
        ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3',
    ]
    latency, grpc = ":tensorflow:serving:request_latency", {"API": "Predict", "entrypoint": "GRPC"}
    # Microseconds; each bucket counts what is in the ones before, too.
    assert sample(text, latency + "_bucket", model_name="m", **grpc, le="2.29468e+06") == 0
    assert sample(text, latency + "_bucket", model_name="m", **grpc, le="4.13043e+06") == 1
    assert sample(text, latency + "_bucket", model_name="m", **grpc, le="+Inf") == 1
    rest = {"API": "predict", "entrypoint": "REST"}
    # A request that failed counts, but its time does not.
    assert sample(text, latency + "_count", model_name="m", **rest) == 1
    assert 100e6 <= sample(text, latency + "_sum", model_name="m", **rest) < 101e6
    classify = {"API": "classify", "entrypoint": "REST"}
    assert sample(text, latency + "_bucket", model_name="m", **classify, le="1.47476e+09") == 0
    assert sample(text, latency + "_count", model_name="m", **classify) == 1
    runtime = {"API": "Predict", "runtime": "TF1"}
    assert sample(text, ":tensorflow:serving:runtime_latency_count", model_name="m", **runtime) == 2
    assert sample(text, ":tensorflow:serving:runtime_latency_sum", model_name="m", **runtime) == 2e6
    assert text.count("le=") == 5 * 34


@given(st.text())
def test_no_name_breaks_a_line(name):
    metrics = Metrics()
    count(metrics, name, "OK", "REST", "predict", 0.1)
    line = metrics.text().split("\n")[1]
    value = r'(?:[^"\\\n]|\\\\|\\"|\\n)*'
    assert re.fullmatch(rf'\S+{{model_name="({value})",status="OK"}} 1', line)
    assert metrics.text().count("\n") == 4 + 2 * 36  # the latencies, too


def test_names_that_nobody_serves_are_counted_under_one():
    metrics = Metrics()
    for number in range(10):
        count(metrics, f"none{number}" * 1000, "NOT_FOUND", "REST", "predict", 0)
    count(metrics, "late", "OK", "REST", "predict", 0)
    count(metrics, "late", "INVALID_ARGUMENT", "REST", "predict", 0)
    text = metrics.text()
    name = ":tensorflow:serving:request_count"
    assert sample(text, name, model_name="(other)", status="NOT_FOUND") == 10
    assert sample(text, name, model_name="late", status="OK") == 1
    assert sample(text, name, model_name="late", status="INVALID_ARGUMENT") == 1
    assert "none" not in text


def test_threads_lose_no_count():
    metrics = Metrics()

    def work():
        for _ in range(500):
            count(metrics, "m", "OK", "GRPC", "Predict", 1e-3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = {"model_name": "m", "API": "Predict", "entrypoint": "GRPC"}
    assert sample(metrics.text(), ":tensorflow:serving:request_latency_count", **labels) == 4000
