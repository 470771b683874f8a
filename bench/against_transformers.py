"""Generated packages against transformers on the same weights: ``python -m bench.against_transformers``.

One thread, float32, small widths (8 layers, width 512, 16 experts of which 4 are active, 512 tokens), so that what is
done between matrix products shows; ``tiny_v4`` has those of the twin that ``archc build --tiny`` makes of DeepSeek-V4
Flash (7 layers, width 128), where nothing else does. Packages run as PyTorch runs their ops, and as C++ (built with
functions fused, ``ARCHC_KERNELS=cpp``). The contenders take turns within one process, round after round; times are
those of the processor, so that what else the machine does counts little, and a ratio is that of medians. Each prefills
and decodes in the mode of its own ``generate``: inference mode here, without gradients in transformers. transformers
runs with each implementation of its experts that works on a CPU at these sizes; ratios are to the faster one. Where
attention is sparse, 8192 tokens show it: a prefill of so many, and decoding after them, in one round after a shorter
warm-up, since transformers takes most of a minute for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import transformers

from archc import build
from archc.importers import load_config

TOKENS, DECODED, LONG = 512, 16, 8192
KERNELS = ("reference", "cpp")
"""What packages run with: ``ARCHC_KERNELS``."""
EXPERTS = ("grouped_mm", "eager")
"""Implementations of experts in transformers: the one it chooses for itself, and the loop over experts."""

SIZES: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 2 * LONG,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "intermediate_size": 1024,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "num_experts": 16,
        "norm_topk_prob": True,
    },
    "deepseek_v3": {
        "intermediate_size": 1024,
        "num_key_value_heads": 8,
        "q_lora_rank": 192,
        "kv_lora_rank": 128,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": 64,
        "n_routed_experts": 16,
        "n_shared_experts": 1,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
    },
    # Window, ratios, streams, hash layers and passes of Sinkhorn are those of V4-Flash: they decide how many operations
    # a token needs. Widths and heads shrink with the rest; picks so that at 512 tokens most entries are picked, and at
    # 8192 (2048 entries) one in 32, where the full model picks one in four: gathering shows.
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "head_dim": 64,
        "partial_rotary_factor": 0.25,
        "q_lora_rank": 192,
        "o_groups": 2,
        "o_lora_rank": 128,
        "n_routed_experts": 16,
        "layer_types": ["sliding_attention"] * 2 + ["compressed_sparse_attention", "heavily_compressed_attention"] * 3,
        "mlp_layer_types": ["hash_moe"] * 3 + ["moe"] * 5,
        "index_n_heads": 8,
        "index_head_dim": 32,
        "index_topk": 64,
    },
    "tiny_v4": {
        "model_type": "deepseek_v4",
        "vocab_size": 512,
        "hidden_size": 128,
        "moe_intermediate_size": 64,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "partial_rotary_factor": 0.5,
        "q_lora_rank": 48,
        "o_groups": 2,
        "o_lora_rank": 32,
        "n_routed_experts": 8,
        "sliding_window": 16,
        "layer_types": [
            *["sliding_attention"] * 2,
            *["compressed_sparse_attention", "heavily_compressed_attention"] * 2,
            "compressed_sparse_attention",
        ],
        "mlp_layer_types": ["hash_moe"] * 3 + ["moe"] * 4,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_n_heads": 4,
        "index_head_dim": 24,
        "index_topk": 6,
    },
}
GOALS = {
    "qwen3_moe": {"prefill": 1.2, "decode": 1.5, "train": 1.1},
    "deepseek_v3": {"prefill": 1.2, "decode": 2.0, "train": 1.1},
    "deepseek_v4": {"prefill": 1.3, "decode": 2.0, "train": 1.2, "prefill 8k": 4.0, "decode 8k": 2.0},
    "tiny_v4": {"prefill": 2.0, "decode": 4.0, "train": 1.5},
}
"""How many times as fast as transformers a package is meant to be."""


class Contender:
    """A model with what the workloads need: ``kernels`` that it runs with, and the mode that it generates in."""

    def __init__(
        self,
        model: torch.nn.Module,
        ids: torch.Tensor,
        cached: Callable[[torch.Tensor, Any], Any],
        mode: Callable[[], AbstractContextManager[Any]] = torch.no_grad,
        kernels: str = "auto",
    ) -> None:
        self.model, self.ids, self._cached, self._mode, self.kernels = model, ids, cached, mode, kernels
        self.cache: Any = None

    def run(self, workload: str) -> None:
        """One of the following."""
        os.environ["ARCHC_KERNELS"] = self.kernels
        getattr(self, workload)()

    def prefill(self) -> None:
        """All tokens into an empty cache."""
        self.model.eval()
        with self._mode():
            self.cache = self._cached(self.ids, None)

    def decode(self) -> None:
        """The tokens after them, one by one."""
        with self._mode():
            for _ in range(DECODED):
                self.cache = self._cached(self.ids[:, :1], self.cache)

    def train(self) -> None:
        """Forward and backward of a loss."""
        self.model.train()
        self.model(self.ids, labels=self.ids).loss.backward()
        self.model.zero_grad()


def ours(folder: Path, ids: torch.Tensor, kernels: str) -> Contender:
    """The package of a checkpoint; with functions fused for C++."""
    imported = load_config(folder / "config.json", name=f"bench_{folder.name}_{kernels}")
    path = build(imported.model, folder, fuse="layers" if kernels == "cpp" else "none")
    spec = importlib.util.spec_from_file_location(
        path.name, path / "__init__.py", submodule_search_locations=[str(path)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[path.name] = package
    spec.loader.exec_module(package)
    model = package.Model()
    package.load_weights(model, folder)

    def cached(tokens: torch.Tensor, cache: Any) -> Any:
        cache = model.new_cache(1, tokens.shape[1] + DECODED) if cache is None else cache
        model(tokens, cache=cache)
        return cache

    return Contender(model, ids, cached, torch.inference_mode, kernels)


def theirs(folder: Path, experts: str, ids: torch.Tensor) -> Contender:
    """The same checkpoint in transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, experts_implementation=experts)

    def cached(tokens: torch.Tensor, cache: Any) -> Any:
        return model(tokens, past_key_values=cache, use_cache=True).past_key_values

    return Contender(model, ids, cached)


