"""A folder to a servable that has answered its warm-up requests."""

import dataclasses

import grpc
from tensorflow.core.protobuf import config_pb2

from export.server.models.warmup import warm_up
from export.server.run.batching import BatchingParameters, parameters_of_model
from export.server.run.servable import Servable, ServingError


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loads versions, all in one way.

    Args:
        batching: BatchingParameters | None. How requests are batched; None runs each by itself.
        per_model_batching: bool. Whether `batching_params.pbtxt` in a version's folder says how
            that version is batched; without such a file it is not batched, as in TensorFlow
            Serving. Used only with `batching`.
        warm_up_iterations: int. How often each warm-up request is run; 0 for none.
        tags: Tags of the MetaGraph to load.
        tensor_content: bool. Whether Predict answers with `tensor_content`, which is quicker to
            read and write, rather than with the typed fields.
        compiles: bool. Whether graphs that only XLA can run are run; TensorFlow Serving refuses
            them, unless it is told otherwise.
        max_generated_tokens: int. The most that one Predict may generate, rows times the largest
            `max_new_tokens`, where the signature has that input; 0 for no limit.
        session_config: ConfigProto | None. Threads and more of each version's session.

    Example:
        >>> servable, records = Loader().load("half_plus_two", 1, "/models/half_plus_two/1")
    """

    batching: BatchingParameters | None = None
    per_model_batching: bool = False
    warm_up_iterations: int = 1
    tags: tuple[str, ...] = ("serve",)
    tensor_content: bool = False
    compiles: bool = False
    max_generated_tokens: int = 2**18
    session_config: config_pb2.ConfigProto | None = None

    def load(self, name: str, number: int, path: str) -> tuple[Servable, int]:
        """Loads one version and warms it up.

        Returns:
            The servable, and the number of its warm-up requests.

        Raises:
            ServingError: the folder holds no SavedModel that this process can run, its batching
                parameters are wrong, or a warm-up request fails.
        """
        batching = self.batching
        if batching is not None and self.per_model_batching:
            batching = parameters_of_model(path, batching)
        servable = None
        try:
            servable = Servable(
                name,
                number,
                path,
                batching=batching,
                tags=self.tags,
                session_config=self.session_config,
            )
            servable.tensor_content = self.tensor_content
            servable.compiles = self.compiles
            servable.max_generated_tokens = self.max_generated_tokens
            return servable, warm_up(servable, self.warm_up_iterations)
        except Exception as error:
            if servable is not None:
                servable.close()
            if isinstance(error, ServingError):
                raise
            # Whatever a damaged file may make the loader raise.
            raise ServingError(grpc.StatusCode.UNKNOWN, str(error)) from error
