"""Every diagnostic of the planner: its stable code, its summary, and what `mimo explain CODE` prints.

The letter names the stage that finds it: S the text and values of the spec, T the topology, P placement, M model sizes,
B the batch, J plan documents, W warnings, R what cannot run, N notes on what is slow and not wrong. W and R never stop
a plan; `--strict` makes them errors, and leaves notes alone.
The first digit of an R code names what cannot run the plan (planner/limits/target.py). A code is never reused for
something else. To add one, add an entry here and call `faults.add` with it.
"""

from __future__ import annotations


class Code(str):
    """A stable diagnostic code: the text `S101`, with a one-line summary and an explanation."""

    summary: str
    explanation: str

    def __new__(cls, name: str, summary: str, explanation: str) -> Code:
        code = super().__new__(cls, name)
        code.summary = summary
        code.explanation = explanation
        return code

    def __reduce__(self) -> tuple[type[Code], tuple[str, str, str]]:
        return Code, (str(self), self.summary, self.explanation)

    @property
    def name(self) -> str:
        """The code as plain text."""
        return str(self)

    @property
    def is_warning(self) -> bool:
        return self.startswith(("W", "R"))

    @property
    def is_error(self) -> bool:
        return self.severity == "error"

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return "warning" if self.is_warning else "note" if self.startswith("N") else "error"