def checkpoint(name: str, folder: Path) -> None:
    """Writes a model of transformers with random weights."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**{"model_type": name} | SIZES | CONFIGS[name])
    model = transformers.AutoModelForCausalLM.from_config(config)
    for key, table in model.named_buffers():
        if key.endswith("tid2eid"):  # by which tokens are routed; all zero until a checkpoint fills it
            table.copy_(torch.rand(len(table), config.n_routed_experts).argsort(-1)[:, : table.shape[1]])
    model.save_pretrained(folder)


def compare(name: str, rounds: int) -> list[tuple[str, dict[str, float]]]:
    """(workload, seconds of each contender), medians over interleaved rounds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        checkpoint(name, folder)
        ids = torch.randint((SIZES | CONFIGS[name])["vocab_size"], (1, TOKENS))
        contenders = {k: ours(folder, ids, k) for k in KERNELS} | {e: theirs(folder, e, ids) for e in EXPERTS}
        agree(contenders, CONFIGS[name].get("index_topk", TOKENS) * 4)
        spent = take_turns(contenders, ("prefill", "decode", "train"), rounds)
        if "prefill 8k" in GOALS[name]:
            del contenders[EXPERTS[1]]  # the slower one, which has shown what it can
            long = torch.randint(SIZES["vocab_size"], (1, LONG))
            for contender in contenders.values():
                contender.ids = long
            spent |= {(f"{w} 8k", c): t for (w, c), t in take_turns(contenders, ("prefill", "decode"), 1).items()}
    return [(w, {c: statistics.median(t) for (v, c), t in spent.items() if v == w}) for w in GOALS[name]]


def take_turns(
    contenders: dict[str, Contender], workloads: tuple[str, ...], rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each workload and contender, round after round; of several rounds the first warms up."""
    spent: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + (rounds > 1)):
        for label, contender in contenders.items():
            for workload in workloads:
                started = time.process_time()
                contender.run(workload)
                if turn or rounds == 1:
                    spent.setdefault((workload, label), []).append(time.process_time() - started)
    return spent


@torch.no_grad()
def agree(contenders: dict[str, Contender], tokens: int) -> None:
    """Raises AssertionError unless all give the same logits: only equal work is compared.

    Of the first tokens, which see no more entries than they pick: index scores of exactly zero are many, and which of
    equal ones is picked then, transformers leaves to the length of the row.
    """
    logits = []
    for contender in contenders.values():
        os.environ["ARCHC_KERNELS"] = contender.kernels
        logits.append(contender.model.eval()(contender.ids).logits[:, :tokens])
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-3, atol=1e-3)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description="Generated packages against transformers on the same weights.")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--models", nargs="+", choices=list(GOALS), default=list(GOALS), help="which models")
    arguments = parser.parse_args()
    rounds: int = arguments.rounds
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"one thread, float32, {TOKENS} tokens, median of {rounds} interleaved rounds, milliseconds\n")
    heads = [("archc", 9), ("in C++", 9), *((f"tf {e}", 15) for e in EXPERTS), ("ratio", 8), ("in C++", 8), ("aim", 6)]
    print(f"{'model':<12}{'workload':<12}" + "".join(f"{head:>{width}}" for head, width in heads))
    for name in arguments.models:
        for workload, spent in compare(name, rounds):
            per = DECODED if "decode" in workload else 1
            best = min(spent[e] for e in EXPERTS if e in spent)
            cells = [f"{1e3 * spent[c] / per:.1f}" if c in spent else "-" for c in (*KERNELS, *EXPERTS)]
            cells += [*(f"{best / spent[k]:.2f}" for k in KERNELS), f"{GOALS[name][workload]:.1f}"]
            row = "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, heads, strict=True))
            print(f"{name:<12}{workload:<12}{row}", flush=True)


if __name__ == "__main__":
    main()
