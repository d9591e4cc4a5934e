"""An embedded server that answers as TensorFlow Serving does, for where that cannot be installed.

From Python:

    with Server([ServedModel("writer", "/models/writer")], port=0) as server:
        print(server.port)

From a shell: python -m export.server --model_name=writer --model_base_path=/models/writer
"""

import importlib

# Imported when first used: `__main__` has something to say before TensorFlow is imported.
_HOMES = {
    "BatchingParameters": "run.batching",
    "Loader": "models.loading",
    "Manager": "models.manager",
    "RestOptions": "rest.options",
    "Retries": "models.manager",
    "Servable": "run.servable",
    "ServedModel": "models.config",
    "Server": "server",
    "ServingError": "status",
    "every_version": "models.config",
    "latest": "models.config",
    "specific": "models.config",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