UNREADABLE = Code(
    "S001",
    "the file cannot be read",
    "The spec must be a readable regular file, or `-` for standard input. A missing file, a directory or a\n"
    "file without read permission is reported with the reason that the operating system gives.",
)
TOO_LARGE = Code(
    "S002",
    "the file is too large",
    "A spec has a few lines per module and is read whole; files above the limit in the message are refused\n"
    "before they are parsed, so that a wrong file name costs nothing.",
)
BAD_SYNTAX = Code(
    "S003",
    "the text is not well formed",
    "The text is not one well-formed YAML document in UTF-8 or UTF-16, or it uses a tag that only a program\n"
    "would write (`!!python/...`). The message is the YAML reader's own, at the place where it stopped. Files of\n"
    "measured runs are CSV: cells are separated by commas, and quotes are closed.",
)
DUPLICATE_KEY = Code(
    "S004",
    "a key is written twice",
    "YAML readers silently keep the last of two equal keys, so half of what was written would be lost.\n"
    "Keep one of them.",
)
TOO_COMPLEX = Code(
    "S005",
    "the document is too deep or too wide",
    "Aliases (`*name`) are expanded where they stand. A document whose expansion has too many values, nests\n"
    "too deeply or contains itself is refused; no real spec comes near the limits in the message.",
)
TOO_LARGE_TO_PREDICT = Code(
    "S006",
    "the plan is too large to be predicted",
    "A plan may have 2^24 ranks, but a prediction simulates every pass, and looks at ranks of groups and at messages\n"
    "of bridges one by one. The limits in the message keep the largest to a few seconds. The plan itself is valid:\n"
    "`mimo plan` shows it, and `mimo report` draws it without what would be predicted.",
)
UNKNOWN_KEY = Code(
    "S101",
    "unknown key",
    "Unknown keys are errors, since a misspelt key would otherwise be ignored and the default used.\n"
    "The remedy names the closest known key. `mimo schema` prints all of them for editors.",
)
MISSING_KEY = Code(
    "S102",
    "a required key is missing",
    "The key has no sensible default. The remedy shows how to write it.",
)
WRONG_TYPE = Code(
    "S103",
    "a value has the wrong type",
    "YAML decides a value's type by its spelling: 4 is an integer, '4' and 4.0 are not; true and false are booleans.\n"
    "In a CSV file of measured runs, 4, 4.0 and 4e0 are the same whole number.",
)
OUT_OF_RANGE = Code(
    "S104",
    "a number is out of range",
    "Sizes are positive, offsets are not negative, and everything is bounded: a world has at most 2^24 ranks, so\n"
    "that a slip of the keyboard costs an error message and not a day of computing.",
)
BAD_CHOICE = Code(
    "S105",
    "not one of the allowed words",
    "The key takes one of a few words. The remedy names the closest one.",
)
BAD_NAME = Code(
    "S106",
    "not a usable name",
    "Module names become names of process groups and of submodules in torch. A name is a letter followed by\n"
    "letters, digits, `_` or `-`, with at most 64 characters. The language module is always named `language`.",
)
CONFLICT = Code(
    "S107",
    "two values contradict each other",
    "Each value is allowed by itself, but not beside the other. The rule in the message names both.",
)
NO_LANGUAGE = Code(
    "T001",
    "there is no module named language",
    "Every model has exactly one language module, and it is always named `language`: megatron-core finds it\n"
    "by that key. Encoders feed it, generators follow it.",
)
UNKNOWN_MODULE = Code(
    "T002",
    "the topology names an unknown module",
    "`topology` may only mention names that stand under `modules`.",
)
CYCLE = Code(
    "T003",
    "the topology has a cycle",
    "Modules form a directed acyclic graph, because the forward pass of each waits for the modules that feed it.\n"
    "The message shows the cycle as a path; remove one of its edges.",
)
UNREACHED = Code(
    "T004",
    "a module is neither before nor after language",
    "A module that never reaches `language`, and that `language` never reaches, takes no part in the loss.\n"
    "A module that `topology` does not mention at all feeds `language`; one that it mentions is connected only as\n"
    "written.",
)
DUPLICATE_EDGE = Code(
    "T005",
    "an edge is written twice",
    "An edge carries the source's output once, so its destination is written once.",
)
AMBIGUOUS_DP = Code(
    "P001",
    "more than one module leaves dp open",
    "In a disjoint placement dp follows from the ranks that the other modules leave over, so only one module may\n"
    "leave it out. Write dp on the others.",
)
UNEVEN_DP = Code(
    "P002",
    "the remaining ranks are not a whole number of lanes",
    "dp = (ranks that remain) / (tp * cp * pp) must be a whole number of at least 1.",
)
PARTIAL_OFFSETS = Code(
    "P003",
    "rank_offset on some modules only",
    "Offsets are either left out everywhere (then `placement` lays out the modules) or written on every module.\n"
    "With a mixture, the ranks of the other modules would depend on the order of the file.",
)
IDLE_RANKS = Code(
    "P004",
    "ranks without a module",
    "Every rank of the world belongs to a module. An idle rank would occupy a GPU, and the first collective that\n"
    "counts on it would hang.",
)
BEYOND_WORLD = Code(
    "P005",
    "a module ends beyond the world",
    "rank_offset + tp * cp * dp * pp may not exceed the number of ranks that the cluster has.",
)
COLOCATED_SIZES = Code(
    "P006",
    "colocated modules of different sizes",
    "`placement: colocated` puts every module on all ranks, so tp * cp * dp * pp must be the same for all.\n"
    "Their tp, cp, dp and pp may differ as long as the product does not. If modules share only some of their\n"
    "ranks, write rank_offset on every module.",
)
EXPERT_AXES_UNEVEN = Code(
    "P007",
    "the expert axes do not divide the module",
    "expt_dp = (tp * cp * dp) / (expt_tp * ep) must be a whole number: the expert view refactors the same\n"
    "ranks of each pipeline stage.",
)
EXPERTS_OUTSIDE_LANGUAGE = Code(
    "P008",
    "expert axes outside language",
    "Only the language module may have ep or expt_tp above 1.",
)
TOO_MANY_RANKS = Code(
    "P009",
    "too many ranks",
    "A world has at most 2^24 ranks, and so does a module (tp * cp * dp * pp).",
)
MISSING_SIZE = Code(
    "M001",
    "a model size is missing",
    "A model is a preset, or a family with its sizes. Sizes written beside a preset replace the preset's own.",
)
FOREIGN_SIZE = Code(
    "M002",
    "a size does not belong to the family",
    "Each family has its own sizes: vocab_size and max_positions belong to gpt, image_size and patch_size to\n"
    "vit, num_mel_bins and max_positions to audio, projector_hidden_size to encoders. A size of another\n"
    "family would be ignored.",
)
HEADS = Code(
    "M003",
    "attention heads do not divide",
    "Tensor parallelism gives every tp rank num_attention_heads / tp heads; query groups (GQA) are split in the\n"
    "same way, or replicated when there are fewer than tp; and num_attention_heads is a multiple of\n"
    "num_query_groups.",
)
LAYERS = Code(
    "M004",
    "layers do not divide into stages",
    "Without `stages`, every pipeline stage holds num_layers / pp layers. Write `stages: [...]`, one count per\n"
    "stage, when they should differ.",
)
STAGES = Code(
    "M005",
    "stages do not add up",
    "`stages` has one entry per pipeline stage (pp of them) and its sum is num_layers.",
)
EXPERTS = Code(
    "M006",
    "experts do not divide",
    "num_moe_experts / ep must be whole, and a token visits at most num_moe_experts experts. An ep above 1 needs\n"
    "a model with experts.",
)
SEQUENCE = Code(
    "M007",
    "the sequence does not divide",
    "Context parallelism cuts the sequence into 2 * cp chunks (each rank takes one from either end, which balances\n"
    "causal attention), and sequence parallelism divides what a cp rank holds by tp.",
)
WIDTHS = Code(
    "M008",
    "a width does not divide",
    "hidden_size is a multiple of num_attention_heads unless kv_channels is written; ffn_hidden_size is split\n"
    "over tp (for experts, over expt_tp); an image is a whole number of patches.",
)
TOKENS = Code(
    "M009",
    "the encoders' tokens do not fit the sequence",
    "The tokens that encoders contribute to a sample take up places in the language sequence, so their sum is\n"
    "at most seq_length; and seq_length is at most the model's max_positions.",
)
SPECIAL_TOKEN = Code(
    "M010",
    "a special token outside the vocabulary",
    "special_token_id marks the places in input_ids that the module's output takes. It is an id of the language\n"
    "model's vocabulary, and each module has its own.",
)
MICROBATCHES = Code(
    "B001",
    "the global batch is not a whole number of microbatches",
    "num_microbatches = global_size / micro_size must be whole. micro_size is the microbatch of the whole model, as\n"
    "in Megatron-Bridge, not of one lane: it is Megatron-LM's micro_batch_size times the dp of language.",
)
LANE_SAMPLES = Code(
    "B002",
    "a microbatch is not a whole number of samples per lane",
    "Each of a module's dp lanes holds micro_size / dp samples of every microbatch, which must be whole.",
)
NOT_JSON = Code(
    "J001",
    "not a plan document",
    "A plan file is the JSON that `mimo plan --out` or `Plan.to_json()` writes.",
)
PLAN_VERSION = Code(
    "J002",
    "a plan of another version",
    "The number under `mimo_plan` says how to read the document. Compile the spec again with this version.",
)
PLAN_EDITED = Code(
    "J003",
    "the plan contradicts itself",
    "Everything under `modules`, `edges` and `batch` follows from `spec`. A value that does not follow was edited\n"
    "by hand, or the file is damaged. Change the spec and compile it again instead.",
)
DIGEST = Code(
    "J004",
    "the digest does not match",
    "The digest is the sha256 of the rest of the document in canonical form. It differs if a value was edited by\n"
    "hand. Change the spec and compile it again instead.",
)
TP_CROSSES_NODE = Code(
    "W001",
    "a tensor-parallel group crosses a node",
    "Tensor parallelism, of experts too, communicates several times per layer; across nodes it does so at the speed\n"
    "of the network. The remedy names the order of axes or of modules that avoids it, if there is one.",
)
EXPERTS_CROSS_NODE = Code(
    "W007",
    "an expert-parallel group crosses a node without need",
    "Tokens go to their experts and back twice per layer. A group that has room in a node and lies in two of them\n"
    "does so at the speed of the network. The remedy names the order of axes or of modules that avoids it. Groups\n"
    "that are wider than a node have to cross, and are not reported.",
)
UNEVEN_NODES = Code(
    "W002",
    "the nodes are uneven",
    "The last node has fewer ranks than the others. Some versions of NCCL deadlock when they start on such a world\n"
    "(NCCL #2385).",
)
# W003, a lane of a single sample, is retired: it told of every wide encoder, and of nothing to change.
PATCH_TOKENS = Code(
    "W004",
    "tokens per sample do not match the image size",
    "A ViT makes (image_size / patch_size)^2 tokens of an image. tokens_per_sample is usually a multiple of that\n"
    "number (several images) or a divisor of it (merged patches).",
)
NO_EFFECT = Code(
    "W005",
    "a key has no effect",
    "The key is allowed, but nothing reads it in this layout: for example sequence_parallel without tp, expt_tp\n"
    "without experts, a placement beside explicit offsets, or a special_token_id of a module that does not feed\n"
    "language.",
)

