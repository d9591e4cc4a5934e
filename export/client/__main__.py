"""Sends a request to a server, the embedded one or TensorFlow Serving, and prints the response.

python -m export.client --server=localhost:8500 --model=writer --text="Once upon" \
    --set=max_new_tokens=64
python -m export.client --model=reader --set=question="Who?" --set=context="Ada wrote it."
"""

from absl import app, flags

from export.client import command
from zoo.output import outlive_readers

if __name__ == "__main__":
    outlive_readers()
    command.define_flags()
    flags.adopt_module_key_flags(command)  # --help shows the flags of the main module
    app.run(command.main)
