"""Pass: models fit their layouts. Sizes are filled in, and checked against the axes that divide them.

The checks need the sizes of axes but never dp, so their faults are reported together with those of placement.
"""

from __future__ import annotations

from ..base import codes
from ..base.errors import Faults, Path
from ..spec.presets import fill_in
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY, Model, Module, Parallel
from ..spec.spec import Spec

_MOST_LISTED = 16  # stages


def resolve_models(spec: Spec, faults: Faults) -> dict[str, Model | None]:
    """Each module's model with every size filled in; None if none was written, or if it was wrong."""
    models: dict[str, Model | None] = {}
    for name, module in spec.modules.items():
        path: Path = ("modules", name)
        model = fill_in(module.model, (*path, "model"), faults) if module.model else None
        models[name] = model
        parallel = module.parallel or Parallel()
        _check_stages(module, parallel, model, path, faults)
        if model is not None:
            _check_heads(model, parallel, path, faults)
            _check_widths(model, parallel, path, faults)
            _check_image(module, model, path, faults)
        _check_experts(model, parallel, path, faults)
    _check_sequence(spec, models, faults)
    language = models.get(MIMO_LANGUAGE_MODULE_KEY)
    if language is not None and language.family != "gpt":
        rule = f"the language model is of family gpt, got {language.family}"
        faults.add(codes.CONFLICT, ("modules", MIMO_LANGUAGE_MODULE_KEY, "model"), rule, "choose a model of text")
    return models


def check_tokens(
    spec: Spec, models: dict[str, Model | None], edges: tuple[tuple[str, str], ...], faults: Faults
) -> None:
    """Check that what feeds language fits its sequence, and is marked by distinct ids of its vocabulary."""
    feeding = [src for src, dst in edges if dst == MIMO_LANGUAGE_MODULE_KEY]
    tokens = {name: spec.modules[name].output.tokens_per_sample or 0 for name in feeding}
    total = sum(tokens.values())
    if total > spec.batch.seq_length:
        terms = " + ".join(f"{name} {count}" for name, count in tokens.items() if count)
        got = f"{terms} = {total}" if "+" in terms else terms
        rule = f"tokens per sample that feed language <= seq_length = {spec.batch.seq_length}, got {got}"
        remedy = f"raise seq_length above {total}, so that there is room for text"
        faults.add(codes.TOKENS, ("batch", "seq_length"), rule, remedy)
    language = models.get(MIMO_LANGUAGE_MODULE_KEY)
    seen: dict[int, str] = {}
    for name, module in spec.modules.items():
        token = module.special_token_id
        if token is None:
            continue
        path = ("modules", name, "special_token_id")
        if name not in feeding:
            rule = f"special_token_id marks where a module's output enters language; {name} does not feed language"
            faults.add(codes.NO_EFFECT, path, rule, "remove special_token_id")
        if language and language.vocab_size is not None and token >= language.vocab_size:
            rule = f"special_token_id < vocab_size of language, got {token} >= {language.vocab_size}"
            faults.add(codes.SPECIAL_TOKEN, path, rule, "use an id of the vocabulary, or raise vocab_size")
        if token in seen:
            rule = f"special_token_id is each module's own; {seen[token]} has {token} too"
            faults.add(codes.SPECIAL_TOKEN, path, rule, "choose another id")
        seen.setdefault(token, name)


