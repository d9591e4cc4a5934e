"""Every row of the ablations is a config that trains, and every variant a causal model."""

import json

import keras
import numpy as np
import pytest

from benchmarks import ablations, gpt_variants
from trainers.config import with_overrides
from trainers.recipes.registry import find_recipe
from zoo import presets
from zoo.models import blocks as layers
from zoo.models import gpt, heads
from zoo.models.configs import GPTConfig


@pytest.fixture(autouse=True)
def undo(monkeypatch):
    """Variants change classes for the rest of their process; here for a test."""
    for module, name in (
        (layers, "SelfAttention"),
        (layers, "FeedForward"),
        (layers, "make_dense"),
        (gpt, "GPTBackbone"),
        (heads, "CausalLM"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    for table in (presets.BACKBONES, presets.HEADS):
        for name, kind in table.items():
            monkeypatch.setitem(table, name, kind)


@pytest.mark.parametrize(
    "model, row", [(m, row) for m, rows in ablations.ROWS.items() for row in rows]
)
def test_rows_are_valid_and_keep_the_size(model, row):
    rows = ablations.ROWS[model]
    settings = [s for s in rows[row] if not s.startswith("variant=")]
    for setting in rows[row]:
        if setting.startswith("variant="):
            assert setting.removeprefix("variant=") in gpt_variants.VARIANTS
    recipe = find_recipe(ablations.RECIPES[model])
    usual = presets.build(recipe.model_config(65)).count_params()
    changed = presets.build(with_overrides(recipe, settings).model_config(65))
    assert abs(changed.count_params() / usual - 1) <= 0.05


def test_every_variant_is_a_row():
    used = {s.removeprefix("variant=") for row in ablations.GPT_ROWS.values() for s in row}
    assert set(gpt_variants.VARIANTS) <= used


@pytest.mark.parametrize("name", gpt_variants.VARIANTS)
def test_variants_change_the_model_and_see_only_the_past(name):
    config = GPTConfig(13, 8, num_layers=2, num_heads=2, hidden_dim=8, initializer_range=0.4)
    ids = np.random.default_rng(0).integers(0, 13, (2, 8)).astype("int32")
    keras.utils.set_random_seed(0)
    plain = presets.build(config)
    gpt_variants.VARIANTS[name]()
    keras.utils.set_random_seed(0)
    model = presets.build(config)
    logits = model(ids).numpy()
    changed = ids.copy()
    changed[:, 5:] = (changed[:, 5:] + 1) % 13
    np.testing.assert_allclose(model(changed).numpy()[:, :5], logits[:, :5], atol=1e-6)
    if name == "z_loss":  # of training only
        model(ids, training=True)
        assert float(sum(model.losses)) > 0
    else:
        different_weights = [w.shape for w in model.weights] != [w.shape for w in plain.weights]
        assert different_weights or np.abs(logits - plain(ids).numpy()).max() > 1e-6


def test_measured_rows_are_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BENCH_OUT", str(tmp_path))
    monkeypatch.setenv("ABLATION_SEEDS", "0,1")
    monkeypatch.setenv("ABLATION_STEPS", "5")
    lines = [
        {"row": row, "seed": seed, "steps": 5, "loss": loss + seed, "parameters": 7}
        for row, loss in (("recipe", 1.0), ("GELU", 1.5))
        for seed in (0, 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "ablations_gpt.jsonl").write_text(text)
    ablations.main(["gpt", "recipe", "GELU"])
    assert "| GELU | 7 | 1.5000, 2.5000 | 2.0000 | +0.5000 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no row 'none'"):
        ablations.main(["gpt", "none"])
    with pytest.raises(SystemExit, match="no model 'bert'; models: gpt, lstm"):
        ablations.main(["bert"])
