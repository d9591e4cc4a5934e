"""A character LSTM in PyTorch, in our own words: what `train_lstm` compares with.

`torch.nn.LSTM` between an embedding and a linear layer, trained as `torch_gpt` trains.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from benchmarks.torch_gpt import LEARNING_RATE, TorchRun, mean_loss

# Not searched for at this budget: look at others before the losses are published.
PEAK_RATE = 4e-3


class TorchLSTM(nn.Module):
    """Token ids (B, T) to logits (B, T, V).

    Args:
        vocabulary_size, layers, width: int.
        tied: bool, whether the logits are products with the embedding, and each gate has one bias:
            our model. Else `nn.Linear` and PyTorch's own initial weights: what is usual there.
    """

    def __init__(self, vocabulary_size: int, layers: int, width: int, tied: bool):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = None if tied else nn.Linear(width, vocabulary_size)
        if tied:
            nn.init.normal_(self.tokens.weight, std=0.05)
            for layer in range(layers):
                second = getattr(self.lstm, f"bias_hh_l{layer}")
                nn.init.zeros_(second)
                second.requires_grad_(False)

    def forward(self, ids):
        """(B, T) int64 to (B, T, V)."""
        return self.read(ids)[0]

    def read(self, ids, state=None):
        """Logits, and the state after the last token."""
        hidden, state = self.lstm(self.tokens(ids), state)
        logits = hidden @ self.tokens.weight.T if self.head is None else self.head(hidden)
        return logits, state


class TorchLSTMRun(TorchRun):
    """A training run of windows in random order, each from the zero state; AdamW.

    Args: as for TorchRun.
    """

    def _rate(self) -> float:
        return super()._rate() * PEAK_RATE / LEARNING_RATE

    def evaluate_carried(self, batches: Iterable) -> float:
        """`evaluate` on batches that go on where the one before ended, with the state carried."""
        state = None

        def go_on(ids):
            nonlocal state
            logits, state = self.model.read(ids, state)
            return logits

        return mean_loss(go_on, batches)
