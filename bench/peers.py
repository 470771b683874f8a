"""The same questions to `archc cost` and to other programs: ``python -m bench.peers``.

Runs what is installed (transformers; llmviz from the package index) and what lies in the folders that are named
(``--megatron``, ``--llm-viewer``: clones), and prints the tables of docs/peers.md. ``--write`` stores the answers
beside that page and the tables in it; ``--read`` takes the answers from there. Models are at full size, without
weights. It takes some ten minutes on one core, most of it for the gradients of DeepSeek-V4 in transformers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import archc
from archc.cost.count import count
from archc.cost.setting import Parallel, Setting
from archc.plan import plan
from bench import peer_programs
from tests.importers.configs import PUBLISHED

PAGE = Path(__file__).resolve().parents[1] / "docs" / "peers.md"
FIGURES = PAGE.parent / "figures" / "peers.json"
BEGIN = "<!-- written by bench/peers.py -->\n"
END = "<!-- end of what is written -->\n"

MODELS = {
    "llama_3_1_8b": "Llama-3.1-8B",
    "qwen3_235b_a22b": "Qwen3-235B-A22B",
    "deepseek_v3": "DeepSeek-V3",
    "deepseek_v4_flash": "DeepSeek-V4-Flash",
}
QUESTIONS = {
    "parameters": "Parameters, without multi-token prediction",
    "active": "Parameters that a token uses, embedding and head included",
    "cache": "Bytes that a token adds to a bfloat16 cache, between 2,048 and 4,096 tokens",
    "prefill": "Forward FLOPs of a token, mean of a prefill of 4,096",
    "decode": "Forward FLOPs of decoding token 4,096",
    "train": "FLOPs of a token in training at 4,096, forward and backward",
    "state": "Bytes of a device for weights, gradients and AdamW: 2 + 4 a parameter, and 12 over its replicas (ZeRO-1)",
}
SOURCES = {
    ("parameters", "llama_3_1_8b"): "8B",
    ("parameters", "qwen3_235b_a22b"): "235B",
    ("parameters", "deepseek_v3"): "671B",
    ("parameters", "deepseek_v4_flash"): "284B",
    ("active", "qwen3_235b_a22b"): "22B",
    ("cache", "deepseek_v3"): "70.272 KB",
    ("train", "deepseek_v3"): "250 G",
}
"""Published answers to the questions as they are asked here; sources in docs/cost.md, Published figures."""

PLAIN, CAREFUL = "FlopCounterMode", "FlopCounterMode, with care"
LLMVIZ, LLM_VIEWER, MEGATRON = "llmviz", "LLM-Viewer", "Megatron-LM"

PLANS = {"llama_3_1_8b": "fsdp=8", "qwen3_235b_a22b": "fsdp=256,ep=32", "deepseek_v3": "fsdp=2048,ep=64"}
"""Plans of the last question, as `archc cost --parallel` has them."""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "llama_3_1_8b": {
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 14336,
        "num_attention_heads": 32,
        "kv_channels": 128,
        "group_query_attention": True,
        "num_query_groups": 8,
        "padded_vocab_size": 128256,
        "world_size": 8,
        "data_parallel_size": 8,
    },
    "qwen3_235b_a22b": {
        "num_layers": 94,
        "hidden_size": 4096,
        "ffn_hidden_size": 12288,
        "num_attention_heads": 64,
        "kv_channels": 128,
        "group_query_attention": True,
        "num_query_groups": 4,
        "num_experts": 128,
        "moe_ffn_hidden_size": 1536,
        "moe_router_topk": 8,
        "padded_vocab_size": 151936,
        "world_size": 256,
        "data_parallel_size": 256,
        "expert_model_parallel_size": 32,
    },
    "deepseek_v3": {
        "num_layers": 61,
        "hidden_size": 7168,
        "ffn_hidden_size": 18432,
        "num_attention_heads": 128,
        "kv_channels": 128,
        "multi_latent_attention": True,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_head_dim": 128,
        "qk_pos_emb_head_dim": 64,
        "v_head_dim": 128,
        "num_experts": 256,
        "moe_layer_freq": [0] * 3 + [1] * 58,
        "moe_ffn_hidden_size": 2048,
        "moe_shared_expert_intermediate_size": 2048,
        "moe_router_topk": 8,
        "padded_vocab_size": 129280,
        "world_size": 2048,
        "data_parallel_size": 2048,
        "expert_model_parallel_size": 64,
    },
}
"""Models in Megatron-LM's arguments; it has none for DeepSeek-V4's attention."""


def ours(model: str) -> dict[str, tuple[float, float]]:
    """archc's answers, ideal and executed; where there is no such difference both are the same."""
    spec = archc.load(model)
    train = archc.cost(spec, mode="train", seq=peer_programs.SEQ)
    prefill = archc.cost(spec, mode="prefill", seq=peer_programs.SEQ)
    decode = archc.cost(spec, mode="decode", context=peer_programs.SEQ)

    def both(x: float) -> tuple[float, float]:
        return x, x

    answers = {
        "parameters": both(train.params.total),
        "active": both(train.params.active),
        "cache": both(decode.kv_cache.bytes_per_token),
        "prefill": (prefill.flops.ideal.forward_per_token, prefill.flops.executed.forward_per_token),
        "decode": (decode.flops.ideal.forward_per_token, decode.flops.executed.forward_per_token),
        "train": (train.flops.ideal.train_per_token, train.flops.executed.train_per_token),
    }
    if model in PLANS:
        answers["state"] = both(state(model))
    return answers


