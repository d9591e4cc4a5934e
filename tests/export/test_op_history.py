"""How the history of ops is made of wheels: what changed from one release to the next."""

import json

import pytest

from export.closure.history import HISTORY_FILE
from tools import op_history
from tools.op_history import Release, changes, main, read_release

OLD = Release(
    {"tensorflow": "2.1.0", "tensorflow_text": "2.1.0", "graph_def_version": 10},
    {
        "Add": {"T": frozenset({"DT_FLOAT"}), "old": None},
        "Gone": {},
        "Slow": {"T": None},
    },
    {"Slow", "Gone"},
)
NEW = Release(
    {"tensorflow": "2.2.0", "tensorflow_text": "2.1.0", "graph_def_version": 11},
    {
        "Add": {"T": frozenset({"DT_FLOAT", "DT_HALF"}), "policy": None},
        "Fresh": {"T": None},
        "Slow": {"T": None},
    },
    {"Fresh"},
)


def test_changes_from_one_release_to_the_next():
    first = changes(None, OLD)
    assert first["added"] == ["Add", "Gone", "Slow"]
    assert first["without_cpu_kernel"] == ["Gone", "Slow"]
    assert (first["attributes_added"], first["values_added"]) == ({}, {})
    assert changes(OLD, NEW) == {
        "tensorflow": "2.2.0",
        "tensorflow_text": "2.1.0",
        "graph_def_version": 11,
        "added": ["Fresh"],
        "removed": ["Gone"],
        "without_cpu_kernel": ["Fresh"],
        "with_cpu_kernel": ["Slow"],
        "attributes_added": {"Add": ["policy"]},
        "attributes_removed": {"Add": ["old"]},
        "values_added": {"Add": {"T": ["DT_HALF"]}},
        "values_removed": {},
    }


def test_a_change_that_the_file_cannot_say_is_refused():
    free = Release(NEW.versions, {**NEW.attributes, "Add": {"T": None}}, set())
    with pytest.raises(ValueError, match=r"Add\.T became, or is no longer, free"):
        changes(OLD, free)


def test_folders_without_wheels_and_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path}: cannot be read: .*libtensorflow"):
        read_release(tmp_path, tmp_path)
    for argument in ("2.22", "2.22=/a", "new=/a,/b", "2.22=,/b"):
        with pytest.raises(SystemExit, match="not NUMBER=SITE,TEXT_SITE"):
            main([argument])
    with pytest.raises(SystemExit, match="op_history"):
        main([])


def test_the_file_is_written_whole_and_in_the_order_given(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(op_history, "HISTORY_FILE", tmp_path / "history.json")
    releases = {"/a": OLD, "/b": NEW}
    monkeypatch.setattr(op_history, "read_release", lambda site, _: releases[str(site)])
    main(["2.1=/a,/t", "2.2=/b,/t"])
    history = json.loads((tmp_path / "history.json").read_text())
    assert [*history] == ["2.1", "2.2"]
    assert history["2.2"] == changes(OLD, NEW)
    assert capsys.readouterr().out == "2.1: 3 ops\n2.2: 3 ops\n"
    assert "2.16" in json.loads(HISTORY_FILE.read_text())  # the real one is untouched
