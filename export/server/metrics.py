"""Counts and latencies of requests, as a page for Prometheus.

Names, labels and buckets are those of TensorFlow Serving, so that its dashboards and alerts work.
"""

import bisect
import threading
from collections.abc import Callable, Iterable, Sequence

# Microseconds, up to some 20 minutes; TensorFlow Serving's buckets.
_BUCKETS = [10 * 1.8**power for power in range(33)]
_COUNT = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"
_RUNTIME = ":tensorflow:serving:runtime_latency"
# Anybody may ask for any name: those that never got an answer share this one.
_OTHERS = "(other)"
_APIS = {"GRPC": "Predict", "REST": "predict"}  # each spelled as there


class _Histogram:
    def __init__(self):
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_right(_BUCKETS, value)] += 1
        self.sum += value


class Metrics:
    """Counts requests, from any thread; memory grows with the models served, not with requests.

    Args:
        is_served: Whether a model of this name is there, also one that never gave an answer; all
            others are counted under one name.

    Example:
        >>> metrics = Metrics()
        >>> metrics.record("writer", "OK", "GRPC", 0.002)
        >>> print(metrics.text().splitlines()[1])
        :tensorflow:serving:request_count{model_name="writer",status="OK"} 1
    """

    def __init__(self, is_served: Callable[[str], bool] = lambda name: False):
        self._is_served = is_served
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str, str], _Histogram] = {}
        self._runtimes: dict[tuple[str, str, str], _Histogram] = {}
        self._served: set[str] = set()

    def record(
        self, model: str, status: str, entrypoint: str, seconds: float, *, api: str | None = None
    ) -> None:
        """Counts a request; the latency of those that were answered, as TensorFlow Serving does.

        Args:
            model: str. The name of the model, as the client gave it.
            status: str. The name of the gRPC code, `OK` or another.
            entrypoint: str. `GRPC` or `REST`.
            seconds: float. From the request to its answer.
            api: str | None. What was asked: `Predict`, `Classify`, ... over gRPC, `predict`,
                `classify`, ... over REST. Defaults to predict.
        """
        api = api or _APIS.get(entrypoint, "Predict")
        with self._lock:
            answered = status == "OK"
            model = self._label(model, answered)
            self._counts[model, status] = self._counts.get((model, status), 0) + 1
            if answered:
                key = (model, api, entrypoint)
                self._latencies.setdefault(key, _Histogram()).add(seconds * 1e6)

    def record_runtime(self, model: str, seconds: float, *, api: str = "Predict") -> None:
        """Adds the time that a run of the graph took."""
        with self._lock:
            key = (self._label(model, answered=True), api, "TF1")
            self._runtimes.setdefault(key, _Histogram()).add(seconds * 1e6)

    def _label(self, model: str, answered: bool) -> str:
        if answered or self._is_served(model):
            self._served.add(model)
        return model if model in self._served else _OTHERS

    def text(self) -> str:
        """The page: the text format of Prometheus, version 0.0.4."""
        with self._lock:
            lines = [f"# TYPE {_COUNT} counter"]
            for labels, count in sorted(self._counts.items()):
                lines.append(f"{_COUNT}{{{_labels(('model_name', 'status'), labels)}}} {count}")
            lines += _histogram_lines(
                _LATENCY, ("model_name", "API", "entrypoint"), self._latencies.items()
            )
            lines += _histogram_lines(
                _RUNTIME, ("model_name", "API", "runtime"), self._runtimes.items()
            )
        return "\n".join(lines) + "\n"


def _histogram_lines(
    name: str, keys: Sequence[str], items: Iterable[tuple[tuple[str, ...], _Histogram]]
) -> list[str]:
    lines = [f"# TYPE {name} histogram"]
    for values, histogram in sorted(items, key=lambda item: item[0]):
        labels, total = _labels(keys, values), 0
        for place, count in enumerate(histogram.counts):
            total += count
            limit = f"{_BUCKETS[place]:.6g}" if place < len(_BUCKETS) else "+Inf"
            lines.append(f'{name}_bucket{{{labels},le="{limit}"}} {total}')
        lines.append(f"{name}_sum{{{labels}}} {histogram.sum!r}")
        lines.append(f"{name}_count{{{labels}}} {total}")
    return lines


def _labels(keys: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in zip(keys, values, strict=True))


def _escaped(value: str) -> str:
    # The line end, too, which TensorFlow Serving forgets: a model name must not add lines.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
