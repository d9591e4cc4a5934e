"""Records what transformers answers with a decoder: logits of texts, and greedy continuations.

Needs torch and transformers. The folder is one that `Bundle.save_huggingface` wrote; the slow
tests compare with what is recorded.

    python tools/record_decoder.py FOLDER TEXTS.json ANSWERS.npz
"""

import json
import sys

import numpy as np
import torch
import transformers


def main(folder: str, texts: str, answers: str) -> None:
    """Writes an .npz: `ids_N`, `logits_N` of each of "score", `greedy_N` of each of "continue"."""
    with open(texts, encoding="utf-8") as file:
        asked = json.load(file)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {}
    with torch.no_grad():
        for index, text in enumerate(asked["score"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"][: asked["tokens"]]
            found[f"ids_{index}"] = np.int32(ids)
            found[f"logits_{index}"] = model(torch.tensor([ids])).logits[0].numpy()
        for index, text in enumerate(asked["continue"]):
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            made = model.generate(ids, max_new_tokens=asked["new_tokens"], do_sample=False)
            found[f"greedy_{index}"] = made[0, ids.shape[1] :].numpy().astype("int32")
    np.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
