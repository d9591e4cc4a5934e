"""Every row of the ablations is a config of about the recipe's size."""

import json

import pytest

from benchmarks import ablations
from trainers.config import with_overrides
from trainers.recipes import find_recipe
from zoo.models.build import count_weights


@pytest.mark.parametrize(
    "model, row", [(m, row) for m, rows in ablations.ROWS.items() for row in rows]
)
def test_rows_are_valid_and_keep_the_size(model, row):
    settings = ablations.ROWS[model][row]
    recipe = find_recipe(ablations.RECIPES[model])
    usual = count_weights(recipe.model_config(65))
    changed = count_weights(with_overrides(recipe, settings).model_config(65))
    assert abs(changed / usual - 1) <= 0.05


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
