"""A Keras user's script: `fit` a zoo model on a text file and serve it, without `trainers`.

    python -m examples.fit_and_export my.txt served/mine [STEPS]

Then: python -m export.server --model_base_path=$PWD/served/mine
"""

import sys
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

import zoo
from export.saved_model import export_saved_model


def main(text_file: str, model_folder: str, steps: int = 1000) -> None:
    """Trains a character GPT on `text_file` and writes it to `model_folder`/1."""
    text = Path(text_file).read_text(encoding="utf-8")
    tokenizer = zoo.CharacterTokenizer.train([text])
    ids = tokenizer.encode([text]).flat_values

    model = zoo.build("gpt_char_cpu", vocabulary_size=tokenizer.vocabulary_size)
    length = model.context_length
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread stalls `fit` at the end of an epoch
    dataset = (
        tf.data.Dataset.from_tensor_slices(ids)
        .batch(length + 1, drop_remainder=True)
        .shuffle(10_000)
        .repeat()
        .batch(12)
        .map(lambda window: (window[:, :-1], window[:, 1:]))
        .with_options(options)
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(4e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )
    model.fit(dataset, steps_per_epoch=steps, epochs=1)

    with tempfile.TemporaryDirectory() as folder:
        bundle = zoo.save(folder, model, tokenizer)
        print(export_saved_model(bundle, model_folder))
    print(bundle.lm.generate([text[:20]], max_new_tokens=[100])["text"].numpy()[0].decode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
