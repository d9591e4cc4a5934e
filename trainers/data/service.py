"""Reading batches from tf.data services: other machines make them, and each step gets its own.

Under one dispatcher with several workers batches come as they get ready, and the batch of a step
would be another one every time. Here each service is a dispatcher with one worker, which one thread
reads in order; of several services each makes every so-many-th step. Every batch comes with the
number of its step, so that what a service forgot when it was started anew cannot pass unseen.
`python -m trainers.data_service` is such a service.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import tensorflow as tf
from absl import logging

from trainers.data.pipeline import fixed_schedule
from trainers.data.shards import plain
from zoo.strict_config import ConfigError

# How long to wait for a service, at the start and when it stops answering.
WAIT_VARIABLE = "ZOO_DATA_SERVICE_SECONDS"
_WAIT_SECONDS = 60.0
_ASK_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_AHEAD = 8  # batches of each service that wait here
_ADDRESS = re.compile(r"(?:grpc://)?((?:[^\s:/,\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5})/?")
_OTHER_STEP = "the batch of another step came"
# Of TensorFlow's messages, those about the service and not about what was read.
_GONE = re.compile("iteration client id|[Ff]ailed to get (?:tasks|element from)|with dispatcher at")


class DataServiceLost(OSError):
    """A tf.data service does not answer, or has forgotten what it was doing."""


class DataServices:
    """The tf.data services that make a run's batches.

    Args:
        addresses: "host:port" of each dispatcher, which has one worker.
        seconds: how long to wait for one that does not answer.
        lost: called, in a thread, with a message when one was silent for that long while batches
            were read, and each such time after. TensorFlow itself waits for ever.

    Example: `DataServices.named("grpc://a:5050,grpc://b:5050").addresses`
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        seconds: float = _WAIT_SECONDS,
        lost: Callable[[str], None] = logging.error,
    ):
        self.addresses = addresses
        self.seconds = seconds
        self.lost = lost

    @classmethod
    def named(cls, flag: str, lost: Callable[[str], None] = logging.error) -> DataServices:
        """The services of `--data_service`, with the wait that `ZOO_DATA_SERVICE_SECONDS` sets.

        Raises:
            ConfigError: not "grpc://host:port", or one twice; no number of seconds.
        """
        found = [_ADDRESS.fullmatch(part.strip()) for part in flag.split(",")]
        if not all(found) or any(int(f[1].rpartition(":")[2]) > 65535 for f in found):
            raise ConfigError(
                f"--data_service={flag}: write grpc://host:port, several with commas between"
            )
        addresses = tuple(match[1] for match in found)
        if len(set(addresses)) < len(addresses):
            raise ConfigError(f"--data_service={flag}: has an address twice")
        text = os.environ.get(WAIT_VARIABLE, str(_WAIT_SECONDS))
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise ConfigError(f"{WAIT_VARIABLE}={text}: must be a number of seconds above 0")
        return cls(addresses, seconds, lost)

    def wait(self) -> None:
        """Returns when every service answers and has its worker.

        Raises:
            DataServiceLost: one does not in time; the message names it. ConfigError: one has
                several workers.
        """
        until = time.monotonic() + self.seconds
        for address in self.addresses:
            while problem := _problem(address):
                if time.monotonic() > until:
                    raise DataServiceLost(
                        f"--data_service: {problem}, after {self.seconds:.0f} s. Start it: "
                        f"`python -m trainers.data_service`, which prints its address; another "
                        f"time to wait: the environment variable {WAIT_VARIABLE}"
                    )
                time.sleep(_PAUSE_SECONDS)
        logging.info("batches come from %d tf.data service(s)", len(self.addresses))

    def batches(
        self, make: Callable[[int, int], tf.data.Dataset], start_step: int, stop_step: int
    ) -> tf.data.Dataset:
        """Batches of the steps from `start_step` to `stop_step`, made by the services.

        Args:
            make: `(first step, stride)` to a dataset of every stride-th step's batch, up to
                `stop_step`. It is made elsewhere: no Python functions, no tables, and files have
                the same paths there.

        Returns:
            Dataset of what `make` gives, with every step. Iterating it raises tf.errors.OpError,
            which `told` explains. Every iterator begins at `start_step`.
        """
        service, stride, parts = tf.data.experimental.service, len(self.addresses), []
        for place, address in enumerate(self.addresses):
            first = start_step + place
            steps = tf.data.Dataset.range(first, stop_step, stride)
            numbered = tf.data.Dataset.zip(steps, make(first, stride))
            distributed = service.distribute(
                service.ShardingPolicy.OFF,
                f"grpc://{address}",
                max_outstanding_requests=_AHEAD,
                compression=None,
            )
            # Not asked whether there is more: a service tells that it is done some time later.
            parts.append(numbered.apply(distributed).take(len(range(first, stop_step, stride))))
        steps = tf.data.Dataset.range(start_step, stop_step)
        turns = steps.map(lambda step: (step - start_step) % stride)
        read = tf.data.Dataset.choose_from_datasets(parts, turns)

        def checked(expected, numbered):
            step, batch = numbered
            same = tf.debugging.Assert(step == expected, [_OTHER_STEP, expected, step])
            with tf.control_dependencies([same]):
                return tf.nest.map_structure(tf.identity, batch)

        return fixed_schedule(tf.data.Dataset.zip(steps, read).map(plain(checked)))

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Around reading: looks after the services, and explains what TensorFlow says of them.

        Raises:
            DataServiceLost: a service was started anew, or could not give a batch.
        """
        stop = threading.Event()
        watch = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        watch.start()
        try:
            yield
        except tf.errors.OpError as error:
            if _OTHER_STEP not in error.message and not _GONE.search(error.message):
                raise
            raise DataServiceLost(
                f"--data_service={','.join(self.addresses)}: a service was started anew, or "
                f"could not make a batch ({error.message.splitlines()[0]}). The same command goes "
                "on from the last checkpoint"
            ) from error
        finally:
            stop.set()
            watch.join()

    def _watch(self, stop: threading.Event) -> None:
        answered = dict.fromkeys(self.addresses, time.monotonic())
        while not stop.wait(min(_ASK_SECONDS, self.seconds / 2)):
            for address in self.addresses:
                problem = _problem(address, stop)
                silent = time.monotonic() - answered[address]
                if problem and silent > self.seconds and not stop.is_set():
                    self.lost(
                        f"--data_service: {problem}, for {silent:.0f} s. The same command goes on "
                        "from the last checkpoint"
                    )
                if not problem or silent > self.seconds:
                    answered[address] = time.monotonic()


def _problem(address: str, stop: threading.Event | None = None) -> str:
    """What keeps a service from making batches; "" if it can.

    Raises:
        ConfigError: it has several workers.
    """
    import grpc  # Here: most runs have no service, and some processes fork.

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/tensorflow.data.DispatcherService/GetWorkers")
        try:
            answer = ask(b"", timeout=_ASK_SECONDS)
        except grpc.RpcError as error:
            return f"no tf.data dispatcher answers at {address} ({error.code().name.lower()})"
    # On the wire both are `repeated bytes = 1`: the workers, and the address in each of them.
    workers = tf.train.BytesList.FromString(answer).value
    if len(workers) > 1 and stop is None:
        names = (tf.train.BytesList.FromString(each).value[0].decode() for each in workers)
        raise ConfigError(
            f"--data_service: the dispatcher at {address} has {len(workers)} workers "
            f"({', '.join(names)}), whose batches come in no fixed order. Give each a dispatcher "
            "of its own (`python -m trainers.data_service` is both) and name them all: "
            "--data_service=grpc://a:5050,grpc://b:5050"
        )
    return "" if workers else f"the tf.data dispatcher at {address} has no worker"