def stage_layers(module: Module, model: Model | None) -> tuple[int, ...] | None:
    """Number of layers in each pipeline stage; None if no model says how many there are."""
    if module.stages is not None:
        return module.stages
    if model is None or model.num_layers is None:
        return None
    pp = module.parallel.pp if module.parallel else 1
    return (model.num_layers // pp,) * pp


def _divides(code: codes.Code, what: str, values: tuple[int, int], path: Path, faults: Faults, remedy: str) -> None:
    """Add a fault unless values[0] % values[1] == 0; `what` names the rule as an equation."""
    number, divisor = values
    if number % divisor:
        faults.add(code, path, f"{what} = {number} % {divisor} = 0, got {number % divisor}", remedy)


def _choices(number: int, limit: int = 128) -> str:
    """The divisors of a number that an axis could have as its size."""
    found = [str(divisor) for divisor in range(1, min(number, limit) + 1) if number % divisor == 0]
    return ", ".join(found)


def _or_stages(num_layers: int, pp: int) -> str:
    """The layers spread over as many stages, fewer in the first and the last: they have the embeddings and the loss."""
    if not 1 < pp <= min(num_layers, _MOST_LISTED):
        return ""
    least, more = divmod(num_layers, pp)
    inner = sorted(range(pp), key=lambda stage: abs(stage - (pp - 1) / 2))[:more]
    return f", or write `stages: {[least + (stage in inner) for stage in range(pp)]}`"


def _check_stages(module: Module, parallel: Parallel, model: Model | None, path: Path, faults: Faults) -> None:
    num_layers = model.num_layers if model else None
    if module.stages is None:
        if num_layers is not None:
            remedy = f"choose pp from {_choices(num_layers)}{_or_stages(num_layers, parallel.pp)}"
            _divides(
                codes.LAYERS,
                "num_layers % pp",
                (num_layers, parallel.pp),
                (*path, "parallel", "pp"),
                faults,
                remedy,
            )
        return
    at = (*path, "stages")
    if len(module.stages) != parallel.pp:
        rule = f"stages has one entry per stage: len(stages) = pp = {parallel.pp}, got {len(module.stages)}"
        faults.add(codes.STAGES, at, rule, f"write {parallel.pp} entries, or set pp: {len(module.stages)}")
    elif num_layers is not None and sum(module.stages) != num_layers:
        rule = f"sum(stages) = num_layers = {num_layers}, got {sum(module.stages)}"
        faults.add(codes.STAGES, at, rule, f"make the entries add up to {num_layers}")


def _check_heads(model: Model, parallel: Parallel, path: Path, faults: Faults) -> None:
    heads, groups = model.num_attention_heads or 1, model.num_query_groups or 1
    at = (*path, "parallel", "tp")
    remedy = f"choose tp from {_choices(heads)}"
    _divides(codes.HEADS, "num_attention_heads % tp", (heads, parallel.tp), at, faults, remedy)
    if groups == heads:  # without GQA there is nothing more to check
        return
    # Query groups are split over tp, or replicated if there are fewer than tp.
    what, values = "num_query_groups % tp", (groups, parallel.tp)
    if groups < parallel.tp:
        what, values = "tp % num_query_groups", (parallel.tp, groups)
    _divides(codes.HEADS, what, values, at, faults, "choose tp as a divisor or a multiple of num_query_groups")
    what, remedy = (
        "num_attention_heads % num_query_groups",
        "make num_query_groups a divisor of num_attention_heads",
    )
    _divides(codes.HEADS, what, (heads, groups), (*path, "model", "num_query_groups"), faults, remedy)


def _check_widths(model: Model, parallel: Parallel, path: Path, faults: Faults) -> None:
    ffn = model.ffn_hidden_size or 1
    axis = "tp" if model.num_moe_experts is None else "expt_tp"
    remedy = f"choose another {axis} or ffn_hidden_size"
    values = (ffn, getattr(parallel, axis))
    _divides(codes.WIDTHS, f"ffn_hidden_size % {axis}", values, (*path, "parallel", axis), faults, remedy)


def _check_image(module: Module, model: Model, path: Path, faults: Faults) -> None:
    if model.image_size is None or model.patch_size is None:
        return
    values = (model.image_size, model.patch_size)
    remedy = "choose a patch_size that divides image_size"
    _divides(codes.WIDTHS, "image_size % patch_size", values, (*path, "model", "patch_size"), faults, remedy)
    per_image = max(1, (model.image_size // model.patch_size) ** 2)
    tokens = module.output.tokens_per_sample
    if tokens is not None and tokens % per_image and per_image % tokens:
        rule = (
            f"tokens_per_sample is a multiple or a divisor of (image_size / patch_size)^2 = "
            f"({model.image_size} / {model.patch_size})^2 = {per_image}, got {tokens}"
        )
        at = (*path, "output", "tokens_per_sample")
        faults.add(codes.PATCH_TOKENS, at, rule, "check it against what the encoder really gives")


def _check_experts(model: Model | None, parallel: Parallel, path: Path, faults: Faults) -> None:
    if model is None:
        return
    experts = model.num_moe_experts
    if experts is None:
        if parallel.ep > 1:
            rule = f"ep = {parallel.ep} spreads experts, but the model has none"
            remedy = "remove ep, or add num_moe_experts to the model"
            faults.add(codes.EXPERTS, (*path, "parallel", "ep"), rule, remedy)
        if parallel.expt_tp > 1:
            rule = f"expt_tp = {parallel.expt_tp} splits experts, but the model has none"
            faults.add(codes.NO_EFFECT, (*path, "parallel", "expt_tp"), rule, "remove expt_tp")
        return
    remedy = f"choose ep from {_choices(experts)}"
    at = (*path, "parallel", "ep")
    _divides(codes.EXPERTS, "num_moe_experts % ep", (experts, parallel.ep), at, faults, remedy)
    topk = model.moe_router_topk or 1
    if topk > experts:
        rule = f"moe_router_topk <= num_moe_experts, got {topk} > {experts}"
        faults.add(codes.EXPERTS, (*path, "model", "moe_router_topk"), rule, f"choose at most {experts}")


def _check_sequence(spec: Spec, models: dict[str, Model | None], faults: Faults) -> None:
    """Check the sequences of known length: cp divides them, and tp divides language's under sequence parallelism."""
    for name, module in spec.modules.items():
        parallel = module.parallel or Parallel()
        is_language = name == MIMO_LANGUAGE_MODULE_KEY
        if parallel.sequence_parallel and parallel.tp == 1:
            rule = f"sequence_parallel splits the sequence over tp; tp of {name} is 1"
            at = ("modules", name, "parallel", "sequence_parallel")
            faults.add(codes.NO_EFFECT, at, rule, "remove sequence_parallel, or raise tp")
        length = spec.batch.seq_length if is_language else module.output.tokens_per_sample
        if length is None:
            continue
        label = "seq_length" if is_language else "tokens_per_sample"
        path = ("modules", name, "parallel")
        if parallel.cp > 1:
            remedy = f"choose another {label} or cp"
            _divides(
                codes.SEQUENCE,
                f"{label} % (2 * cp)",
                (length, 2 * parallel.cp),
                (*path, "cp"),
                faults,
                remedy,
            )
        if parallel.sequence_parallel and is_language:
            values = (length // parallel.cp, parallel.tp)
            remedy = f"choose another {label} or tp, or sequence_parallel: false"
            _divides(codes.SEQUENCE, f"{label} / cp % tp", values, (*path, "sequence_parallel"), faults, remedy)
        model = models[name]
        if is_language and model and model.max_positions is not None and length > model.max_positions:
            rule = f"seq_length <= max_positions of language, got {length} > {model.max_positions}"
            faults.add(codes.TOKENS, ("batch", "seq_length"), rule, "shorten the sequence, or raise max_positions")
