"""`--help_config`: every key that --set takes, with what it means."""

import json

from trainers.config import with_overrides
from trainers.config_help import config_keys, describe_keys
from trainers.recipes.registry import find_recipe


def test_every_key_has_a_meaning():
    assert [key for key, (_, meaning) in config_keys().items() if len(meaning) < 5] == []


def test_keys_are_those_that_set_takes():
    config = find_recipe("polarity_bert")
    for key, (default, _) in config_keys().items():
        if default in ("True", "False"):
            # Raises where the key is unknown.
            with_overrides(config, [f"{key}={json.dumps(getattr_path(config, key))}"])
    assert "data.limits.row_bytes = 16777216" in describe_keys()


def getattr_path(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config
