"""The examples run as they stand, but for the size of the model."""

import functools
import importlib.util
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).resolve().parent.parent


def load_example(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.tensorflow_only
def test_fit_and_export(tmp_path, capsys, monkeypatch):
    tiny = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "context_length": 16}
    monkeypatch.setattr(zoo, "build", functools.partial(zoo.build, **tiny))
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200, encoding="utf-8")
    load_example("fit_and_export").main(str(text), str(tmp_path / "served"), steps=3)
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    assert "the quick brown fox" in capsys.readouterr().out


def test_fit_and_export_is_short():
    lines = (ROOT / "examples" / "fit_and_export.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
