"""How a request, or a load, ends when it fails: a status code and a message."""

import traceback

import grpc
import tensorflow as tf
from absl import logging

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request, or a load, that ends with a status code and a message for the client.

    Example:
        >>> raise ServingError(grpc.StatusCode.NOT_FOUND, "Servable not found")
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    @classmethod
    def from_tensorflow(cls, error: tf.errors.OpError | UnicodeDecodeError) -> "ServingError":
        """Keeps the code and message of an error that a graph raised.

        TensorFlow's Python layer fails on an error text with bytes that are no UTF-8, and loses the
        code. Texts that quote such bytes quote a request, and tell of a fault in it.
        """
        if isinstance(error, UnicodeDecodeError):
            text = bytes(error.object).decode("utf-8", "replace")
            return cls(grpc.StatusCode.INVALID_ARGUMENT, text)
        return cls(_CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message)


def unexpected(what: str) -> ServingError:
    """Logs the exception that is being handled; its client is told nothing of it.

    It is logged as the text of one message, so that the log's filter escapes what clients sent.
    """
    text = traceback.format_exc().encode("utf-8", "backslashreplace").decode()
    logging.error("%s: %s", what, text)
    return ServingError(grpc.StatusCode.INTERNAL, "the request failed inside the server")
