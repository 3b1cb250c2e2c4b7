"""Draws of torch without touching its global generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Let torch draw from a seed in the block, and put its generators back as they were."""
    device = torch.device(device)
    with torch.random.fork_rng(
        devices=[] if device.type == "cpu" else [device],
        device_type="cuda" if device.type == "cpu" else device.type,
    ):
        torch.manual_seed(seed)
        yield
