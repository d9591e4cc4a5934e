"""What the hardware decides: precision, and whether XLA compiles the training step."""

from __future__ import annotations

import keras
import tensorflow as tf

# NVIDIA GPUs from this compute capability on (Ampere) multiply bfloat16 in their tensor cores.
_BFLOAT16_CAPABILITY = (8, 0)


def hardware() -> str:
    """ "cpu", "gpu" or "tpu": the best kind of device that the Keras backend sees."""
    if keras.backend.backend() == "jax":
        import jax

        platform = jax.devices()[0].platform
        return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)
    if keras.backend.backend() == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    return next((kind.lower() for kind in ("TPU", "GPU") if kind in kinds), "cpu")


def precision_policy(precision: str, kind: str) -> str:
    """The Keras dtype policy that `config.precision` stands for.

    "auto" is "mixed_bfloat16" on TPUs and on GPUs that multiply it fast, else "float32".
    """
    if precision != "auto":
        return precision
    fast = kind == "tpu" or (kind == "gpu" and _gpu_multiplies_bfloat16())
    return "mixed_bfloat16" if fast else "float32"


def compiles(jit_compile: bool) -> bool:
    """Whether XLA compiles the training step.

    As the recipe says on a CPU, where compiling pays for some models and not for others; always
    on GPUs and TPUs; always off TensorFlow, where "not compiled" means one operation at a time:
    seconds a step.
    """
    return jit_compile or keras.backend.backend() != "tensorflow" or hardware() != "cpu"


def _gpu_multiplies_bfloat16() -> bool:
    if keras.backend.backend() == "jax":
        import jax

        capability = getattr(jax.devices()[0], "compute_capability", "0.0")
        return tuple(int(part) for part in str(capability).split(".")) >= _BFLOAT16_CAPABILITY
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus
    ]
    return bool(gpus) and min(capabilities) >= _BFLOAT16_CAPABILITY
