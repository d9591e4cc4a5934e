"""Text to a vector."""

from __future__ import annotations

from zoo.text.batches import Outputs, at_least_one, rows_of, run, string_function
from zoo.text.encoder import TextEncoder
from zoo.text.packing import truncate


class TextEmbedder(TextEncoder):
    """Vectors of texts, alike where the texts mean alike.

    Signature `embed`: `text` [B] to `embedding` [B, D] float32, of length 1 if the model
    normalises. Of a text longer than `config.max_length` the beginning is read.

    Example: `TextEmbedder(tokenizer, model).embed(["good"])["embedding"]`
    """

    def make_functions(self):
        return {"embed": string_function(self._embed, "text")}

    def embed(self, text) -> Outputs:
        """Embeds strings [B]."""
        return run(self.functions["embed"], text)

    def _embed(self, text):
        given, text = text, at_least_one(text)
        ids = self.tokenizer.encode(self.clean(text))
        packed = self.pack(truncate(ids, self.config.window_size()))
        return rows_of(given, {"embedding": self.forward(packed)})
