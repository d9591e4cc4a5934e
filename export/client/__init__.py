"""A client of TensorFlow Serving, ours or the official one, that needs no TensorFlow."""

from export.client.client import AsyncClient, Client, Tls
from export.client.responses import (
    Answer,
    Classification,
    Prediction,
    Regression,
    RequestError,
    Signature,
    TensorInfo,
    VersionStatus,
)

__all__ = [
    "Answer",
    "AsyncClient",
    "Classification",
    "Client",
    "Prediction",
    "Regression",
    "RequestError",
    "Signature",
    "TensorInfo",
    "Tls",
    "VersionStatus",
]
