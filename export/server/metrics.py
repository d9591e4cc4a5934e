"""Counts and latencies of requests for Prometheus, with TensorFlow Serving's names and buckets."""

import bisect
import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from export.server.status import RequestClock, ServingError

# Microseconds, up to some 20 minutes; TensorFlow Serving's buckets.
_BUCKETS = [10 * 1.8**power for power in range(33)]
_COUNT = ":tensorflow:serving:request_count"
# Metric -> its labels.
_HISTOGRAMS = {
    ":tensorflow:serving:request_latency": ("model_name", "API", "entrypoint"),
    ":tensorflow:serving:runtime_latency": ("model_name", "API", "runtime"),
}
# Anybody may ask for any name: those that never got an answer share this one.
_OTHERS = "(other)"


class _Histogram:
    def __init__(self):
        self.counts, self.sum = [0] * (len(_BUCKETS) + 1), 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_right(_BUCKETS, seconds * 1e6)] += 1
        self.sum += seconds * 1e6


class Metrics:
    """Counts requests, from any thread; memory grows with the models served, not with requests."""

    def __init__(self, is_served: Callable[[str], bool] = lambda name: False):
        self._is_served = is_served
        self._lock = threading.Lock()
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._histograms = {name: collections.defaultdict(_Histogram) for name in _HISTOGRAMS}
        self._served: set[str] = set()

    @contextlib.contextmanager
    def counting(self, model: str, entrypoint: str, api: str, clock: RequestClock) -> Iterator:
        """Counts the request that is answered inside; its times only if it was answered."""
        status = "INTERNAL"
        try:
            yield
            status = "OK"
        except ServingError as error:
            status = error.code.name
            raise
        finally:
            with self._lock:
                if status == "OK" or self._is_served(model):
                    self._served.add(model)
                model = model if model in self._served else _OTHERS
                self._counts[model, status] += 1
                if status == "OK":
                    latencies, runtimes = self._histograms.values()
                    latencies[model, api, entrypoint].add(time.monotonic() - clock.begin)
                    runtimes[model, api[:1].upper() + api[1:], "TF1"].add(clock.run_seconds)

    def text(self) -> str:
        """The page: the text format of Prometheus, version 0.0.4."""
        limits = [*map("{:.6g}".format, _BUCKETS), "+Inf"]
        with self._lock:
            lines = [f"# TYPE {_COUNT} counter"]
            for values, count in sorted(self._counts.items()):
                lines.append(f"{_COUNT}{{{_labels(('model_name', 'status'), values)}}} {count}")
            for name, histograms in self._histograms.items():
                lines.append(f"# TYPE {name} histogram")
                for values, histogram in sorted(histograms.items(), key=lambda item: item[0]):
                    labels, total = _labels(_HISTOGRAMS[name], values), 0
                    for limit, count in zip(limits, histogram.counts):
                        total += count
                        lines.append(f'{name}_bucket{{{labels},le="{limit}"}} {total}')
                    lines.append(f"{name}_sum{{{labels}}} {histogram.sum!r}")
                    lines.append(f"{name}_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    # The line end, too, which TensorFlow Serving forgets: a model name must not add lines.
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    return ",".join(f'{name}="{value.translate(escapes)}"' for name, value in zip(names, values))
