"""Weights in safetensors files: read one by one, written whole, refused when damaged."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import zoo
from zoo.weights.assign import assign_weights, backbone_weights, model_weights
from zoo.weights.safetensors_files import WeightFiles, write_weights

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


@given(
    values=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=4,
    ),
    dtype=st.sampled_from(FLOATS),
)
def test_what_is_written_is_read(values, dtype, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with np.errstate(over="ignore", invalid="ignore"):
        values = {name: value.astype(dtype) for name, value in values.items()}
    values.pop("__metadata__", None)
    write_weights(folder, values.items())
    weights = WeightFiles(folder)
    assert weights.names() == sorted(values)
    for name, value in values.items():
        assert weights.shape(name) == value.shape
        read = weights.read(name)
        assert read.dtype == np.float32
        with np.errstate(over="ignore", invalid="ignore"):
            np.testing.assert_array_equal(read, value.astype(np.float32))


def sharded(folder, **files):
    """Files of tensors, and the index of them."""
    for file, tensors in files.items():
        path = write_weights(folder, tensors.items())
        os.rename(path, folder / f"{file}.safetensors")
    index = {name: f"{file}.safetensors" for file, tensors in files.items() for name in tensors}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 8}, "weight_map": index}))
    return path


ONE, TWO = {"a": np.ones(2, np.float32)}, {"b": np.zeros((1, 2), np.float32)}


def test_several_files_with_an_index(tmp_path):
    index = sharded(tmp_path, first=ONE, second=TWO)
    for path in (tmp_path, index):
        weights = WeightFiles(path)
        assert weights.names() == ["a", "b"]
        assert weights.path == index
        np.testing.assert_array_equal(weights.read("b"), TWO["b"])
    weights = WeightFiles(tmp_path / "first.safetensors")
    assert weights.names() == ["a"]


def refused(path, *parts):
    with pytest.raises(zoo.BundleError) as error:
        WeightFiles(path)
    for part in parts:
        assert str(part) in str(error.value)


def test_parts_that_are_missing_or_empty(tmp_path):
    index = sharded(tmp_path, first=ONE, second=TWO)
    second = tmp_path / "second.safetensors"
    os.replace(write_weights(tmp_path, ONE.items()), second)
    refused(tmp_path, second, "no tensor 'b'", "model.safetensors.index.json says")
    second.unlink()
    refused(tmp_path, second, "no such file")
    for content in ("{}", "["):
        index.write_text(content)
        refused(tmp_path, index, "not ")
    for content in ('{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../x"}}'):
        index.write_text(content)
        refused(tmp_path, index, "not an index of weights")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:4],
        lambda data: b"",
        lambda data: b"\xff" * 64,
        lambda data: data[:8] + b"?" + data[9:],
        lambda data: data + b"more",
    ],
)
def test_damaged_files(damage, tmp_path):
    path = write_weights(tmp_path, ONE.items())
    path.write_bytes(damage(path.read_bytes()))
    refused(tmp_path, path, "not a whole safetensors file")
    refused(path, path, "not a whole safetensors file")


def test_a_file_that_changes_under_the_reader(tmp_path):
    path = write_weights(tmp_path, ONE.items())
    weights = WeightFiles(tmp_path)
    write_weights(tmp_path, TWO.items())
    with pytest.raises(zoo.BundleError, match="tensor 'a' cannot be read"):
        weights.read("a")
    write_weights(tmp_path, [("a", np.ones(3, np.float32))])
    with pytest.raises(zoo.BundleError, match="was replaced while it was read"):
        weights.read("a")
    path.unlink()
    with pytest.raises(zoo.BundleError, match="no such file"):
        weights.read("a")


def test_what_is_not_read(tmp_path):
    refused(tmp_path, tmp_path, "no model.safetensors and no model.safetensors.index.json")
    refused(tmp_path / "gone.safetensors", "gone.safetensors: no such file")
    for name, reason in (
        ("pytorch_model.bin", "runs whatever code"),
        ("model.ckpt", "runs its author's code"),
        ("tf_model.h5", "HDF5"),
    ):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, name, reason, "save_pretrained")
    refused(tmp_path, "model.ckpt", "only safetensors files are read")
    write_weights(tmp_path, [("steps", np.arange(3))])
    with pytest.raises(zoo.BundleError, match=r"tensor 'steps' has dtype I64; read are BF16, F16"):
        WeightFiles(tmp_path).read("steps")
    with pytest.raises(zoo.BundleError, match="no tensor 'other'"):
        WeightFiles(tmp_path).shape("other")


def test_writing_that_fails_leaves_the_old_file(tmp_path):
    path = write_weights(tmp_path, ONE.items())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="two tensors are named 'a'"):
        write_weights(tmp_path, [*ONE.items(), *ONE.items()])
    with pytest.raises((TypeError, OSError, ValueError)):
        write_weights(tmp_path, [("a", np.array([object()]))])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def small():
    """A model with a weight of the head's own, one of its layers and a backbone's."""
    return zoo.build("bert_tiny", "mlm", vocabulary_size=9, hidden_dim=4, num_layers=1)


def test_every_variable_gets_its_value():
    model, other = small(), small()
    sources = {
        name: lambda value=weight: np.asarray(value.value) + 1
        for name, weight in model_weights(other).items()
    }
    assert len(sources) == len(model.weights)
    assert set(backbone_weights(model.backbone)) < set(sources)
    assert {"output_bias", "transform/kernel", "block_0/attention/qkv/kernel"} < set(sources)
    assign_weights(model, sources, where="here")
    for mine, theirs in zip(model.weights, other.weights):
        np.testing.assert_array_equal(mine, np.asarray(theirs.value) + 1)


def test_large_values_are_assigned_whole(monkeypatch):
    monkeypatch.setattr("zoo.weights.assign._SLICE_BYTES", 40)
    model = small()
    draw = np.random.default_rng(0)
    values = {name: draw.normal(size=w.shape) for name, w in model_weights(model).items()}
    sources = {name: lambda value=value: value for name, value in values.items()}
    assign_weights(model, sources, where="here")
    for name, weight in model_weights(model).items():
        np.testing.assert_array_equal(weight, values[name].astype("float32"), err_msg=name)


def test_values_that_do_not_fit():
    model = small()
    sources = {
        name: lambda value=weight: np.asarray(value.value)
        for name, weight in model_weights(model).items()
    }
    kernel = sources.pop("transform/kernel")
    with pytest.raises(zoo.BundleError, match=r"here: .*transform/kernel is missing there"):
        assign_weights(model, sources, where="here")
    sources |= {"transform/kernel": kernel, "song": kernel}
    with pytest.raises(zoo.BundleError, match="this model has no song"):
        assign_weights(model, sources, where="here")
    del sources["song"]
    sources["output_bias"] = lambda: np.zeros(8)
    with pytest.raises(zoo.BundleError, match=r"output_bias is \(8,\) there and \(9,\) here"):
        assign_weights(model, sources, where="here")
