"""Figures that others have published of the library's models, and how `archc cost` comes to each: data, no tests.

``python -m tests.cost.published`` writes the table of docs/cost.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cost.figure import Figure

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cost.md"
BEGIN = "<!-- written by tests/cost/published.py -->\n"
END = "<!-- end of what is written -->\n"

V32_PAPER, GLM5 = "arXiv:2512.02556", "zai-org/GLM-5 README"
V2, V3, V3_README = "arXiv:2405.04434", "arXiv:2412.19437", "deepseek-ai/DeepSeek-V3 README_WEIGHTS"
INSIGHTS, MOE, V4 = "arXiv:2505.09343", "arXiv:2401.06066", "arXiv:2606.19348"
GPT_OSS, OLMOE, MIXTRAL = "arXiv:2508.10925, table 1", "arXiv:2409.02060", "arXiv:2401.04088"
LLAMA, K2, QWEN3 = "arXiv:2407.21783", "MoonshotAI/Kimi-K2 README", "Qwen/Qwen3-235B-A22B model card"
MHC, ENGRAM = "arXiv:2512.24880, table 5", "arXiv:2601.07372, table 5"
NSA = "arXiv:2502.11089, section 4.1"
META = "transformers 5.23.0 on the meta device"
TENSORS = "tensors of the checkpoint"
BEFORE = "accounts before the release: nxcode.io, guide to DeepSeek V4"

TRAIN = {"mode": "train", "seq": 4096}
MILLION = {"context": 1 << 20}
NO_EMBEDDING = "without the input embedding"


def _total(spec: str, published: str, source: str, **more: Any) -> Figure:
    more = {"key": "params.total", **more}
    return Figure(spec=spec, what="parameters", published=published, source=source, **more)


def _active(spec: str, published: str, key: str, convention: str, source: str, **more: Any) -> Figure:
    return Figure(spec=spec, what="active", published=published, key=key, convention=convention, source=source, **more)


def _cache(spec: str, published: str, source: str, **more: Any) -> Figure:
    more = {"key": "kv_cache.bytes_per_token", "convention": "bfloat16", **more}
    return Figure(spec=spec, what="cache of a token", published=published, source=source, **more)


def _train(spec: str, published: str, key: str, source: str, **more: Any) -> Figure:
    return Figure(spec=spec, what="training FLOPs", published=published, key=key, source=source, options=TRAIN, **more)


def _parts(spec: str, *, mlp: str, attention: str, ends: str) -> tuple[Figure, ...]:
    """What the model card of gpt-oss counts apart."""
    of = "params.by_component"
    parts = {
        "experts and routers": (mlp, f"{of}.experts + {of}.router"),
        "attention": (attention, f"{of}.attention"),
        "embedding and head": (ends, f"{of}.embedding + {of}.head"),
    }
    return tuple(
        Figure(spec=spec, what="part", published=published, key=key, source=GPT_OSS, convention=convention)
        for convention, (published, key) in parts.items()
    )


def _streams(spec: str, total: str, active: str, ends: str) -> tuple[Figure, ...]:
    """What the table of mHC's models has of one."""
    key = "params.by_component.embedding + params.by_component.head"
    return (
        _total(spec, total, MHC),
        _active(spec, active, WITHOUT, NO_EMBEDDING, MHC),
        Figure(spec=spec, what="part", published=ends, key=key, source=MHC, convention="embedding and head"),
    )


def _compared(spec: str, total: str, tables: str = "") -> tuple[Figure, ...]:
    """What the Engram paper has of one of its models."""
    key, note = "params.total - params.by_component.head", "The paper counts neither; its totals only fit with one."
    found = (
        _total(spec, total, ENGRAM, key=key, convention="one of embedding and head", note=note),
        _active(spec, "3.8B", "params.active_core", "without embedding and head", ENGRAM),
    )
    if not tables:
        return found
    # 5.792B is published as 5.7B
    return *found, Figure(
        spec=spec,
        what="part",
        published=tables,
        key="tables.parameters",
        source=ENGRAM,
        convention="tables",
        rule="cut",
    )


