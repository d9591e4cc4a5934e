"""Training on windows that hold several documents."""

import dataclasses

import numpy as np
import pytest

import zoo
from trainers.loop import train
from trainers.tasks import make_task
from trainers.tasks.lm import PackedDocuments
from zoo.config import ConfigError


@pytest.fixture
def masked(tiny, tmp_path):
    """A config for a corpus of short documents."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(f"document {number} of many.")

    def config(**options):
        one = tiny("gpt", **options)
        data = dataclasses.replace(
            one.data, train=str(folder), tokenizer="byte", document_mask=True, start_text=""
        )
        return dataclasses.replace(one, data=data)

    return config


def test_a_window_reads_as_its_documents_alone(masked):
    task = make_task(masked(model={"hidden_dim": 8, "num_heads": 2, "context_length": 32}))
    assert isinstance(task.trained_model, PackedDocuments)
    end = task.tokenizer.end_id
    windows, _ = next(iter(task.training_data(0)))
    row = next(row for row in windows.numpy() if (row[1:-1] == end).any())
    together = task.trained_model(row[None]).numpy()[0]
    starts = [0, *np.flatnonzero(row == end)[np.flatnonzero(row == end) > 0]]
    parts = [row[a:b] for a, b in zip(starts, [*starts[1:], len(row)])]
    assert len(parts) > 1
    alone = np.concatenate([task.model(part[None]).numpy()[0] for part in parts])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_trains_and_its_bundle_is_a_plain_model(masked, tmp_path):
    bundle = train(masked(sample_prompts=(), jit_compile=True, steps=10), tmp_path / "run")
    assert type(bundle.model) is zoo.CausalLM
    assert zoo.load(tmp_path / "run").lm.generate(["document"])["text"].shape == (1,)


def test_where_it_cannot_be(tiny, masked):
    with pytest.raises(ConfigError, match=r"data\.document_mask is for task lm with a GPT"):
        one = tiny("lstm")
        dataclasses.replace(one, data=dataclasses.replace(one.data, document_mask=True))
