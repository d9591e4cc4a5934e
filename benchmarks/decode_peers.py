"""One GPT-2 of random weights in several engines: transformers, KerasHub and our SavedModel.

`write_gpt2` writes the weights once, in the layout of Hugging Face; everybody reads that folder.
Each peer is a function of nothing that returns the new token ids of one greedy request, ours
returns the text.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np

Generator = Callable[[], list[int]]


def gpt2_tokenizer():
    """GPT-2's own byte pairs from $ZOO_DATA, else some learned from the standard library."""
    from zoo.tokenizers import BytePairTokenizer

    folder = os.environ.get("ZOO_DATA")
    if folder:
        files = [Path(folder, "tok_gpt2", name) for name in ("encoder.json", "vocab.bpe")]
        return BytePairTokenizer.from_files(*files)
    library = Path(sysconfig.get_paths()["stdlib"])
    source = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    return BytePairTokenizer.train(source[:1_000_000].decode("utf-8", "ignore").split("\n"), 8000)


def byte_tokenizer():
    """One id for each byte and one for the end of a text: byte pairs without a merge."""
    from zoo.tokenizers import BytePairTokenizer

    return BytePairTokenizer.train([], 257)


def prompt_of(tokenizer, count: int) -> tuple[bytes, list[int]]:
    """A text of exactly `count` tokens, and their ids."""
    words = "In the beginning there was a small model, and it read every book it could find. "
    ids = tokenizer.encode([words * count]).to_list()[0]
    (text,) = tokenizer.decode([ids[:count]]).numpy()
    if tokenizer.encode([text]).to_list()[0] != ids[:count]:
        raise ValueError(f"no text of {count} tokens: {text!r} is read otherwise")
    return text, ids[:count]


def write_gpt2(folder: Path, tokenizer, **shape: int) -> Path:
    """Writes a GPT-2 with random weights as transformers does, with the tokenizer's files.

    Args:
        folder: created.
        tokenizer: BytePairTokenizer.
        **shape: of `transformers.GPT2Config`; without any it is the one of 124M parameters.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(**{"eos_token_id": tokenizer.end_id, **shape})
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        # Without trained weights the residual stream is the embedding, and a model says the last
        # token again and again: larger steps in between make the continuations differ.
        for block in model.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                projection.weight.mul_(_LARGER)
        # What the tokenizer has no text for is never the likeliest.
        model.transformer.wte.weight[tokenizer.vocabulary_size :] = 0
    model.save_pretrained(folder)
    tokenizer.write_files(folder)
    return folder


_LARGER = 20.0


def transformers_generator(
    folder: Path, ids: list[int], count: int, dtype: str = "float32"
) -> Generator:
    """`generate` of transformers with its cache, on one thread."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None  # all engines write `count` tokens
    model.generation_config.pad_token_id = 0
    prompt = torch.tensor([ids])
    mask = torch.ones_like(prompt)

    def generate() -> list[int]:
        with torch.inference_mode():
            tokens = model.generate(
                prompt, attention_mask=mask, max_new_tokens=count, do_sample=False, use_cache=True
            )
        return tokens[0, len(ids) :].tolist()

    return generate


def keras_hub_generator(folder: Path) -> Callable[[list[int], int], list[int]]:
    """KerasHub's `generate`: a function of a prompt's ids and the length of prompt and answer.

    It is compiled with XLA only on request and is faster without, so without.
    """
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone.from_preset(str(folder))
    model = keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy", jit_compile=False)

    def generate(ids: list[int], length: int) -> list[int]:
        token_ids = np.zeros((1, length), "int32")
        token_ids[0, : len(ids)] = ids
        inputs = {"token_ids": token_ids, "padding_mask": np.arange(length)[None] < len(ids)}
        outputs = model.generate(inputs, stop_token_ids=None)
        return np.asarray(outputs["token_ids"])[0, len(ids) :].tolist()

    return generate


def served_generator(version: Path, text: bytes, count: int) -> Callable[[], bytes]:
    """A request to our SavedModel, text in and text out: the new text."""
    from export.golden.replay import ask_servable
    from export.server.run.servable import Servable

    servable = Servable("decode", 1, str(version))
    inputs = {"text": np.array([text], object), "max_new_tokens": np.array([count], "int32")}
    return lambda: ask_servable(servable, "generate", inputs)["completion"][0]