WITHOUT, ALL = "params.active_without_embedding", "params.active"
CAUSAL = "of a token at 4,096; a query meets the keys before it; no MTP"
OF_V32 = "of DeepSeek-V3.2's, both in the layouts they are served with"
EQUIVALENT = "of DeepSeek-V3.2's 1191 G; products in FP8 count once, in bfloat16 twice, in FP4 half"
V32 = (
    "V3.2 at token 1,048,576: 2 x 36.6 G in FP8, 61 x 128 x 2048 x (576 + 512) x 2 in bfloat16 (attention to latents),"
    " 61 x 64 x 128 x 2 x 2^20 in FP8 (index scores)."
)
BY_PLAN = "of DeepSeek-V3.2's by its plan; products in FP8 count once, in bfloat16 twice, in FP4 half"
AS_RUN = (
    "By its plan V3.2 has 1148G: attention is what the equations need, keys and values of 192 + 128 channels. Run on"
    " latents it has 1197G (archc's executed FLOPs), of which V4-Pro has 26.7 % and V4-Flash 10.1 %."
)
MLA_FP8 = {"cache": "mla_fp8"}


def _decoding(spec: str, published: str) -> tuple[Figure, ...]:
    """What V4 takes to decode at a million tokens, of what V3.2 takes: by its paper's count, and by plans."""
    more: dict[str, Any] = {"spec": spec, "what": "decoding FLOPs", "published": published, "options": MILLION}
    key, source = "flops.weighted_fp8_equivalent", f"{V4}, abstract"
    return (
        Figure(**more, key=f"{key} / 1191e9", source=source, convention=EQUIVALENT, note=V32),
        Figure(
            **more,
            key=key,
            source=source,
            convention=BY_PLAN,
            against="deepseek_v3_2",
            rule="within",
            within=0.055,
            note=AS_RUN,
        ),
    )


def _million(spec: str, published: str) -> Figure:
    """The cache of a token of V4 at a million tokens, of that of V3.2."""
    sets = {"cache": "v4_fp8"}
    more: dict[str, Any] = {"against": "deepseek_v3_2", "against_sets": MLA_FP8, "sets": sets, "options": MILLION}
    return _cache(spec, published, V4, convention=OF_V32, **more)


