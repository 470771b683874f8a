"""Settings of these tests: float64, one thread, no deadline."""

from __future__ import annotations

import torch
from hypothesis import Phase, settings

torch.set_num_threads(1)
settings.register_profile(
    "hard cases", deadline=None, max_examples=25, phases=[p for p in Phase if p.name in ("explicit", "generate")]
)
settings.load_profile("hard cases")