def state(model: str) -> int:
    """Bytes of weights, gradients and optimizer of the fullest device, in bfloat16 with AdamW, without MTP."""
    spec = archc.load(model, set={"precision": "bf16", "optimizer": "adamw", "mtp": "none"})
    setting = Setting(parallel=Parallel.parse(PLANS[model]), zero=1)
    rows = setting.parallel.fsdp
    held = count(spec, plan(spec), mode="train", batch=rows, seq=peer_programs.SEQ, setting=setting).memory
    assert held is not None
    return sum(held.per_device[part] for part in ("weights", "gradients", "optimizer"))


def asked(megatron: Path | None, llm_viewer: Path | None) -> dict[str, Any]:
    """Every program's answers by model and question; what it says where it has none."""
    data: dict[str, Any] = {"versions": _versions(megatron, llm_viewer), "answers": {}, "refused": {}}
    for name, shown in MODELS.items():
        config = PUBLISHED[name]
        programs: dict[str, Any] = {
            PLAIN: lambda config=config: peer_programs.transformers(config, careful=False),
            CAREFUL: lambda config=config: peer_programs.transformers(config, careful=True),
            LLMVIZ: lambda config=config: peer_programs.llmviz(config),
        }
        if llm_viewer:
            programs[LLM_VIEWER] = lambda c=config, n=shown: peer_programs.llm_viewer(llm_viewer, n, c)
        if megatron and name in ARGUMENTS:
            programs[MEGATRON] = lambda n=name: peer_programs.megatron(megatron, ARGUMENTS[n])
        for program, run in programs.items():
            print(f"{shown}: {program}", flush=True)
            try:
                data["answers"].setdefault(program, {})[name] = run()
            except (ImportError, RuntimeError) as error:
                data["refused"].setdefault(program, {})[name] = str(error)
    return data


def _versions(megatron: Path | None, llm_viewer: Path | None) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    try:
        found["llmviz"] = importlib.metadata.version("llmviz")
    except importlib.metadata.PackageNotFoundError:
        found["llmviz"] = "not installed"
    for name, folder in ((MEGATRON, megatron), (LLM_VIEWER, llm_viewer)):
        if folder:
            argv = ["git", "-C", str(folder), "rev-parse", "HEAD"]
            found[name] = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    return found


PROGRAMS = (PLAIN, CAREFUL, LLMVIZ, LLM_VIEWER, MEGATRON)


def tables(data: dict[str, Any]) -> list[str]:
    """One Markdown table a question: answers, and below them how far they are from archc's ideal."""
    answers = data["answers"]
    mine = {model: ours(model) for model in MODELS}
    found = []
    for question, title in QUESTIONS.items():
        flops = question in {"prefill", "decode", "train"}
        programs = [p for p in PROGRAMS if any(question in of for of in answers.get(p, {}).values())]
        head = ["published", "archc", *(["archc, executed"] if flops else []), *programs]
        lines = [f"**{title}**", "", f"| | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
        for model, shown in MODELS.items():
            if question not in mine[model]:
                continue
            ideal, executed = mine[model][question]
            cells = [SOURCES.get((question, model), ""), _figure(ideal, flops)]
            if flops:
                cells.append(_figure(executed, flops) + _off(executed, ideal))
            for program in programs:
                said = answers[program].get(model, {}).get(question)
                cells.append("" if said is None else _answer(program, question, said, ideal))
            lines.append(f"| {shown} | {' | '.join(cells)} |")
        found.append("\n".join(lines))
    return found


def _answer(program: str, question: str, said: float, right: float) -> str:
    """A program's figure and how far it is off; Megatron-LM prints parameters in billions, with two decimals."""
    if program == MEGATRON and question in {"parameters", "active"}:
        shown = f"{said / 1e9:.2f} B"
        return shown + (", equal" if shown == f"{right / 1e9:.2f} B" else _off(said, right))
    return _figure(said, question in {"prefill", "decode", "train"}) + _off(said, right)


def _figure(x: float, flops: bool) -> str:
    return f"{x / 1e9:,.2f} G" if flops else f"{round(x):,}"


def _off(said: float, right: float) -> str:
    off = 100 * (said / right - 1)
    if said == right:
        return ", equal"
    return f", {off:+,.0f} %" if abs(off) >= 10 else f", {off:+.2g} %"


def main() -> None:
    parser = argparse.ArgumentParser(description="The same questions to archc and to other programs.")
    parser.add_argument("--megatron", type=Path, help="a clone of NVIDIA/Megatron-LM")
    parser.add_argument("--llm-viewer", type=Path, help="a clone of hahnyuan/LLM-Viewer")
    parser.add_argument("--write", action="store_true", help=f"store the answers in docs/figures/{FIGURES.name}")
    parser.add_argument("--read", action="store_true", help="take the stored answers, ask nobody")
    given = parser.parse_args()
    data = json.loads(FIGURES.read_text(encoding="utf-8")) if given.read else asked(given.megatron, given.llm_viewer)
    if given.write:
        FIGURES.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"versions": data["versions"], "refused": data["refused"]}, indent=1), "", sep="\n")
    print(*tables(data), sep="\n\n")
    if given.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + "\n" + "\n\n".join(tables(data)) + "\n\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