FIGURES = (
    _total("deepseek_moe_16b", "16.4B", f"{MOE}, 5.1.2"),
    _total("deepseek_moe_16b", "16,375,728,128", TENSORS, rule="equal"),
    _active("deepseek_moe_16b", "2.8B", ALL, "embedding and head included", f"{MOE}, 5.1.2"),
    _train(
        "deepseek_moe_16b",
        "74.4T",
        "3 * 4096 * flops.executed.forward_per_token",
        f"{MOE}, table 3",
        convention="forward and backward of 4,096 tokens, a query meets all of them",
        rule="within",
        within=0.025,
        note="The paper does not say what a query meets; where it meets those before it only, ours is 70.1T.",
    ),
    _total("deepseek_v2_lite", "15.7B", f"{V2}, appendix B"),
    _total("deepseek_v2_lite", "15,706,484,224", META, rule="equal"),
    _active(
        "deepseek_v2_lite",
        "2.4B",
        WITHOUT,
        NO_EMBEDDING,
        f"{V2}, appendix B",
        rule="cut",
        note="2.451B is nearer to 2.5B; no convention rounds to 2.4B (2.661, 2.451, 2.242).",
    ),
    _cache("deepseek_v2_lite", "15.6K", f"{V2}, table 10", key="kv_cache.bytes_per_token / 2", convention="elements"),
    _total("deepseek_v2", "236B", V2),
    _total("deepseek_v2", "235,741,434,880", META, rule="equal"),
    _active("deepseek_v2", "21B", WITHOUT, NO_EMBEDDING, V2),
    _cache("deepseek_v2", "34.6K", f"{V2}, table 9", key="kv_cache.bytes_per_token / 2", convention="elements"),
    _cache(
        "deepseek_v2",
        "93.3 %",
        f"{V2}, abstract and 3.2.3",
        key="1 - kv_cache.bytes_per_token / 2 * 6 / 8 / 389_120",
        convention="saved, of DeepSeek 67B's 95 x 2 x 8 x 128 x 2 bytes; ours at six bits an element, as deployed",
    ),
    _train("deepseek_v2", "155G", "flops.ideal.train_per_token", f"{INSIGHTS}, table 2", convention=CAUSAL),
    _total("deepseek_v3", "671B", V3),
    Figure(
        spec="deepseek_v3",
        what="parameters",
        published="671,026,419,200",
        key="params.total + params.buffers",
        source=V3_README,
        convention="with the routers' 14,848 biases",
        rule="equal",
    ),
    _active("deepseek_v3", "37B", WITHOUT, NO_EMBEDDING, V3),
    _active(
        "deepseek_v3",
        "36.7B",
        WITHOUT,
        NO_EMBEDDING,
        V3_README,
        rule="within",
        within=0.003,
        note="Said to include 0.9B of embedding and 0.9B of head, which would be 37.6B: the source contradicts itself.",
    ),
    Figure(
        spec="deepseek_v3",
        what="MTP",
        published="11.5B",
        key="params.mtp - 14_336 * 7168",
        source=V3_README,
        convention="without the shared embedding and head",
        note="Published without the projection that joins embedding and hidden state; with it 11.610B.",
    ),
    Figure(
        spec="deepseek_v3",
        what="parameters with MTP",
        published="685B",
        key="params.total + params.mtp + 2 * 129_280 * 7168",
        source="deepseek-ai/DeepSeek-V3 model card",
        convention="the checkpoint has embedding and head twice",
        rule="within",
        within=1e-3,
        note="684.490B; the card counts a scale for every 128 x 128 weights too: 684.53B.",
    ),
    _cache("deepseek_v3", "70.272 KB", f"{INSIGHTS}, table 1"),
    _train("deepseek_v3", "250G", "flops.ideal.train_per_token", f"{INSIGHTS}, table 2", convention=CAUSAL),
    Figure(
        spec="deepseek_v3_2",
        what="parameters",
        published="671B",
        key="params.total - params.by_component.indexer",
        source=f"{V32_PAPER}; as V3",
        convention="without indexers, which are 0.85B",
    ),
    _total("deepseek_v3_2", "671,877,929,216", META, rule="equal"),
    _active("deepseek_v3_2", "37B", WITHOUT, NO_EMBEDDING, f"{V32_PAPER}; as V3"),
    _cache(
        "deepseek_v3_2",
        "48,068",
        "deepseek-ai/FlashMLA README, V3.2-Exp inference code",
        convention="61 x (656 + 132) bytes in FP8",
        sets={"cache": "mla_fp8"},
        rule="equal",
    ),
    _total("glm_5", "744B", GLM5),
    _total("glm_5", "743,911,199,232", META, rule="equal"),
    _active(
        "glm_5",
        "40B",
        "params.active_core",
        "without embedding and head",
        GLM5,
        note="Without the input embedding alone it is 40.83B.",
    ),
    _total("deepseek_v4_flash", "284B", V4),
    _total("deepseek_v4_flash", "284,332,230,231", TENSORS, rule="equal", convention="no MTP, no tables of experts"),
    *_decoding("deepseek_v4_flash", "10 %"),
    _active("deepseek_v4_flash", "13B", WITHOUT, NO_EMBEDDING, V4),
    _million("deepseek_v4_flash", "7 %"),
    _cache(
        "deepseek_v4_flash",
        "2 %",
        V4,
        key="kv_cache.bytes_per_token / (43 * 2 * 8 * 128 * 2)",
        convention="of grouped attention, 8 heads of 128, bfloat16",
        options=MILLION,
        sets={"cache": "v4_fp8"},
    ),
    _total("deepseek_v4_pro", "1.6T", V4),
    _total("deepseek_v4_pro", "1,572,997,179,491", META, rule="equal"),
    Figure(
        spec="deepseek_v4_pro",
        what="parameters with MTP",
        published="1,598,837,325,086",
        key="params.total + params.mtp",
        source=TENSORS,
        rule="equal",
    ),
    *_decoding("deepseek_v4_pro", "27 %"),
    _active("deepseek_v4_pro", "49B", WITHOUT, NO_EMBEDDING, V4),
    _million("deepseek_v4_pro", "10 %"),
    _cache(
        "deepseek_v4_pro",
        "2 %",
        V4,
        key="kv_cache.bytes_per_token / (61 * 2 * 8 * 128 * 2)",
        convention="of grouped attention, 8 heads of 128, bfloat16",
        options=MILLION,
        sets={"cache": "v4_fp8"},
    ),
    _total("v4_as_predicted", "1T", BEFORE, convention="tables included"),
    _active("v4_as_predicted", "32B", WITHOUT, NO_EMBEDDING, BEFORE),
    _total("kimi_k2", "1T", K2),
    _total("kimi_k2", "1,026,408,209,408", META, rule="equal"),
    _active("kimi_k2", "32B", WITHOUT, NO_EMBEDDING, K2),
    *_compared("moe_27b", "26.7B"),
    *_compared("engram_27b", "26.7B", "5.7B"),
    *_compared("engram_40b", "39.5B", "18.5B"),
    *_streams("mhc_3b", total="2.97B", active="612M", ends="331M"),
    *_streams("mhc_9b", total="9.18B", active="1.66B", ends="496M"),
    *_streams("mhc_27b", total="27.0B", active="4.14B", ends="662M"),
    _total("llama_3_1_8b", "8B", LLAMA),
    _total("llama_3_1_8b", "8,030,261,248", META, rule="equal"),
    _total(
        "llama_3_1_70b",
        "70B",
        LLAMA,
        rule="cut",
    ),
    _total("llama_3_1_70b", "70,553,706,496", META, rule="equal"),
    _total("llama_3_1_405b", "405B", LLAMA, rule="cut"),
    _total("llama_3_1_405b", "405,853,388,800", META, rule="equal"),
    _cache("llama_3_1_405b", "516.096 KB", f"{INSIGHTS}, table 1"),
    _train(
        "llama_3_1_405b",
        "2448G",
        "flops.ideal.train_per_token",
        f"{INSIGHTS}, table 2",
        convention=CAUSAL,
        rule="within",
        within=0.02,
        note="2448G has half the attention of the same table's DeepSeek rows: 6 x 403.75B, and 25.4G instead of 50.7G.",
    ),
    _total("mixtral_8x7b", "46.7B", "mistral.ai, Mixtral of experts"),
    _total("mixtral_8x7b", "46,702,792,704", META, rule="equal"),
    _active("mixtral_8x7b", "12.9B", ALL, "embedding and head included", "mistral.ai, Mixtral of experts"),
    _active("mixtral_8x7b", "13B", ALL, "embedding and head included", MIXTRAL),
    _total("olmoe_1b_7b", "6.9B", OLMOE),
    _total("olmoe_1b_7b", "6,919,161,856", META, rule="equal"),
    _active("olmoe_1b_7b", "1.3B", ALL, "embedding and head included", OLMOE),
    _total(
        "nsa_27b",
        "27B",
        NSA,
        rule="cut",
        note="The widths of its experts and its vocabulary are not published: those of the spec are taken to fit.",
    ),
    _active(
        "nsa_27b",
        "3B",
        "params.active_core - params.by_component.attention - params.by_component.compressor",
        "without embedding, head and attention",
        NSA,
        note="The paper does not say what it counts; with attention it is 4.8B, which no width of experts mends.",
    ),
    _total("qwen3_235b_a22b", "235B", QWEN3),
    _total("qwen3_235b_a22b", "235,093,634,560", META, rule="equal"),
    Figure(
        spec="qwen3_235b_a22b",
        what="parameters",
        published="234B",
        key="params.total - params.by_component.embedding - params.by_component.head",
        source=QWEN3,
        convention="without embedding and head",
    ),
    _active("qwen3_235b_a22b", "22B", ALL, "embedding and head included", QWEN3),
    _total("gpt_oss_20b", "20.91B", GPT_OSS),
    *_parts("gpt_oss_20b", mlp="19.12B", attention="0.64B", ends="1.16B"),
    _total("gpt_oss_20b", "20,914,757,184", META, rule="equal"),
    Figure(
        spec="gpt_oss_20b",
        what="weights",
        published="12.8 GiB",
        key="memory.weights",
        source=GPT_OSS,
        convention="experts in FP4 with scales, the rest in bfloat16",
    ),
    _active("gpt_oss_20b", "3.61B", WITHOUT, NO_EMBEDDING, GPT_OSS),
    _total("gpt_oss_120b", "116.83B", GPT_OSS),
    *_parts("gpt_oss_120b", mlp="114.71B", attention="0.96B", ends="1.16B"),
    _total("gpt_oss_120b", "116,829,156,672", META, rule="equal"),
    Figure(
        spec="gpt_oss_120b",
        what="weights",
        published="60.8 GiB",
        key="memory.weights",
        source=GPT_OSS,
        convention="experts in FP4 with scales, the rest in bfloat16",
    ),
    _active("gpt_oss_120b", "5.13B", WITHOUT, NO_EMBEDDING, GPT_OSS),
)


