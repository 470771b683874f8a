"""Keys of a `config.json` that describe no part of a model, whatever its type: data tables.

They follow `PreTrainedConfig` and the defaults of `GenerationConfig` in transformers 5.23, older releases of both, and
tools that write into configs.
"""

from __future__ import annotations

from typing import Any

DESCRIPTION = frozenset({
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "dtype",
    "model_type",
    "name_or_path",
    "torch_dtype",
    "transformers_version",
})  # fmt: skip
"""What the file is about, who wrote it, and how weights are stored or run."""

TOKENS = frozenset({
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "tokenizer_class",
})  # fmt: skip
"""Token ids. The reference also starts the embedding of the padding token at zero, and never trains it."""

OUTPUTS = frozenset({
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "return_dict",
    "return_dict_in_generate",
    "use_cache",
})  # fmt: skip
"""What a call of the reference returns."""

TASKS = frozenset({
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "prefix",
    "problem_type",
    "task_specific_params",
})  # fmt: skip
"""Heads for other tasks."""

GENERATION = frozenset({
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
})  # fmt: skip
"""How to sample from the model."""

TOOLS = frozenset({
    "is_llama_config",
    "tf_legacy_loss",
    "torchscript",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
})  # fmt: skip
"""Written by other tools, or read by other frameworks only."""

IRRELEVANT = DESCRIPTION | TOKENS | OUTPUTS | TASKS | GENERATION | TOOLS

IGNORED: dict[str, tuple[Any, str]] = {
    "auto_map": (None, "it names code beside the checkpoint; the model of transformers itself is imported"),
    "chunk_size_feed_forward": (0, "transformers does not read it for this type of model"),
    "is_decoder": (False, "transformers does not read it for this type of model"),
    "max_sequence_length": (None, "transformers does not read it; the context is max_position_embeddings"),
    "pretraining_tp": (1, "transformers 5 does not read it"),
    "rope_interleaved": (False, "transformers does not read it; channels i and i + dim / 2 form a pair"),
    "tie_encoder_decoder": (False, "transformers does not read it for this type of model"),
    "add_cross_attention": (False, "transformers does not read it for this type of model"),
    "cross_attention_hidden_size": (None, "transformers does not read it for this type of model"),
    "pruned_heads": ({}, "transformers 5 does not read it"),
}
"""Keys that the reference does not honour: the value that says nothing, and why another is of no effect (W0601)."""

TRAINING = {
    "attention_dropout": "the model drops nothing in training",
    "router_jitter_noise": "the model adds no noise in training",
}
"""Rates of randomness in the reference's training, and what the model does instead (W0602)."""

UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "compression_config": (None, "import the config of the checkpoint before it was compressed"),
    "is_encoder_decoder": (False, "only decoders can be imported"),
    "per_layer_config": (None, "layers with settings of their own cannot be imported"),
    "quantization_config": (
        None,
        "import the config of the checkpoint before it was quantised, or one in blocks of FP8",
    ),
}
"""Keys that the reference honours and a spec cannot say: the value that says nothing, and what to do (E0605)."""
