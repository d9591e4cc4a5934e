"""An embedded server that answers as TensorFlow Serving does, for where that cannot be installed.

From Python:

    with Server([ServedModel("writer", "/models/writer")], port=0) as server:
        print(server.port)

From a shell: python -m export.server --model_name=writer --model_base_path=/models/writer
"""

from export.server.batching import BatchingParameters
from export.server.loading import Loader
from export.server.manager import Manager
from export.server.models import ServedModel, every_version, latest, specific
from export.server.servable import Servable, ServingError
from export.server.server import RestOptions, Server
from export.server.versions import Retries

__all__ = [
    "BatchingParameters",
    "Loader",
    "Manager",
    "RestOptions",
    "Retries",
    "Servable",
    "ServedModel",
    "Server",
    "ServingError",
    "every_version",
    "latest",
    "specific",
]
