"""The Beam pipeline makes what the local job makes; needs apache-beam, see BUILD_NOTES.md."""

import filecmp

import pytest

from trainers.data.config import DataConfig, PrepareConfig
from trainers.data.prepare import job
from trainers.data.prepare.job import prepare
from trainers.data.prepare.shards import open_prepared, verify

pytest.importorskip("apache_beam")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text("\n".join(f"line {number} says {number**2}" for number in range(5000)))
    data = DataConfig(train=str(path), split="lines", tokenizer="bytepair", max_vocabulary_size=300)
    return PrepareConfig(data, shard_mb=0.02, record_tokens=64)


@pytest.mark.parametrize(
    "options",
    [[], ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]],
    ids=["one worker", "two processes"],
)
def test_beam_makes_the_same_shards(tmp_path, config, options):
    expected = prepare(config, tmp_path / "local")
    assert len(expected.shards) > 6
    found = prepare(config, tmp_path / "beam", beam=options)
    assert found == expected
    verify(tmp_path / "beam")
    names = [shard.file for shard in expected.shards]
    same, different, missing = filecmp.cmpfiles(
        tmp_path / "local", tmp_path / "beam", names, shallow=False
    )
    assert sorted(same) == sorted(names) and not different and not missing


def test_beam_goes_on_with_what_a_local_job_left(tmp_path, config, monkeypatch):
    real = job.write_unit

    def fails(folder, plan, tokenizer, number):
        if number == 2:
            raise OSError("no space left")
        return real(folder, plan, tokenizer, number)

    monkeypatch.setattr(job, "write_unit", fails)
    with pytest.raises(OSError, match="no space left"):
        prepare(config, tmp_path / "out")
    made = []
    monkeypatch.setattr(job, "write_unit", lambda *rest: made.append(rest[3]) or real(*rest))
    index = prepare(config, tmp_path / "out", beam=[])
    assert min(made) == 2 and len(made) == max(made) - 1
    assert open_prepared(tmp_path / "out").index == index
    assert prepare(config, tmp_path / "out", beam=[]) == index
