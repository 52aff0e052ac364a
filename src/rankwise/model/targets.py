"""Which linear layers carry an adapter: presets that mean the same on every architecture."""

import re
from collections.abc import Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise.config import Targets
from rankwise.errors import Refused

# The role of a linear layer of a block, from the end of its name; the first that fits.
_ROLES = (
    ("qkv", r"(c_attn|qkv_proj|query_key_value|in_proj|Wqkv)"),
    ("q", r"(query|query_proj|q_proj|q_lin|q)"),
    ("k", r"(key|key_proj|k_proj|k_lin|k)"),
    ("v", r"(value|value_proj|v_proj|v_lin|v)"),
    ("o", r"(attention\.(output\.)?dense|attn\.(dense|c_proj|Wo|o)|o_proj|out_proj|out_lin|\w*Attention\.o)"),
    (
        "mlp",
        r"((intermediate|output)\.dense|(gate|up|down|gate_up)_proj|fc[12]|lin[12]|c_fc|c_proj|wi|wi_[01]|wo|"
        r"dense_h_to_4h|dense_4h_to_h)",
    ),
)
_OF_PRESET = {"attention": {"q", "k", "v", "qkv", "o"}, "mlp": {"mlp"}}  # others spell their roles: qv, qkvo
OF_BLOCK = re.compile(r"\.(\d+)\.")
_OF_POSITIONS = re.compile(r"\.pos_\w+$")  # DeBERTa's


def adapted_modules(base: nn.Module, targets: Targets) -> list[str]:
    """Full names of the linear layers that the targets mean, never the task head's.

    Raises Refused when nothing matches or one of ``modules`` does not, naming what would; for a part of a layer that
    fuses query, key and value; and for a preset on an attention with layers of unknown role, or on experts.
    """
    linears, parts = dict(block_linears(base)), _wants_parts(targets)
    if targets.layers is not None:
        blocks = {_block(name) for name in linears}
        if missing := set(targets.layers) - blocks:
            why = f"block {min(missing)} is not one of the {len(blocks)} blocks from 0"
            raise Refused.value("targets.layers", targets.layers, why)
    meant = {name: linear for name, linear in linears.items() if _in(name, targets)}
    for part in targets.modules or []:
        if not any(ends_with(name, part) for name in meant):
            raise Refused(_nothing(f"targets.modules={part}", meant))
    chosen = [name for name in linears if is_chosen(name, targets)]
    _refuse_unknown(targets, chosen, linears)
    if targets.name in ("all_linear", "mlp") and (odd := next((n for n in experts(base) if _in(n, targets)), None)):
        raise Refused(f"targets={targets.name}: {odd} and the like are no linear layers; use targets=attention")
    if not chosen or (parts and any(role(name) == "qkv" for name in linears if _in(name, targets))):
        if parts and any(role(name) == "qkv" for name in linears):
            what = "query, key and value are one fused layer in this model; use attention"
            raise Refused(f"targets={targets.name}: {what}")
        pattern = (targets.regex and f"regex={targets.regex}") or (targets.modules and f"modules={targets.modules}")
        raise Refused(_nothing(f"targets.{pattern}" if pattern else f"targets={targets.name}", linears))
    return chosen


def is_chosen(name: str, targets: Targets) -> bool:
    """Whether the targets mean a linear layer of this name, in a block that they mean."""
    return _wanted(name, targets) and _in(name, targets)


def modules_named(base: nn.Module, ends: list[str] | None) -> list[str]:
    """Full names of the modules that ``method.modules_to_save`` means by the last parts of their names."""
    return [name for name, _ in base.named_modules() if any(ends_with(name, end) for end in ends or [])]


def role(name: str) -> str | None:
    """q, k, v, qkv (fused), o or mlp; None for a linear layer of another kind."""
    # DeBERTa's pos_q_proj and pos_key_proj project positions, not tokens
    return next((role for role, pattern in _ROLES if re.search(rf"(^|\.|(?<!pos)_){pattern}$", name)), None)


def is_last_of_mlp(name: str) -> bool:
    """Whether a linear layer is the one that an MLP ends with."""
    last = r"(^|\.)(output\.dense|down_proj|fc2|lin2|c_proj|wo|dense_4h_to_h)$"
    return role(name) == "mlp" and re.search(last, name) is not None


def shape(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; GPT-2's Conv1D stores its weight the other way round."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features  # a quantized weight has another shape
    weight = module.get_parameter("weight")
    rows, columns = weight.shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _refuse_unknown(targets: Targets, chosen: list[str], linears: dict[str, nn.Module]) -> None:
    """A preset means all layers of its roles, so it is refused where an attention has others that may be of them."""
    if not _by_role(targets):
        return
    attentions = {name.rpartition(".")[0] for name in chosen if role(name) in ("q", "k", "v", "qkv", "o")}
    beside = [name for name in linears if name.rpartition(".")[0] in attentions and role(name) is None]
    if odd := sorted({OF_BLOCK.split(name)[-1] for name in beside if not _OF_POSITIONS.search(name)}):
        raise Refused(
            f"targets={targets.name}: the attention of this model has layers of unknown role, {', '.join(odd)}; "
            "use targets=custom"
        )


def _wanted(name: str, targets: Targets) -> bool:
    if targets.regex:
        return re.fullmatch(targets.regex, name) is not None
    if targets.modules:
        return any(ends_with(name, part) for part in targets.modules)
    return targets.name == "all_linear" or role(name) in _roles(targets)


def _wants_parts(targets: Targets) -> bool:
    return _by_role(targets) and "qkv" not in _roles(targets) and not _roles(targets).isdisjoint("qkv")


def _roles(targets: Targets) -> set[str]:
    return _OF_PRESET.get(str(targets.name)) or set(str(targets.name))


def _by_role(targets: Targets) -> bool:
    return not (targets.regex or targets.modules) and targets.name != "all_linear"


def _in(name: str, targets: Targets) -> bool:
    return targets.layers is None or _block(name) in targets.layers


def block_linears(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers inside numbered blocks: embeddings, poolers and heads have no number."""
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and OF_BLOCK.search(name):
            yield name, module


def experts(base: nn.Module) -> Iterator[str]:
    """Weights of a mixture of experts that are in no linear layer: transformers keeps those of all experts in one."""
    for name, module in base.named_modules():
        if "Expert" in type(module).__name__:
            yield from (f"{name}.{own}" for own, _ in module.named_parameters(recurse=False))


def _block(name: str) -> int:
    match = OF_BLOCK.search(name)
    assert match is not None
    return int(match[1])


def ends_with(name: str, part: str) -> bool:
    """Whether the last parts of a module's name are these, whole."""
    return f".{name}".endswith(f".{part}")


def _nothing(pattern: str, linears: dict[str, nn.Module]) -> str:
    ends = sorted({OF_BLOCK.split(name)[-1] for name in linears})
    return f"{pattern}: matches no linear layer of this model; there are {', '.join(ends) or 'none'}"
