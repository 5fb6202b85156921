"""Names that people carry over from Megatron-LM, Megatron-Bridge, ms-swift and Hugging Face, and what they are here.

A name that is close in spelling may be far in meaning: `vpp` is no `pp`, and `disable_bias_linear` is the opposite of
`add_bias_linear`. So nothing in this table is left to a guess from spelling. docs/spec.md shows it.
"""

from __future__ import annotations

from ..base.frozen import frozen


@frozen
class Carried:
    """What a name of other software is here.

    Attributes:
        ours: the key here, as a path below its section; "" if there is none.
        remedy: what to write.
        is_same: whether the key here has the same value.
    """

    ours: str
    remedy: str
    is_same: bool = False


def _same(ours: str, *names: str) -> dict[str, Carried]:
    """Names of what means the same here."""
    return dict.fromkeys(names, Carried(ours, f"write `{ours}`", is_same=True))


def _otherwise(ours: str, remedy: str, *names: str) -> dict[str, Carried]:
    """Names of what is said differently here."""
    return dict.fromkeys(names, Carried(ours, remedy))


def _missing(meaning: str, *names: str) -> dict[str, Carried]:
    """Names of what is not modelled, and what follows."""
    return dict.fromkeys(names, Carried("", f"not modelled: {meaning}"))


_HARMLESS = "it changes neither layout nor cost: leave it out"
_ANOTHER_MODEL = "the model would be another one than is planned and predicted"

NAMES: dict[str, Carried] = {
    # parallelism
    **_same("parallel.tp", "tensor_model_parallel_size", "tensor_parallel_size", "tensor_parallel", "tp_size"),
    **_same("parallel.cp", "context_parallel_size", "context_parallel", "cp_size"),
    **_same("parallel.pp", "pipeline_model_parallel_size", "pipeline_parallel_size", "pipeline_parallel", "pp_size"),
    **_same("parallel.dp", "data_parallel_size", "data_parallel", "dp_size"),
    **_same("parallel.ep", "expert_model_parallel_size", "expert_parallel_size", "expert_parallel", "ep_size"),
    **_same("parallel.expt_tp", "expert_tensor_parallel_size", "expert_tensor_parallel", "etp", "etp_size"),
    **_same("parallel.sequence_parallel", "sp", "sequence_parallelism"),
    **_missing(
        "virtual pipeline stages, which megatron-core's MimoModel does not run: leave it out",
        *("vpp", "vpp_size", "virtual_pipeline_model_parallel_size", "virtual_pipeline_parallel_size"),
        *("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank"),
    ),
    **_otherwise(
        "stages",
        "write `stages: [...]` in the module, with the layers of each stage",
        *("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"),
        *("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers", "pipeline_model_parallel_layout"),
        *("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"),
    ),
    **_missing("weights that are gathered layer by layer: leave it out", "gtp_remat_size", "fsdp", "zero_stage"),
    # cluster
    **_same("gpus_per_node", "gpus", "num_gpus_per_node", "n_gpus_per_node", "ngpus_per_node", "nproc_per_node"),
    **_same("nodes", "num_nodes", "nnodes", "n_nodes"),
    # batch
    **_otherwise(
        "micro_size",
        "write `micro_size`, the samples of the whole model: those of one data-parallel rank times dp",
        *("micro_batch_size", "mbs", "per_device_train_batch_size", "train_micro_batch_size_per_gpu"),
    ),
    **_same("global_size", "global_batch_size", "gbs", "train_batch_size"),
    **_same("seq_length", "seq_len", "sequence_length", "max_seq_len", "max_length", "cutoff_len"),
    **_otherwise(
        "",
        "leave it out: it is global_size / micro_size",
        *("num_microbatches", "gradient_accumulation_steps", "accumulate_grad_batches"),
    ),
    # training
    **_same("training.lr", "learning_rate"),
    **_same("training.distributed_optimizer", "use_distributed_optimizer"),
    **_otherwise("training.dtype", "write `training: {dtype: bf16 | fp16 | fp32}`", "bf16", "fp16", "fp32"),
    **_same("training.dtype", "params_dtype", "torch_dtype", "precision"),
    **_otherwise("recompute", "write `recompute: selective | full` in the module", "recompute_granularity"),
    **_otherwise(
        "recompute",
        "write `recompute: full` in the module",
        *("gradient_checkpointing", "activation_checkpointing", "recompute_method", "recompute_num_layers"),
    ),
    **_missing("runs do not overlap it, nor do predictions", "overlap_grad_reduce", "overlap_param_gather"),
    **_missing("matrix products in 8 bits", "fp8", "fp8_format", "fp8_recipe"),
    **_missing(
        f"adapters; {_ANOTHER_MODEL}", *("lora_rank", "lora_alpha", "lora_target_modules", "peft", "tuner_type")
    ),
    # sizes of a model
    **_same("num_layers", "num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"),
    **_same("hidden_size", "d_model", "n_embd", "embed_dim", "hidden_dim"),
    **_same("ffn_hidden_size", "ffn", "ffn_size", "intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"),
    **_otherwise(
        "ffn_hidden_size",
        "write `ffn_hidden_size`: with experts it is that of one expert",
        *("moe_intermediate_size", "moe_ffn_hidden_size"),
    ),
    **_same("num_attention_heads", "heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
    **_same("num_query_groups", "kv_heads", "num_key_value_heads", "num_kv_heads", "n_kv_heads"),
    **_same("kv_channels", "head_dim"),
    **_same("num_moe_experts", "num_local_experts", "num_experts", "n_routed_experts"),
    **_same("moe_router_topk", "num_experts_per_tok", "top_k"),
    **_same("max_positions", "max_position_embeddings", "n_positions", "max_source_positions"),
    **_same("activation", "hidden_act", "hidden_activation", "activation_function", "activation_func"),
    **_otherwise("gated_linear_unit", "write `gated_linear_unit: true` and `activation: silu`", "swiglu"),
    **_otherwise(
        "add_bias_linear", "write `add_bias_linear` with the opposite value", "disable_bias_linear", "no_bias"
    ),
    **_otherwise(
        "untie_embeddings_and_output_weights",
        "write `untie_embeddings_and_output_weights` with the opposite value",
        *("tie_word_embeddings", "share_embeddings_and_output_weights"),
    ),
    **_otherwise("normalization", "write `normalization: RMSNorm`", "rms_norm", "use_rmsnorm"),
    **_missing(
        f"experts beside others; {_ANOTHER_MODEL}",
        *("moe_shared_expert_intermediate_size", "n_shared_experts", "first_k_dense_replace", "moe_layer_freq"),
        *("num_nextn_predict_layers", "mtp_num_layers"),
    ),
    **_missing(
        f"another attention; {_ANOTHER_MODEL}",
        *("qk_layernorm", "qk_norm", "q_lora_rank", "kv_lora_rank", "sliding_window", "window_size", "add_qkv_bias"),
        "attention_bias",
    ),
    **_missing(
        f"tokens that are dropped or padded; {_ANOTHER_MODEL}",
        *("moe_expert_capacity_factor", "moe_token_drop_policy"),
    ),
    **_otherwise(
        "",
        _HARMLESS,
        *("rope_theta", "rotary_base", "rms_norm_eps", "layer_norm_eps", "layernorm_epsilon", "initializer_range"),
        *("use_cache", "attention_dropout", "hidden_dropout", "model_type", "architectures", "transformers_version"),
    ),
}
