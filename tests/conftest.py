"""Test settings: quiet TensorFlow, hypothesis without deadlines, test folders importable."""

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
from hypothesis import settings

# Shared test material (tests/zoo/model_cases.py) is imported by plain name.
sys.path.insert(0, str(Path(__file__).parent / "zoo"))

# A busy machine is no failure: no time is asserted anywhere. `make test` draws the same inputs at
# every run, so that it fails for a change and not for its luck; `make fuzz` draws new ones.
settings.register_profile("zoo", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=200, print_blob=True)
settings.load_profile(os.environ.get("ZOO_HYPOTHESIS", "zoo"))


@pytest.fixture
def eager_functions():
    """For tests of answers and not of graphs: tracing a text model's function takes seconds.

    Not for many texts: a tokenizer's loops are slower than its graph.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def pytest_collection_modifyitems(items):
    """Tests marked `tensorflow_only` need graph functions; the JAX pass leaves them out."""
    if keras.backend.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason="needs the TensorFlow backend")
    for item in items:
        if item.get_closest_marker("tensorflow_only"):
            item.add_marker(skip)


def pytest_collection_finish():
    """Leave TensorFlow's million objects out of every later `gc.collect`, which took 0.8 s each."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # tracing makes objects by the million that stay


@pytest.fixture(autouse=True, scope="module")
def freeze_what_the_module_left():
    """A worker's heap grows by graphs: Keras' own `gc.collect` took 4 s near the end of a run."""
    yield
    gc.freeze()
