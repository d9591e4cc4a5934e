"""Makes `tests/zoo/fixtures/decoders`: tiny decoders of transformers and what they answer.

Needs torch and transformers; the tests read what it wrote and need neither.

    python tools/make_decoder_fixtures.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent.parent / "tests" / "zoo" / "fixtures" / "decoders"
# Widths that are all different, so that no matrix fits where another or its transpose belongs.
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
GEMMA = {**GROUPED, "head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 4}
# Name of the fixture -> class of transformers, and its config.
MODELS = {
    "llama": ("Llama", {**GROUPED, "head_dim": 8, "rope_parameters": LLAMA3}),
    "llama_linear": (
        "Llama",
        {
            **SIZES,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": LINEAR,
        },
    ),
    "mistral": ("Mistral", {**GROUPED, "head_dim": 6, "sliding_window": 5}),
    "qwen2": (
        "Qwen2",
        {
            **GROUPED,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 6, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {**GROUPED, "num_hidden_layers": 4}),
    "olmo2": ("Olmo2", {**GROUPED, "rope_parameters": {"rope_theta": 5e5}}),
    "phi3": (
        "Phi3",
        {
            **GROUPED,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
            "sliding_window": 6,
        },
    ),
    "gpt_neox": (
        "GPTNeoX",
        {**SIZES, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ),
    "gemma2": ("Gemma2", {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3_text": (
        "Gemma3",
        {
            **GEMMA,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": LINEAR,
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
}


def main():
    """Writes all fixtures anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, (name, (prefix, options)) in enumerate(MODELS.items()):
        make_model(FOLDER / name, prefix, options, seed)


def make_model(folder: Path, prefix: str, options: dict, seed: int):
    """Saves a model with random weights, its logits, and its config as transformers 4 has it."""
    torch.manual_seed(seed)
    model_class = getattr(transformers, f"{prefix}ForCausalLM")
    config = model_class.config_class(**options, attn_implementation="eager")
    model = model_class(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # As exact as bfloat16 would have it, so that 1 + weight loses nothing.
            random = torch.round(torch.randn_like(weight) * 0.3 * 256) / 256
            centred = "norm" not in name or name.endswith("bias") or prefix.startswith("Gemma")
            weight.copy_(random if centred else 1 + random)
    model.save_pretrained(folder)
    ids = np.random.default_rng(seed).integers(4, 40, (2, 12))
    logits = answer(model_class, folder, ids)
    np.savez_compressed(folder / "expected.npz", token_ids=ids.astype("int32"), logits=logits)
    (folder / "generation_config.json").unlink(missing_ok=True)
    old = config_of_version_4(json.loads((folder / "config.json").read_text()))
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copy(folder / "model.safetensors", temporary)
        (Path(temporary) / "config.json").write_text(json.dumps(old))
        np.testing.assert_array_equal(answer(model_class, temporary, ids), logits)
    (folder / "config_4.json").write_text(json.dumps(old, indent=2) + "\n")


def answer(model_class, folder, ids) -> np.ndarray:
    """The logits of the model in a folder."""
    model = model_class.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def config_of_version_4(config: dict) -> dict:
    """The same config in the fields of transformers 4."""
    old = {**config, "transformers_version": "4.46.0", "torch_dtype": "float32"}
    del old["dtype"]
    rotary = old.pop("rope_parameters")
    if config["model_type"] == "gemma3_text":
        old["rope_local_base_freq"] = rotary["sliding_attention"]["rope_theta"]
        rotary = rotary["full_attention"]
    elif config["model_type"] != "smollm3":
        old.pop("layer_types", None)
    bases = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
    base, fraction = bases.get(config["model_type"], ("rope_theta", "partial_rotary_factor"))
    old[base] = rotary.pop("rope_theta")
    if "partial_rotary_factor" in rotary:
        old[fraction] = rotary.pop("partial_rotary_factor")
    old["rope_scaling"] = None if rotary["rope_type"] == "default" else rotary
    return old


if __name__ == "__main__":
    main()