HEADINGS = {
    "parameters": ("parameters", "parameters with MTP", "MTP", "part"),
    "active parameters": ("active",),
    "bytes of the checkpoint": ("weights",),
    "cache of a token": ("cache of a token",),
    "FLOPs of training": ("training FLOPs",),
    "FLOPs of decoding": ("decoding FLOPs",),
}


def table() -> str:
    """The rows as Markdown, a table a quantity, and notes on figures that are not what they seem."""
    lines: list[str] = []
    notes: list[str] = []
    for heading, kinds in HEADINGS.items():
        lines += [f"| {heading} | published | ours | deviation | convention | source | key |"]
        lines += ["|---|---:|---:|---:|---|---|---|"]
        for figure in FIGURES:
            if figure.what in kinds:
                if figure.note and figure.note not in notes:
                    notes.append(figure.note)
                lines.append(_row(figure, f" ({notes.index(figure.note) + 1})" if figure.note else ""))
        lines.append("")
    return "\n".join([*lines, *(f"{i}. {note}" for i, note in enumerate(notes, 1)), ""])


def _row(figure: Figure, mark: str) -> str:
    options = [f"--{name} {value}" for name, value in figure.options.items()]
    options += [f"--set {name}={value}" for name, value in figure.sets.items()]
    other = " ".join([figure.against, *(f"--set {name}={value}" for name, value in figure.against_sets.items())])
    key = f"`{figure.key}`" + (f" / that of `{other}`" if other else "")
    cells = (
        f"`{figure.spec}`",
        figure.published + mark,
        _shown(figure),
        "equal" if figure.rule == "equal" else f"{100 * figure.deviation:+.2f} %",
        figure.convention,
        figure.source,
        key + (f", `{' '.join(options)}`" if options else ""),
    )
    return f"| {' | '.join(cells)} |"


def _shown(figure: Figure) -> str:
    """Our value in the published unit, with two digits more; whole where it is compared whole."""
    _, factor, decimals = figure.number
    unit = figure.published.lstrip("0123456789.,")
    return f"{figure.value / factor:,.{0 if figure.rule == 'equal' else max(decimals + 2, 2)}f}{unit}"


def main() -> None:
    """Writes the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + "\n" + table() + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
