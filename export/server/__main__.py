"""Serves models. The flags are those of tensorflow_model_server; `--help` lists them.

python -m export.server --model_name=writer --model_base_path=/models/writer --port=8500
python -m export.server --model_config_file=/models/models.config --rest_api_port=8501
"""

import sys

if __name__ == "__main__":
    from export import leave_out_unused
    from zoo.output import outlive_readers, quiet_imports

    outlive_readers()
    leave_out_unused()
    from absl import logging

    with quiet_imports():
        from export.server.program import main

    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    main(sys.argv, __doc__)
