"""Serves models. The flags are those of tensorflow_model_server; `--help` lists them.

python -m export.server --model_name=writer --model_base_path=/models/writer --port=8500
python -m export.server --model_config_file=/models/models.config --rest_api_port=8501
"""

import os
import sys

# Keras, which TensorFlow brings along, imports these where it finds them, to plot and to wrap: near
# half of the time to start, and 200 MB. It does without where they cannot be imported.
_UNUSED = ("IPython", "jax", "matplotlib", "narwhals", "pandas", "scipy", "sklearn")

if __name__ == "__main__":
    for name in _UNUSED:
        sys.modules.setdefault(name, None)
    # The user's Keras backend may be JAX. Sessions are TensorFlow's, whatever Keras runs on.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from absl import logging

    from export.server.program import main

    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    main(sys.argv, __doc__)
