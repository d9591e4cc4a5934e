"""An embedded server that answers as TensorFlow Serving does, for where that cannot be installed.

From Python:

    with Server([ServedModel("writer", "/models/writer")], port=0) as server:
        print(server.port)

From a shell: python -m export.server --model_name=writer --model_base_path=/models/writer
"""

from export.server.grpc_service import Server
from export.server.manager import Manager
from export.server.models import ServedModel, every_version, latest
from export.server.servable import Servable, ServingError

__all__ = [
    "Manager",
    "Servable",
    "ServedModel",
    "Server",
    "ServingError",
    "every_version",
    "latest",
]
