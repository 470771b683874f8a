"""Generated packages against transformers on the same weights: ``python -m bench.against_transformers``.

One thread, float32, small widths (8 layers, width 512, 16 experts of which 4 are active, 512 tokens), so that what is
done between matrix products shows. The contenders take turns within one process, round after round; times are those of
the processor, so that what else the machine does counts little, and a ratio is that of medians. transformers runs with
each implementation of its experts that works on a CPU at these sizes; ratios are to the faster one. Where attention is
sparse, 8192 tokens show it: a prefill of so many, and decoding after them, in one round after a shorter warm-up, since
transformers takes most of a minute for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from archc import build
from archc.importers import load_config

TOKENS, DECODED, LONG = 512, 16, 8192
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
}
GOALS = {
    "qwen3_moe": {"prefill": 1.2, "decode": 1.5, "train": 1.1},
    "deepseek_v3": {"prefill": 1.2, "decode": 2.0, "train": 1.1},
    "deepseek_v4": {"prefill": 1.3, "decode": 2.0, "train": 1.2, "prefill 8k": 4.0, "decode 8k": 2.0},
}
"""How many times as fast as transformers a package is meant to be."""


class Contender:
    """A model with what the workloads need."""

    def __init__(self, model: torch.nn.Module, ids: torch.Tensor, cached: Callable[[torch.Tensor, Any], Any]) -> None:
        self.model, self.ids, self._cached = model, ids, cached
        self.cache: Any = None

    @torch.no_grad()
    def prefill(self) -> None:
        """All tokens into an empty cache."""
        self.model.eval()
        self.cache = self._cached(self.ids, None)

    @torch.no_grad()
    def decode(self) -> None:
        """The tokens after them, one by one."""
        for _ in range(DECODED):
            self.cache = self._cached(self.ids[:, :1], self.cache)

    def train(self) -> None:
        """Forward and backward of a loss."""
        self.model.train()
        self.model(self.ids, labels=self.ids).loss.backward()
        self.model.zero_grad()


def ours(folder: Path, ids: torch.Tensor) -> Contender:
    """The package of a checkpoint."""
    imported = load_config(folder / "config.json", name=f"bench_{folder.name}")
    path = build(imported.model, folder)
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

    return Contender(model, ids, cached)


def theirs(folder: Path, experts: str, ids: torch.Tensor) -> Contender:
    """The same checkpoint in transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, experts_implementation=experts)

    def cached(tokens: torch.Tensor, cache: Any) -> Any:
        return model(tokens, past_key_values=cache, use_cache=True).past_key_values

    return Contender(model, ids, cached)


def checkpoint(name: str, folder: Path) -> None:
    """Writes a model of transformers with random weights."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **SIZES, **CONFIGS[name])
    model = transformers.AutoModelForCausalLM.from_config(config)
    for key, table in model.named_buffers():
        if key.endswith("tid2eid"):  # by which tokens are routed; all zero until a checkpoint fills it
            table.copy_(torch.rand(len(table), config.n_routed_experts).argsort(-1)[:, : table.shape[1]])
    model.save_pretrained(folder)


def compare(name: str, rounds: int) -> list[tuple[str, float, dict[str, float]]]:
    """(workload, our seconds, seconds of each implementation of transformers), medians over interleaved rounds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        checkpoint(name, folder)
        ids = torch.randint(SIZES["vocab_size"], (1, TOKENS))
        contenders = {"archc": ours(folder, ids)} | {e: theirs(folder, e, ids) for e in EXPERTS}
        agree(contenders)
        spent = take_turns(contenders, ("prefill", "decode", "train"), rounds)
        if "prefill 8k" in GOALS[name]:
            del contenders[EXPERTS[1]]  # the slower one, which has shown what it can
            long = torch.randint(SIZES["vocab_size"], (1, LONG))
            for contender in contenders.values():
                contender.ids = long
            spent |= {(f"{w} 8k", c): t for (w, c), t in take_turns(contenders, ("prefill", "decode"), 1).items()}
    median = {key: statistics.median(times) for key, times in spent.items()}
    return [(w, median[w, "archc"], {e: median[w, e] for e in EXPERTS if (w, e) in median}) for w in GOALS[name]]


def take_turns(
    contenders: dict[str, Contender], workloads: tuple[str, ...], rounds: int
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each workload and contender, round after round; of several rounds the first warms up."""
    spent: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + (rounds > 1)):
        for label, contender in contenders.items():
            for workload in workloads:
                started = time.process_time()
                getattr(contender, workload)()
                if turn or rounds == 1:
                    spent.setdefault((workload, label), []).append(time.process_time() - started)
    return spent


@torch.no_grad()
def agree(contenders: dict[str, Contender]) -> None:
    """Raises AssertionError unless all give the same logits: only equal work is compared.

    Of the first half of the tokens, which see no more entries than they pick: index scores of exactly zero are many,
    and which of equal ones is picked then, transformers leaves to the length of the row.
    """
    logits = [c.model.eval()(c.ids).logits[:, : TOKENS // 2] for c in contenders.values()]
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
    columns = "".join(f"{'tf ' + e:>16}" for e in EXPERTS)
    print(f"{'model':<14}{'workload':<12}{'archc':>9}{columns}{'ratio':>8}{'aim':>6}")
    for name in arguments.models:
        for workload, mine, others in compare(name, rounds):
            per = DECODED if "decode" in workload else 1
            shown = "".join(f"{1e3 * others[e] / per:>16.1f}" if e in others else f"{'-':>16}" for e in EXPERTS)
            ratio = min(others.values()) / mine
            aim = GOALS[name][workload]
            print(f"{name:<14}{workload:<12}{1e3 * mine / per:>9.1f}{shown}{ratio:>8.2f}{aim:>6.1f}", flush=True)


if __name__ == "__main__":
    main()
