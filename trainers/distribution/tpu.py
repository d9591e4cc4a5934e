"""TPUs on the TensorFlow backend: where they are, and what to try where there are none."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from zoo.config import ConfigError

# Character devices of TPU chips on TPU VMs: v2 to v4, and v5e on.
_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def tpu_is_there(environ: Mapping[str, str]) -> bool:
    """Whether this machine looks like one with a TPU that TensorFlow can use."""
    if "COLAB_TPU_ADDR" in environ or environ.get("TPU_NAME"):
        return True
    has_driver = importlib.util.find_spec("libtpu") is not None
    return has_driver and any(Path(device).exists() for device in _DEVICES)


def resolver_address(environ: Mapping[str, str]) -> str:
    """What `TPUClusterResolver` takes as `tpu`: the old Colab gives an address, a TPU node has a
    name; on TPU VMs, which today's Colab and Kaggle run on, the chips are "local"."""
    if environ.get("COLAB_TPU_ADDR"):
        return "grpc://" + environ["COLAB_TPU_ADDR"].removeprefix("grpc://")
    return environ.get("TPU_NAME") or "local"


def connect_tpu(environ: Mapping[str, str]) -> tf.distribute.Strategy:
    """TPUStrategy on all cores; ConfigError, which says what to try, where there is no TPU."""
    address = resolver_address(environ)
    if address == "local" and importlib.util.find_spec("libtpu") is None:
        raise _absent("the TPU driver, package libtpu, is not installed")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise _absent(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _absent(reason: str) -> ConfigError:
    seen = ", ".join(path for path in _DEVICES if Path(path).exists()) or "none"
    return ConfigError(
        f"--strategy=tpu: no TPU that TensorFlow {tf.__version__} can use ({reason}; TPU devices "
        f"of this machine: {seen}). The tensorflow package from PyPI comes without TPU support: "
        "use the TensorFlow that the TPU machine brings (package tensorflow-tpu, with libtpu). Or "
        "train on JAX, which newer TPUs need: pip install 'jax[tpu]', then "
        "KERAS_BACKEND=jax python -m trainers --strategy=data_parallel. In a notebook choose a "
        "TPU runtime first; a TPU node is named by the environment variable TPU_NAME"
    )
