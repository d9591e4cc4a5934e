"""The arithmetic of `benchmarks.cost_growth`, and that its points can be measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost_growth import exponent, series

ROOT = Path(__file__).resolve().parents[2]


@given(
    power=st.floats(-3, 3),
    factor=st.floats(1e-3, 1e3),
    values=st.lists(st.integers(1, 10**9), min_size=4, max_size=9, unique=True),
)
def test_the_exponent_of_a_power_law_is_its_power(power, factor, values):
    values = sorted(values)
    assert exponent(values, [factor * value**power for value in values]) == pytest.approx(
        power, abs=1e-5
    )


def test_only_the_largest_half_counts():
    assert exponent([1, 2, 4, 8], [7, 7, 16, 64]) == pytest.approx(2)


def test_one_thing_grows_in_each_series():
    for one in series():
        assert len(one.values) == len(one.points) and one.values == sorted(one.values)
        same = {(point.kind, point.vocabulary) for point in one.points}
        assert len(same) == 1 or one.grows == "vocabulary"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "decode"])
def test_a_point_is_measured(kind):
    point = {"kind": kind, "layers": 1, "width": 64, "length": 16, "batch": 2, "vocabulary": 32}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost_point", json.dumps(point)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cost = json.loads(done.stdout.splitlines()[-1])
    assert cost["parameters"] == 12 * 64**2 + 32 * 64 + 2 * 32 + 3 * 64
    assert cost["wall"] > 0 and cost["memory"] >= 0  # so small a model may fit in what was free
