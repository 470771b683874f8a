"""What other programs say of a model: each function gives one program's answers, in the units of bench/peers.py.

Programs that are not installed are read from a clone whose folder is given. Nothing here changes what they count.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib.util
import io
import json
import math
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Answers = dict[str, float]

SEQ = 4096


def transformers(config: dict[str, Any], *, careful: bool, questions: tuple[str, ...] | None = None) -> Answers:
    """`FlopCounterMode` over the model of transformers, at full size: shapes without data (`FakeTensorMode`).

    ``careful`` takes attention and experts in the forms whose products the counter knows; otherwise both are what
    transformers picks by itself. The growth of the cache is that of the tensors it holds.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key != "quantization_config"}
    chosen: dict[str, str] = {}
    if careful:
        chosen["attn_implementation"] = "eager"
        if any("expert" in key for key in fields):
            chosen["experts_implementation"] = "batched_mm"

    def asked(question: str) -> bool:
        return questions is None or question in questions

    answers: Answers = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        of = AutoConfig.for_model(fields.pop("model_type"), **fields)
        model = AutoModelForCausalLM.from_config(of, dtype=torch.bfloat16, **chosen).eval()

        def ids(count: int) -> Any:
            return torch.zeros(1, count, dtype=torch.long)

        if asked("parameters"):
            answers["parameters"] = model.num_parameters()
        with torch.no_grad():
            if asked("prefill"):
                with FlopCounterMode(display=False) as counter:
                    model(input_ids=ids(SEQ), use_cache=False)
                answers["prefill"] = counter.get_total_flops() / SEQ
            held = {}
            for tokens in (SEQ // 2, SEQ) if asked("cache") or asked("decode") else ():
                past = model(input_ids=ids(tokens - 1), use_cache=True).past_key_values
                with FlopCounterMode(display=False) as counter:
                    model(input_ids=ids(1), past_key_values=past, use_cache=True)
                held[tokens] = sum(tensor.nbytes for tensor in _tensors(past))
                answers["decode"] = counter.get_total_flops()
            if held:
                answers["cache"] = (held[SEQ] - held[SEQ // 2]) / (SEQ - SEQ // 2)
        if asked("train"):
            model.train()
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids(SEQ), use_cache=False).logits.sum().backward()
            answers["train"] = counter.get_total_flops() / SEQ
    gc.collect()
    return answers


def _tensors(x: Any) -> Iterator[Any]:
    """Every tensor that a cache of transformers holds."""
    import torch

    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for part in x:
            yield from _tensors(part)
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))
    elif type(x).__module__.startswith("transformers.") and hasattr(x, "__dict__"):
        yield from _tensors([value for key, value in vars(x).items() if key != "config"])


def llmviz(config: dict[str, Any]) -> Answers:
    """llmviz' own figures, by its Python interface. Raises ImportError where it is not installed."""
    from llmviz.fetch import load_spec  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        spec = load_spec(str(path))
    return {
        "parameters": spec.total_params,
        "active": spec.active_params,
        "cache": spec.kv_cache_per_token_bytes,
    }


def llm_viewer(folder: Path, name: str, config: dict[str, Any]) -> Answers:
    """LLM-Viewer's roofline model, run in its clone. Raises RuntimeError with its last line where it gives up."""
    program = f"""
import json
from model_analyzer import ModelAnalyzer
total = ModelAnalyzer("{{model}}", "nvidia_H100").analyze(batchsize=1, seqlen={SEQ})["total_results"]
print(json.dumps(total))
"""
    with tempfile.TemporaryDirectory() as parent:
        model = Path(parent, name)
        model.mkdir()
        plain = {key: value for key, value in config.items() if key != "auto_map"}
        (model / "config.json").write_text(json.dumps(plain), encoding="utf-8")
        argv = [sys.executable, "-c", program.replace("{model}", str(model))]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    total = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        "parameters": total["decode"]["memory_consumption_weight"] / 2,
        "cache": total["decode"]["load_kv_cache"] / SEQ,
        "prefill": total["prefill"]["OPs"] / SEQ,
        "decode": total["decode"]["OPs"],
    }


def megatron(folder: Path, arguments: dict[str, Any]) -> Answers:
    """Megatron-LM's `num_floating_point_operations` and `theoretical_memory_usage`, called without starting it.

    Both are plain functions of its arguments. They stand in modules that import the whole program, so the first is
    taken out of its file and the second's file is loaded alone, with the two helpers it imports.
    """
    training = folder / "megatron" / "training"
    helpers = types.ModuleType("peer.utils")
    helpers.is_hybrid_model = lambda args: False  # type: ignore[attr-defined]
    helpers.print_rank_0 = print  # type: ignore[attr-defined]
    parent = types.ModuleType("peer")
    parent.__path__ = [str(training)]
    sys.modules |= {"peer": parent, "peer.utils": helpers}
    spec = importlib.util.spec_from_file_location("peer.memory", training / "theoretical_memory_usage.py")
    assert spec is not None
    assert spec.loader is not None
    memory = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(memory)

    def no(*_: Any) -> bool:
        return False

    names: dict[str, Any] = {"math": math, "is_hybrid_model": no, "print_rank_0": print}
    names |= {"is_linear_attention_variant": no, "is_gated_delta_net_variant": no}
    tree = ast.parse((training / "training.py").read_text(encoding="utf-8"))
    wanted: list[ast.stmt] = [
        f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "num_floating_point_operations"
    ]
    exec(compile(ast.Module(wanted, []), "training.py", "exec"), names)  # the reader's own clone

    args = SimpleNamespace(**(MEGATRON | arguments))
    printed = _Lines()
    with contextlib.redirect_stdout(printed):
        weights = memory.compute_weight_and_optimizer_memory(args, verbose=True)
        kept = memory.compute_activation_memory(args, num_microbatches=args.num_microbatches, verbose=True)
    return {
        "parameters": printed.after("Total number of parameters in billions:") * 1e9,
        "active": printed.after("Total number of active parameters in billions:") * 1e9,
        "train": names["num_floating_point_operations"](args, 1) / args.seq_length,
        "state": weights,
        "activations": kept,
    }


class _Lines(io.StringIO):
    """What a program prints, as text."""

    def after(self, label: str) -> float:
        """The number after a label."""
        return float(self.getvalue().partition(label)[2].split()[0])


MEGATRON: dict[str, Any] = {
    "swiglu": True,
    "normalization": "RMSNorm",
    "add_bias_linear": False,
    "untie_embeddings_and_output_weights": True,
    "multi_latent_attention": False,
    "group_query_attention": False,
    "attention_output_gate": False,
    "experimental_attention_variant": None,
    "num_experts": None,
    "moe_layer_freq": 1,
    "moe_ffn_hidden_size": None,
    "moe_shared_expert_intermediate_size": None,
    "moe_latent_size": None,
    "mtp_num_layers": None,
    "seq_length": SEQ,
    "micro_batch_size": 1,
    "num_microbatches": None,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "expert_model_parallel_size": 1,
    "expert_tensor_parallel_size": 1,
    "use_distributed_optimizer": True,
}
"""Arguments that all models share: names are Megatron-LM's, values what its parser gives or the models have."""
