"""Every architecture of transformers that is read: the same numbers, and the same file written."""

import json

import numpy as np
import pytest
from huggingface_cases import FIXTURES, NAMES, answer, copy_model, expected, model_inputs, task_of

import zoo
from zoo.config import to_dict
from zoo.loading import outline
from zoo.weights.safetensors_files import WeightFiles

# What a masked language model has no use for, so that it is not in a file that is written.
LEFT_OUT = ("bert.pooler.", "cls.seq_relationship.", "albert.pooler.", "sop_classifier.")


@pytest.fixture(scope="module", params=NAMES)
def loaded(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, zoo.load(copy_model(request.param, folder))


def test_outputs_are_those_of_transformers(loaded):
    name, bundle = loaded
    arrays, model = expected(name), bundle.model
    real = arrays["attention_mask"].astype(bool)
    assert bundle.config.task == model.task == task_of(name)
    task, config = outline(bundle.folder)
    told, built = to_dict(config), to_dict(model.backbone.config)
    # A pooler is what the tensors alone say.
    assert task == model.task and {k for k in built if told[k] != built[k]} <= {"use_pooler"}
    outputs = answer(model, arrays)
    if outputs.shape[-1] > 100:
        outputs = outputs[..., ::8]  # the fixture has every eighth
    found = {"logits": outputs, "prediction_logits": outputs}
    if model.task == "span":
        found |= {"start_logits": outputs[..., 0], "end_logits": outputs[..., 1]}
    if "last_hidden_state" in arrays:
        lm = model.task == "lm"
        ids = arrays["input_ids"]
        hidden = model.backbone(ids) if lm else model.encode(model_inputs(arrays), False)
        found["last_hidden_state"] = np.asarray(hidden)
        if "pooler_output" in arrays:
            found["pooler_output"] = np.asarray(model.backbone.pool(hidden))
    inputs = {"input_ids", "attention_mask", "token_type_ids"}
    compared = arrays.keys() - inputs
    assert compared
    for key in compared:
        rows = real if found[key].shape[:2] == real.shape else ...
        np.testing.assert_allclose(found[key][rows], arrays[key][rows], rtol=0, atol=1e-4)


def test_the_file_written_is_the_file_read(loaded, tmp_path):
    name, bundle = loaded
    folder = bundle.save_huggingface(tmp_path / "saved")
    assert folder == tmp_path / "saved"
    ours, theirs = WeightFiles(folder), WeightFiles(FIXTURES / name)
    dropped = LEFT_OUT if bundle.config.task == "mlm" else ()
    wanted = [tensor for tensor in theirs.names() if not tensor.startswith(dropped)]
    prefix = "transformer." if name == "gpt2_model" else ""
    assert ours.names() == [prefix + tensor for tensor in wanted]
    config = json.loads((folder / "config.json").read_text())
    for tensor in wanted:
        value = theirs.read(tensor)
        if config["model_type"].endswith("roberta") and "position_embeddings" in tensor:
            value[:2] = 0  # rows that no token uses
        np.testing.assert_array_equal(ours.read(prefix + tensor), value, err_msg=tensor)
    original = json.loads((FIXTURES / name / "config.json").read_text())
    same = {"albert_pretraining": "AlbertForMaskedLM"}
    same |= {"bert_pretraining": "BertForMaskedLM", "gpt2_model": "GPT2LMHeadModel"}
    assert config["architectures"] == [same.get(name, original["architectures"][0])]
    not_told = {"architectures", "classifier_dropout", "seq_classif_dropout", "qa_dropout"}
    # What transformers 4 has in place of "rope_parameters" and "layer_types".
    not_told |= {"global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"}
    not_told |= {"classifier_dropout_prob", "cls_dropout"}
    not_told |= {"id2label", "label2id", "problem_type", "pad_token_id", "bos_token_id"}
    if bundle.config.task not in ("classify", "regress"):
        not_told.add("classifier_pooling")
    for field in set(config) - not_told - {"eos_token_id"}:
        assert config[field] == original[field], field
