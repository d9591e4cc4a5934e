"""The page for Prometheus."""

import re
import threading

from hypothesis import given
from hypothesis import strategies as st

from export.server.metrics import Metrics


def sample(text, name, **labels):
    shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return float(re.search(rf"^{re.escape(f'{name}{{{shown}}}')} (\S+)$", text, re.M)[1])


def test_names_labels_and_buckets_are_those_of_tensorflow_serving():
    metrics = Metrics()
    metrics.record("m", "OK", "GRPC", "Predict", 15e-6, run_seconds=10e-6)
    metrics.record("m", "OK", "REST", "predict", 100e-6)
    metrics.record("m", "OK", "REST", "classify", 3600)
    metrics.record("m", "INVALID_ARGUMENT", "REST", "predict", 1)
    text = metrics.text()
    assert text.splitlines()[:3] == [
        "# TYPE :tensorflow:serving:request_count counter",
        ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1',
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3',
    ]
    latency, grpc = ":tensorflow:serving:request_latency", {"API": "Predict", "entrypoint": "GRPC"}
    # Microseconds; each bucket counts what is in the ones before, too.
    assert sample(text, latency + "_bucket", model_name="m", **grpc, le="10") == 0
    assert sample(text, latency + "_bucket", model_name="m", **grpc, le="18") == 1
    assert sample(text, latency + "_bucket", model_name="m", **grpc, le="+Inf") == 1
    rest = {"API": "predict", "entrypoint": "REST"}
    # A request that failed counts, but its time does not.
    assert sample(text, latency + "_count", model_name="m", **rest) == 1
    assert abs(sample(text, latency + "_sum", model_name="m", **rest) - 100) < 1e-6
    classify = {"API": "classify", "entrypoint": "REST"}
    assert sample(text, latency + "_bucket", model_name="m", **classify, le="1.47476e+09") == 0
    assert sample(text, latency + "_count", model_name="m", **classify) == 1
    runtime = {"API": "Predict", "runtime": "TF1"}
    assert sample(text, ":tensorflow:serving:runtime_latency_count", model_name="m", **runtime) == 2
    assert text.count("le=") == 5 * 34


@given(st.text())
def test_no_name_breaks_a_line(name):
    metrics = Metrics()
    metrics.record(name, "OK", "REST", "predict", 0.1)
    line = metrics.text().split("\n")[1]
    value = r'(?:[^"\\\n]|\\\\|\\"|\\n)*'
    assert re.fullmatch(rf'\S+{{model_name="({value})",status="OK"}} 1', line)
    assert metrics.text().count("\n") == 4 + 2 * 36  # the latencies, too


def test_names_that_nobody_serves_are_counted_under_one():
    metrics = Metrics()
    for number in range(10):
        metrics.record(f"none{number}" * 1000, "NOT_FOUND", "REST", "predict", 0)
    metrics.record("late", "OK", "REST", "predict", 0)
    metrics.record("late", "INVALID_ARGUMENT", "REST", "predict", 0)
    text = metrics.text()
    count = ":tensorflow:serving:request_count"
    assert sample(text, count, model_name="(other)", status="NOT_FOUND") == 10
    assert sample(text, count, model_name="late", status="OK") == 1
    assert sample(text, count, model_name="late", status="INVALID_ARGUMENT") == 1
    assert "none" not in text


def test_threads_lose_no_count():
    metrics = Metrics()

    def work():
        for _ in range(500):
            metrics.record("m", "OK", "GRPC", "Predict", 1e-3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = {"model_name": "m", "API": "Predict", "entrypoint": "GRPC"}
    assert sample(metrics.text(), ":tensorflow:serving:request_latency_count", **labels) == 4000
