"""Where LoRA's factors start from.

Each layer draws from (seed, its name, its rank). With one global generator, A of r=8 would be the first rows of A of
r=64 and depend on the order of the modules; their subspaces would look alike before any training.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from peft import EvaConfig, LoraConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from rankwise.errors import Refused
from rankwise.model.methods.seeds import derived_seed
from rankwise.model.outputs import Batch, logits

Start = dict[str, tuple[torch.Tensor, torch.Tensor]]  # A and B before training, by the layer's name

_EVA_PASSES = 200  # batches after which directions that still turn are given up
_GRADIENT_BATCHES = 4  # of LoRA-GA
_GAMMA = 16  # its authors' default


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The layers that carry LoRA, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def initialise(model: nn.Module, init: str | None, seed: int) -> Start:
    """Set A and B of every layer; returns them where the base was changed, which needs them to be undone.

    ``zero_B`` (as null) is PEFT's Kaiming-uniform A, ``zero_A`` the same draw in B (Init[A] and Init[B] of Hayou et
    al. 2024). ``eva`` and ``lora_ga`` get theirs later, from data.
    """
    start: Start = {}
    for name, layer in layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        number = derived_seed(seed, name, a.shape[0])
        with torch.no_grad():
            if init in ("olora", "milora", "init_ab") or str(init).startswith("pissa"):
                start[name] = _take_from_base(layer, str(init), number)
            else:
                _draw(a, b, init, torch.Generator().manual_seed(number))
    return start


def _draw(a: torch.Tensor, b: torch.Tensor, init: str | None, generator: torch.Generator) -> None:
    rank = a.shape[0]
    a.zero_()
    b.zero_()
    if init == "zero_A":
        b.copy_(_kaiming(b, generator))
    elif init == "gaussian":
        a.copy_(torch.randn(a.shape, generator=generator) / rank)
    elif init == "orthogonal":  # two halves of one orthonormal basis of the r dimensions, so that BA = 0; as in PEFT
        basis, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
        a.copy_((torch.randn(a.shape[1], rank // 2, generator=generator) @ basis[0::2]).T / 10)
        b.copy_(torch.randn(b.shape[0], rank // 2, generator=generator) @ basis[1::2] / 10)
    else:
        a.copy_(_kaiming(a, generator))


def _kaiming(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return nn.init.kaiming_uniform_(torch.empty(weight.shape), a=math.sqrt(5), generator=generator)


def _take_from_base(layer: LoraLayer, init: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W = (W − s·B₀A₀) + s·B₀A₀; returns A₀ and B₀.

    PiSSA (Meng et al. 2024, equations 2–4), OLoRA (Büyükakyüz 2024, §3), MiLoRA (Wang et al. 2024) and
    Init[AB] (Li et al. 2025), with the bounds that Lee et al. 2026 draw it in.
    """
    if init.startswith("pissa"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of the approximate decomposition
            layer.pissa_init("default", init)
        for weight in (layer.get_base_layer().weight, *(factor.weight for factor in _factors(layer))):
            weight.data = weight.data.contiguous()
        return _copied(layer)
    rank, scale, weight = layer.r["default"], layer.scaling["default"], _weight(layer)
    if init == "olora":  # PEFT's own takes GPT-2's transposed weights as they lie
        q, r = torch.linalg.qr(weight.float())
        return _start_at(layer, r[:rank], q[:, :rank])
    if init == "milora":
        u, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        root = (s[-rank:] / scale).sqrt()
        return _start_at(layer, root[:, None] * vh[-rank:], u[:, -rank:] * root)
    generator, bound = torch.Generator().manual_seed(seed), weight.shape[1] ** -0.5
    a, b = (torch.empty(f.weight.shape).uniform_(-bound, bound, generator=generator) for f in _factors(layer))
    return _start_at(layer, a, b)


def _start_at(layer: LoraLayer, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Take s·BA out of the base and put A and B beside it; returns copies of both."""
    base = layer.get_base_layer()
    for factor, value in zip(_factors(layer), (a, b), strict=True):
        factor.weight.data = value.to(factor.weight).clone(memory_format=torch.contiguous_format)
    a, b = (factor.weight for factor in _factors(layer))
    rest = _weight(layer) - layer.scaling["default"] * (b @ a)
    base.weight.data = (rest.T if isinstance(base, Conv1D) else rest).contiguous()
    return _copied(layer)


def _weight(layer: LoraLayer) -> torch.Tensor:
    """(out, in), also of GPT-2, which keeps (in, out)."""
    base = layer.get_base_layer()
    return base.weight.data.T if isinstance(base, Conv1D) else base.weight.data


def _copied(layer: LoraLayer) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (factor.weight.detach().clone() for factor in _factors(layer))
    return a, b


def _factors(layer: LoraLayer) -> tuple[nn.Linear, nn.Linear]:
    return layer.lora_A["default"], layer.lora_B["default"]


def as_plain(config: LoraConfig) -> LoraConfig:
    """The config of twice the rank whose factors [A; A₀] and [B, −B₀] are the change from the untouched base.

    α grows so that every layer keeps its scale: twofold, √2-fold where it is divided by √r.
    """
    growth = math.sqrt(2) if config.use_rslora else 2.0
    values = config.to_dict() | {
        "r": 2 * config.r,
        "lora_alpha": growth * config.lora_alpha,
        "init_lora_weights": True,
        "rank_pattern": {name: 2 * rank for name, rank in config.rank_pattern.items()},
        "alpha_pattern": {name: growth * alpha for name, alpha in config.alpha_pattern.items()},
    }
    known = LoraConfig.__dataclass_fields__
    return LoraConfig(**{key: value for key, value in values.items() if known.get(key) and known[key].init})


def as_plain_state(model: nn.Module, start: Start) -> dict[str, torch.Tensor]:
    """The model's state with the factors of ``as_plain`` in place of its own."""
    state = model.state_dict()
    for name, (a, b) in start.items():
        for side, then in enumerate((a, -b)):
            full = f"{name}.lora_{'AB'[side]}.default.weight"
            state[full] = torch.cat([state[full], then.to(state[full])], dim=side)
    return state


def eva(model: PeftModel, batches: Iterable[Batch]) -> None:
    """Start A at the leading right-singular vectors of each layer's inputs (Paischer et al. 2024, §3.1–3.2).

    PEFT's incremental decomposition over the batches, in turn, until the directions stand still. ρ = 1: every layer
    keeps its rank, so that arms have the parameters that were planned.
    Raises Refused for batches that hold fewer tokens than the rank, or too little variety to settle the directions, and
    for layers that read anything else.
    """
    config = model.peft_config["default"]
    assert isinstance(config, LoraConfig)
    inputs = list(itertools.islice(batches, _EVA_PASSES))
    tokens = max((int(batch["attention_mask"].sum()) for batch in inputs), default=0)
    if tokens < config.r:
        raise Refused.value("method.rank", config.r, f"at most {tokens} with method.init=eva: the tokens of a batch")
    left = iter(range(_EVA_PASSES))

    def forward(model: nn.Module, batch: Batch) -> None:
        if next(left, None) is None:
            why = (
                f"the layers' inputs have not settled in {_EVA_PASSES} batches; use a smaller rank or more varied data"
            )
            raise Refused.value("method.init", "eva", f"a rank that the data can fill: {why}")
        logits(model, batch)

    targets = config.target_modules
    config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=1.0, use_label_mask=False)
    with torch.no_grad():
        initialize_lora_eva_weights(
            model,
            inputs,
            forward_fn=forward,
            prepare_model_inputs_fn=lambda batch, _: batch["attention_mask"].bool(),
            prepare_layer_inputs_fn=_at_tokens,
            show_progress_bar=False,
        )
    config.init_lora_weights, config.eva_config = True, None  # of no use to who loads the adapter
    config.target_modules = targets  # PEFT's list of them matches by suffix
    for _, layer in layers(model):
        for factor in _factors(layer):
            factor.weight.data = factor.weight.data.contiguous()


def _at_tokens(inputs: tuple[torch.Tensor, ...], mask: torch.Tensor, name: str) -> torch.Tensor:
    """What a layer reads of a batch but for its padding, (tokens, in)."""
    if inputs[0].shape[:2] != mask.shape:  # as DeBERTa's, through which its relative positions go, too
        name = name.removeprefix("base_model.model.")
        raise Refused.value("method.init", "eva", f"another start for {name}, which reads more than a batch's tokens")
    return inputs[0][mask]


def lora_ga(model: PeftModel, start: Start, batches: Iterable[Batch], loss: Callable[[Batch], torch.Tensor]) -> None:
    """Start A and B at singular vectors of the gradient of W over a few batches, so that the first step goes where full
    fine-tuning would (LoRA-GA: Wang et al. 2024, §3). Fills ``start``.

    A₀ is along its first r right ones, B₀ along the next r left ones, each times ⁴√d_out / √γ.
    """
    weights = {name: layer.get_base_layer().weight for name, layer in layers(model)}
    was_training = model.training
    model.eval()  # no dropout
    for weight in weights.values():
        weight.requires_grad_(True)
    for batch in itertools.islice(batches, _GRADIENT_BATCHES):
        loss(batch).backward()
    for name, layer in layers(model):
        gradient, rank = weights[name].grad.float(), layer.r["default"]
        u, _, vh = torch.linalg.svd(
            gradient.T if isinstance(layer.get_base_layer(), Conv1D) else gradient, full_matrices=False
        )
        size = u.shape[0] ** 0.25 / _GAMMA**0.5
        weights[name].requires_grad_(False)
        with torch.no_grad():
            start[name] = _start_at(layer, size * vh[:rank], size * u[:, rank : 2 * rank])
    model.zero_grad()
    for weight in weights.values():
        weight.grad = None
    model.train(was_training)
