"""What the hardware is, and what it decides: precision, and whether XLA compiles the step."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from zoo.config import ConfigError

# NVIDIA GPUs from this compute capability on (Ampere) multiply bfloat16 in their tensor cores.
_BFLOAT16_CAPABILITY = (8, 0)
# Character devices of TPU chips on TPU VMs: v2 to v4, and v5e on.
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def hardware() -> str:
    """ "cpu", "gpu" or "tpu": the best kind of device that the Keras backend sees."""
    if keras.backend.backend() == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    kind = keras.distribution.list_devices()[0].split(":")[0]
    return {"cuda": "gpu", "rocm": "gpu", "tpu_system": "tpu"}.get(kind, kind)


def device_names() -> list[str]:
    """What the accelerators call themselves, as far as the backend says it."""
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices()]
    return [details.get("device_name", "") for details in _gpu_details()]


def peak_device_memory() -> int | None:
    """Bytes of the first accelerator; None without one, or where the backend does not count."""
    if keras.backend.backend() == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    has_gpu = keras.backend.backend() == "tensorflow" and tf.config.list_logical_devices("GPU")
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] if has_gpu else None


def _gpu_details() -> list[dict]:
    """What TensorFlow knows of each GPU."""
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def precision_policy(precision: str, kind: str) -> str:
    """The Keras dtype policy for `config.precision`; "auto" takes bfloat16 where it is fast."""
    if precision != "auto":
        return precision
    fast = kind == "tpu" or (kind == "gpu" and _gpu_multiplies_bfloat16())
    return "mixed_bfloat16" if fast else "float32"


def _gpu_multiplies_bfloat16() -> bool:
    if keras.backend.backend() == "jax":
        import jax

        capability = getattr(jax.devices()[0], "compute_capability", "0.0")
        return tuple(int(part) for part in str(capability).split(".")) >= _BFLOAT16_CAPABILITY
    capabilities = [details.get("compute_capability", (0, 0)) for details in _gpu_details()]
    return min(capabilities, default=(0, 0)) >= _BFLOAT16_CAPABILITY


def compiles(jit_compile: bool) -> bool:
    """Whether XLA compiles the training step: on a CPU as the recipe says, for it does not always
    pay; always off TensorFlow, where "not compiled" means one operation at a time: seconds a
    step.
    """
    return jit_compile or keras.backend.backend() != "tensorflow" or hardware() != "cpu"


def tpu_is_there(environ: Mapping[str, str]) -> bool:
    """Whether this machine looks like one with a TPU that TensorFlow can use."""
    if "COLAB_TPU_ADDR" in environ or environ.get("TPU_NAME"):
        return True
    has_driver = importlib.util.find_spec("libtpu") is not None
    return has_driver and any(Path(device).exists() for device in _TPU_DEVICES)


def tpu_address(environ: Mapping[str, str]) -> str:
    """What `TPUClusterResolver` takes: old Colab's address, a node's name; TPU VMs are "local"."""
    if environ.get("COLAB_TPU_ADDR"):
        return "grpc://" + environ["COLAB_TPU_ADDR"].removeprefix("grpc://")
    return environ.get("TPU_NAME") or "local"


def connect_tpu(environ: Mapping[str, str]) -> tf.distribute.Strategy:
    """TPUStrategy on all cores; ConfigError, which says what to try, where there is no TPU."""
    address = tpu_address(environ)
    try:
        if address == "local" and importlib.util.find_spec("libtpu") is None:
            raise RuntimeError("the TPU driver, package libtpu, is not installed")
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        seen = ", ".join(path for path in _TPU_DEVICES if Path(path).exists()) or "none"
        raise ConfigError(
            f"--strategy=tpu: no TPU that TensorFlow {tf.__version__} can use "
            f"({type(error).__name__}: {str(error).splitlines()[0]}; TPU devices of this machine: "
            f"{seen}). The tensorflow package from PyPI comes without TPU support: use the "
            "TensorFlow that the TPU machine brings (package tensorflow-tpu, with libtpu). Or "
            "train on JAX, which newer TPUs need: pip install 'jax[tpu]', then KERAS_BACKEND=jax "
            "python -m trainers --strategy=data_parallel. In a notebook choose a TPU runtime "
            "first; a TPU node is named by the environment variable TPU_NAME"
        ) from error