MEMORY = Code(
    "W006",
    "a rank needs more memory than its GPU has",
    "The prediction of memory (docs/predictions.md) is above what a process can use of the GPU that the spec or --gpu\n"
    "names. The remedy is the first of those that `mimo predict` has tried.",
)
BUBBLE = Code(
    "N001",
    "the bubble is wide",
    "GPUs wait for more than 30 % of the pipeline's time: for the first microbatch to arrive, for the last one to\n"
    "leave, or for a slower stage. More and smaller microbatches, fewer stages and shared ranks help. Some of these\n"
    "were compiled and predicted; the remedy is the fastest of those that fit.",
)
IDLE_GPUS = Code(
    "N002",
    "the GPUs of a module compute little",
    "The GPUs of this module compute for less than 20 % of the pipeline's time, since the other modules take longer.\n"
    "Shared ranks (`placement: colocated`) put them to use. The remedy is the fastest of the layouts that were\n"
    "compiled and predicted and that fit; fewer ranks for the module, and more for others, were not tried.",
)
TIGHT_MEMORY = Code(
    "N003",
    "memory fits by less than the prediction's error",
    "A rank that leaves less than 3.5 % of room may run out of memory: measured peaks of some gigabytes and more were\n"
    "up to 3 % from the prediction (docs/predictions.md). The remedy is the change of the shortest step, as for\n"
    "memory that does not fit.",
)
EXPERTS_OVER_TP = Code(
    "R101",
    "experts over tp need sequence_parallel",
    "megatron-core trains experts with tp above 1 only if the sequence is split over tp as well: its router would\n"
    "otherwise see every token on each tp rank. Write `sequence_parallel: true` for language.",
)
EXPERT_BIASES = Code(
    "R102",
    "experts have biases that cannot be trained",
    "Over tp, whose ranks hold different experts, megatron-core would add up the biases of all of them, and its\n"
    "local layers refuse experts with biases altogether. Write `add_bias_linear: false`.",
)
MIDDLE_STAGES = Code(
    "R103",
    "the middle stages hold unequal numbers of layers",
    "megatron-core takes a number of layers for the first stage, one for the last, and divides the rest evenly\n"
    "among the stages between them.",
)
AFTER_LANGUAGE = Code(
    "R104",
    "a module comes after language",
    "megatron-core's MimoModel computes the loss in the language module and hands nothing on. A generator can be\n"
    "planned, and its groups and bridges can be tried with `executor check`, but it cannot be trained.",
)
OUTPUT_DIMS = Code(
    "R105",
    "an encoder hands on a batch dim",
    "megatron-core's MimoModel places the rows of (tokens, hidden) among the text. What feeds language has\n"
    "therefore `tensor_dims: 2`, which is what a spec means that leaves it out.",
)
FP16 = Code(
    "R106",
    "fp16 cannot be trained",
    "In megatron-core the optimizer of each module has a loss scale of its own, but the loss is scaled by the\n"
    "first one's, so that scales drift apart (Megatron-Bridge #5591). Use bf16 or fp32.",
)
SHARDED_SGD = Code(
    "R107",
    "the state of sgd cannot be shared out among lanes",
    "megatron-core's distributed optimizer shards the state of adam only. Use adam, or write\n"
    "`distributed_optimizer: false`.",
)
NOTHING_TRAINS = Code(
    "R108",
    "every module is frozen",
    "A run would pass, with a gradient norm of 0, and leave all weights as they were.\n"
    "Take `freeze` away from what is to be trained; of an encoder, the projection alone may train.",
)
ENCODER_CONTEXT = Code(
    "R201",
    "an encoder has cp above 1",
    "The ready-made encoders do not divide their sequences among cp ranks. An encoder of your own may.",
)
LOCAL_CONTEXT = Code(
    "R202",
    "cp above 1 needs Transformer Engine",
    "megatron-core's local attention takes no context parallelism; Transformer Engine's does, on a GPU. A spec\n"
    "that names a GPU is checked against Transformer Engine's layers, any other against local ones; `--target`\n"
    "overrides.",
)
QUERY_GROUPS = Code(
    "R203",
    "fewer query groups than tp ranks",
    "The ready-made models split the query groups over tp and do not copy them, as some other software does.",
)
ENCODER_SEQUENCE = Code(
    "R204",
    "an encoder has sequence_parallel",
    "The ready-made vision encoder adds a class token, after which tp does not divide the sequence; no ready-made\n"
    "encoder splits its sequence. An encoder of your own may.",
)
FED_ENCODER = Code(
    "R205",
    "an encoder feeds another module than language",
    "The ready-made encoders take images and clips, never another encoder's output. With specs of your own,\n"
    "encoders may feed encoders (docs/library.md).",
)
NO_SPECIAL_TOKEN = Code(
    "R206",
    "an encoder has no special_token_id",
    "The output of a module that feeds language takes the places of its special_token_id in input_ids. Without\n"
    "one, nothing says where it goes. With a provider of your own, ids may also be given there.",
)
NO_MODEL = Code(
    "R207",
    "a module has no model",
    "A layout can be planned without sizes. To train it with the ready-made models, every module needs a `model`;\n"
    "with specs of your own (docs/library.md) it does not.",
)
ENCODER_FAMILY = Code(
    "R208",
    "an encoder is of a family without a ready-made encoder",
    "There are ready-made encoders for the families vit and audio. A gpt as an encoder needs a spec of your own.",
)
PROJECTOR_WIDTH = Code(
    "R209",
    "tp does not divide the projector",
    "An encoder's projector is split over its tp: projector_hidden_size if it has two layers, else the width of\n"
    "language.",
)
ROTARY_WIDTH = Code(
    "R210",
    "the width of a head is odd",
    "The ready-made language model rotates pairs of a head's numbers (rotary position embeddings), so kv_channels\n"
    "is even.",
)
INSIDE_LANGUAGE = Code(
    "R301",
    "an encoder on ranks of language does not fit into one stage",
    "A rank runs its encoders and then its language stage in one forward pass. An encoder that shares ranks with\n"
    "language therefore has one stage, on ranks of language's first stage.",
)
SHARED_RANKS = Code(
    "R302",
    "encoders that share ranks are at different positions",
    "Encoders on the same ranks run in one forward pass. So both share ranks with language, or neither does, and\n"
    "they have one stage each, or the same grid.",
)
SEVERAL_INPUTS = Code(
    "R303",
    "an encoder takes several inputs",
    "One forward pass hands an encoder one module's output, as its hidden_states.",
)
EDGE_INSIDE = Code(
    "R304",
    "an edge between encoders on shared ranks leaves the pass",
    "If an encoder feeds another on shared ranks, both run in one forward pass: they have the same ranks and one\n"
    "stage, and the first feeds nothing else, because every output of a pass has a backward pass of its own.",
)
PASS_CYCLE = Code(
    "R305",
    "modules that share ranks would wait for themselves",
    "Modules that share ranks run in one pass. If what they hand on comes back to them by way of other ranks, the\n"
    "pass would have to wait for its own result.",
)
ITEM_TOKENS = Code(
    "R401",
    "tokens_per_sample is no whole number of images or clips",
    "The synthetic data of `executor train` has whole images and clips, of which the ready-made encoders make a\n"
    "fixed number of tokens each.",
)
FULL_SAMPLES = Code(
    "R402",
    "images and clips leave no room for text",
    "A sample of the synthetic data has text beside its images and clips, at least one token. If their number\n"
    "varies, there are at most two of each module.",
)
PADDING_TOKEN = Code(
    "R403",
    "a special token that means padding",
    "The synthetic data of `executor train` fills samples up with id 0, so that no module's places can be marked\n"
    "by it.",
)
NO_WORDS = Code(
    "R404",
    "the vocabulary has no words",
    "The text of the synthetic data is drawn from the ids that are neither padding nor a special token. There is\n"
    "at least one.",
)

CODES: dict[str, Code] = {code.name: code for code in list(globals().values()) if isinstance(code, Code)}
