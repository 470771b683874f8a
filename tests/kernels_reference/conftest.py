"""Settings of these tests: the first example of a property pays for torch's warm-up, so no deadline."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("references", deadline=None, max_examples=100)
settings.load_profile("references")
