"""What every request has: a time limit, and a status code and a message when it fails."""

import logging
import re
import time
import traceback

import grpc
import tensorflow as tf

LOG = logging.getLogger("export.server")
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# How TensorFlow's file systems end a message, where its code is lost.
_FILE_ERRORS = {
    "; No such file or directory": grpc.StatusCode.NOT_FOUND,
    "; Permission denied": grpc.StatusCode.PERMISSION_DENIED,
    "; Is a directory": grpc.StatusCode.FAILED_PRECONDITION,
}
# gRPC says of a call without a deadline that hundreds of years are left.
_FOREVER_SECONDS = 1e9
# Line ends of Unicode, too; not the tab.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class ServingError(Exception):
    """A request, or a load, that ends with a status code and a message for the client."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code, self.message = code, message

    @classmethod
    def from_tensorflow(cls, error: tf.errors.OpError | UnicodeDecodeError) -> "ServingError":
        """Keeps the code and message of an error that a graph raised."""
        if isinstance(error, tf.errors.OpError):
            return cls(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message)
        # TensorFlow's Python layer loses the code of a text that is not UTF-8. Such texts quote a
        # request, which is at fault, or the name of a file.
        text = bytes(error.object).decode("utf-8", "replace")
        for end, code in _FILE_ERRORS.items():
            if text.split("\n")[0].endswith(end):
                return cls(code, text)
        return invalid(text)


def invalid(message: str) -> ServingError:
    """The error for a request, or a configuration, that is at fault."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def timed_out() -> ServingError:
    """The error for what took too long, in TensorFlow's words."""
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")


def unexpected(what: str) -> ServingError:
    """Logs the exception that is being handled; the client learns nothing of it."""
    text = traceback.format_exc().encode("utf-8", "backslashreplace").decode()
    LOG.error("%s: %s", what, text)
    return ServingError(grpc.StatusCode.INTERNAL, "the request failed inside the server")


class RequestClock:
    """How long a request may take, no limit by None, and how long the graph has run for it."""

    def __init__(self, seconds: float | None = None):
        self.begin, self.run_seconds = time.monotonic(), 0.0
        endless = seconds is None or seconds > _FOREVER_SECONDS
        self._end = None if endless else self.begin + seconds

    def remaining(self) -> float | None:
        """Seconds until the deadline, negative when it is over; None when there is none."""
        return None if self._end is None else self._end - time.monotonic()

    def check(self) -> None:
        """Raises ServingError, DEADLINE_EXCEEDED, when the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            raise timed_out()


class OneLine(logging.Filter):
    """Escapes control characters in log messages: clients choose names that are logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record; keeps all."""
        message = record.getMessage()
        record.msg = _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), message)
        record.args = ()
        return True


LOG.addFilter(OneLine())  # for servers inside other programs, too
