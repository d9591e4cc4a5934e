"""nanoGPT's model and training recipe in PyTorch, in our own words: what `train_gpt` compares with.

GPT-2's block (Radford et al., 2019) with learned positions, tied embeddings and no biases; AdamW
that decays matrices only; warm-up, cosine, clipping by the global norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LEARNING_RATE, LEAST_RATE, WARMUP_STEPS = 1e-3, 1e-4, 100


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.contract = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        """(B, T, D) to (B, T, D)."""
        rows, length, width = x.shape
        split = (rows, length, self.heads, width // self.heads)
        parts = self.qkv(self.attention_norm(x)).split(width, dim=2)
        query, key, value = (part.view(split).transpose(1, 2) for part in parts)  # (B, H, T, D/H)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.contract(functional.gelu(self.expand(self.mlp_norm(x))))


class TorchGPT(nn.Module):
    """Token ids (B, T) to logits (B, T, V)."""

    def __init__(self, vocabulary_size: int, length: int, layers: int, heads: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.final_norm = nn.LayerNorm(width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("output.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if writes else 0.02)

    def forward(self, ids):
        """(B, T) int64 to (B, T, V)."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x) @ self.tokens.weight.T


class TorchRun:
    """A training run of nanoGPT's CPU recipe.

    Args:
        model: TorchGPT. ids: (N,) the training tokens. steps: int, of the whole run.
        rows, length: of a batch.
        compiled: whether `torch.compile` makes the forward and backward passes.
        fused: whether AdamW runs as one kernel; nanoGPT asks for that on GPUs only.
    """

    def __init__(
        self,
        model: TorchGPT,
        ids: np.ndarray,
        steps: int,
        rows: int = 12,
        length: int = 64,
        compiled: bool = False,
        fused: bool = False,
    ):
        self.ids, self.steps, self.rows, self.length = ids, steps, rows, length
        self.step = 0
        self.model = torch.compile(model) if compiled else model
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=fused or None
        )
        self.random = np.random.default_rng(0)

    def train(self, steps: int) -> float:
        """Does some steps; returns the last loss."""
        for _ in range(steps):
            starts = self.random.integers(0, len(self.ids) - self.length - 1, self.rows)
            windows = torch.from_numpy(
                np.stack([self.ids[s : s + self.length + 1] for s in starts]).astype(np.int64)
            )
            loss = self.step_on(windows)
        return loss.item()

    def update(self, windows) -> float:
        """One step on windows (B, T + 1); returns its loss."""
        return self.step_on(windows).item()

    def step_on(self, windows):
        """One step, whose loss stays on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss = self._loss(windows)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss

    def _loss(self, windows):
        logits = self.model(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def _rate(self) -> float:
        if self.step < WARMUP_STEPS:
            return LEARNING_RATE * (self.step + 1) / WARMUP_STEPS  # as `WarmupDecay`
        progress = (self.step - WARMUP_STEPS) / (self.steps - WARMUP_STEPS)
        return LEAST_RATE + (LEARNING_RATE - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress))

    def evaluate(self, batches: Iterable) -> float:
        """`mean_loss` of the model."""
        return mean_loss(self.model, batches)


@torch.no_grad()
def mean_loss(model: Callable, batches: Iterable) -> float:
    """Mean loss over the targets of weight above 0 of `(inputs, targets, weights)` batches.

    Args:
        model: ids (B, T) int64 -> logits (B, T, V); it is asked batch after batch.
    """
    total, count = 0.0, 0
    for inputs, targets, weights in batches:
        logits = model(torch.from_numpy(inputs.astype(np.int64)))
        losses = functional.cross_entropy(
            logits.flatten(0, 1),
            torch.from_numpy(targets.astype(np.int64)).flatten(),
            reduction="none",
        )
        real = torch.from_numpy(weights > 0).flatten()
        total += float(losses[real].sum())
        count += int(real.sum())
    return total / count
