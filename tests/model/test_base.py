"""The base LM from a folder, a GGUF file or a shape; what is refused, in one line, and what is never run."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_configs import SHAPES, tiny

from rankwise.assets import resolve
from rankwise.cli import main
from rankwise.errors import Refused
from rankwise.model import base
from rankwise.model.adapt import adapt
from rankwise.model.gguf import unpacked
from rankwise.tasks.batches import Encoded


def load(folder: Path, seed: int = 0) -> tuple[Any, Any]:
    model = tiny(model__path=str(folder)).model
    return base.load(model, resolve(model), 3, seed)


def edit(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes them out."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the saved weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_model_comes_back_in_fp32_with_a_head_of_the_tasks_size(saved, shape):
    folder = saved(shape)
    model, tokenizer = load(folder)
    body = load_file(folder / "model.safetensors")
    own = dict(model.named_parameters())
    heads = base.head_names(model)
    same = {name for name in body if name.split(".")[0] not in heads}
    assert same and all(torch.equal(own[name], body[name]) for name in same)
    assert {p.dtype for p in own.values()} == {torch.float32}
    texts = tokenizer(["a", "a longer one"], padding=True, return_tensors="pt")
    assert model.eval()(**texts).logits.shape == (2, 3)


def test_the_head_depends_on_the_seed_alone_and_the_body_on_none(saved):
    folder = saved("bert")
    first = load(folder)[0]
    torch.rand(3)
    again, other = load(folder)[0], load(folder, seed=1)[0]
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.pooler.dense.weight, other.bert.pooler.dense.weight)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused_with_both_numbers(saved, capsys):
    folder = saved("llama")
    model, tokenizer = load(folder)
    rows = model.get_input_embeddings().num_embeddings
    tokenizer.add_tokens([f"<more {i}>" for i in range(rows + 3 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    with pytest.raises(Refused, match=rf"^model.path=.* {rows + 3} tokens .* embeddings for {rows}; .*resize_token_em"):
        load(folder)
    assert main(["plan", "debug=fast", "model=local", f"model.path={folder}"]) == 2
    assert f"{rows + 3} tokens" in capsys.readouterr().err


@pytest.mark.parametrize("shape", SHAPES)
def test_the_head_of_a_checkpoint_is_drawn_anew(saved, shape):
    """Of the same size or not, and as if the checkpoint had none."""
    folder = saved(shape)
    weights = load_file(folder / "model.safetensors")
    model = tiny(model__path=str(folder)).model

    def head(outputs: int) -> dict[str, torch.Tensor]:
        lm, _ = base.load(model, resolve(model), outputs, 0)
        return {name: p for name, p in lm.named_parameters() if name.split(".")[0] in base.head_names(lm)}

    same, other = head(2), head(4)
    assert all(p.abs().max() == 0 or not torch.equal(p, weights[name]) for name, p in same.items())
    assert max(len(p) for p in other.values()) >= 4
    rewrite(folder, lambda w: [w.pop(name) for name in same])
    assert all(torch.equal(p, same[name]) for name, p in head(2).items())


def test_a_checkpoint_without_a_pooler_is_a_model_and_told(saved, capfd):
    folder = saved("bert")
    rewrite(folder, lambda w: [w.pop(f"bert.pooler.dense.{kind}") for kind in ("weight", "bias")])
    assert load(folder)[0].bert.pooler is not None
    assert capfd.readouterr().err == (
        f"rankwise: model {folder}: its pooler is not in the file and drawn at random; method=full trains it, adapters "
        "leave it as it is unless method.modules_to_save=[pooler]\n"
    )


def test_half_precision_weights_are_trained_in_fp32(saved):
    folder = saved("llama")
    load(folder)[0].half().save_pretrained(folder)
    assert {p.dtype for p in load(folder)[0].parameters()} == {torch.float32}


def test_padding_changes_no_logits_where_the_tokenizer_has_no_padding_token(saved):
    folder = saved("gpt2")
    edit(folder / "tokenizer_config.json", pad_token=None)
    edit(folder / "config.json", pad_token_id=None)
    model, tokenizer = load(folder)
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    model.eval()
    together = model(**tokenizer(["short", "a much longer text"], padding=True, return_tensors="pt")).logits
    alone = model(**tokenizer(["short"], return_tensors="pt")).logits
    assert torch.allclose(together[:1], alone, atol=1e-6)


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _remote_code(folder: Path) -> None:
    code = f"open({str(folder / 'RAN')!r}, 'w')\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    models = dict.fromkeys(("AutoConfig", "AutoModelForSequenceClassification"), "evil.Evil")
    edit(folder / "config.json", model_type="evil", auto_map=models)
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]})


SPECIAL = [f"{kind}_token" for kind in ("pad", "eos", "sep", "bos", "cls", "unk")]
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle only": (_pickled, "weights in .bin only, which can run code; convert them once, if you trust them"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x99" * 99), "cannot be loaded"),
    "an error page": (lambda f: (f / "model.safetensors").write_text("<html>404</html>"), "cannot be loaded"),
    "weights of another size": (lambda f: edit(f / "config.json", hidden_size=64), "do not fit its config.json"),
    "a hole in the weights": (
        lambda f: rewrite(f, lambda w: w.pop("bert.encoder.layer.1.output.dense.weight")),
        "do not fit its config.json (bert.encoder.layer.1.output.dense.weight)",
    ),
    "weights of another model": (
        lambda f: rewrite(f, lambda w: w.update({f"x.{k}": w.pop(k) for k in list(w)})),
        "do not fit its config.json",
    ),
    "a vision model": (lambda f: (f / "config.json").write_text('{"model_type": "vit"}'), "cannot be loaded"),
    "an unknown model": (lambda f: edit(f / "config.json", model_type="zzz"), "model type `zzz`"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON"),
    "config null": (lambda f: (f / "config.json").write_text("null"), "cannot be loaded"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "cannot be loaded"),
    "config empty": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "heads that do not divide": (lambda f: edit(f / "config.json", num_attention_heads=5), "not a multiple"),
    "torn tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded"),
    "no tokenizer": (
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "has no tokenizer",
    ),
    "a tokenizer without words": (
        lambda f: edit(f / "tokenizer.json", model={"type": "BPE", "vocab": {"<unk>": 3}, "merges": []}),
        "its tokenizer knows special tokens only; save",
    ),
    "nothing to pad with": (
        lambda f: edit(
            f / "tokenizer_config.json", **dict.fromkeys(SPECIAL), tokenizer_class="PreTrainedTokenizerFast"
        ),
        "neither a padding nor an end token",
    ),
    "code of a stranger": (_remote_code, "custom code"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_folder_that_is_no_model_is_refused_in_one_line(saved, broken, monkeypatch, capsys):
    folder = saved("gpt2" if broken == "nothing to pad with" else "bert")
    spoil, reason = BROKEN[broken]
    spoil(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    with pytest.raises(Refused) as refused:
        load(folder)
    line = str(refused.value)
    assert line.startswith(f"model {folder}: ") and reason in line
    assert "\n" not in line and len(line) < 300 + len(str(folder))
    assert not (folder / "RAN").exists()
    assert capsys.readouterr().out == ""


def test_code_in_a_known_models_folder_is_not_run(saved, monkeypatch):
    folder = saved("bert")
    _remote_code(folder)
    edit(folder / "config.json", model_type="bert")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    load(folder)
    assert not (folder / "RAN").exists()


def test_a_folder_without_a_config_is_refused_before_it_is_opened(tmp_path):
    with pytest.raises(Refused, match=r"^model.path=.*config.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"model_type": "zzz"}, "Unrecognized model identifier"),
        ({"hidden_size": 4}, "model_type"),
        ({"model_type": "bert", "hidden_size": 33, "num_attention_heads": 2}, "not a multiple"),
        ({"model_type": "bert", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "vit"}, "ViTConfig"),
    ],
    ids=str,
)
def test_a_shape_that_is_no_model_is_refused_in_one_line(shape, reason):
    model = tiny(model__shape=shape).model
    with pytest.raises(Refused) as refused:
        base.load(model, resolve(model), 2, 0)
    line = str(refused.value)
    begins = ("model.shape: ", "model: vit cannot be built for task.kind=classification (")
    assert line.startswith(begins) and reason in line and len(line) < 300


@pytest.mark.parametrize(("shape", "longest"), [("bert", 128), ("roberta", 128 - 1), ("gpt2", 128), ("llama", 1024)])
def test_texts_may_be_as_long_as_there_are_positions_and_no_longer(shape, longest):
    """RoBERTa's positions begin behind the padding token's number, here 0; Llama computes its own."""
    model = tiny(shape).model
    lm, tokenizer = base.load(model, resolve(model), 2, 0)
    rows = Encoded(["x" * 9999], np.zeros(1), tokenizer, longest)
    assert lm(torch.tensor([rows[0]["input_ids"]])).logits.shape == (1, 2) and rows.lengths[0] == longest
    with pytest.raises(Refused, match=f"^task.max_length={longest + 1}: at most {longest},"):
        Encoded(["x" * 999], np.zeros(1), tokenizer, longest + 1)


def test_the_byte_tokenizer_takes_any_text_and_gives_it_back():
    tokenizer = base.byte_tokenizer()
    texts = ["plain", "naïve 😀 \t\n", "", "漢字"]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert len(ids) == len(text.encode()) + 2
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == 256 + 4


@pytest.fixture
def gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "tiny.gguf"


def test_a_gguf_file_is_unpacked_to_plain_layers_that_carry_adapters(gguf_file):
    weights = write_gguf(gguf_file)
    for given in (gguf_file, gguf_file.parent):  # the file, or the folder that it is in
        model = tiny(model__path=str(given)).model
        lm, tokenizer = base.load(model, resolve(model), 2, 0)
        assert torch.equal(lm.model.layers[1].mlp.up_proj.weight, torch.tensor(weights["blk.1.ffn_up.weight"]))
        assert {p.dtype for p in lm.parameters()} == {torch.float32}
        assert base.location(resolve(model), model)[1] == {}, "the unpacked weights serve from now on"
    adapted = adapt(lm, tiny("llama", targets="all_linear"))
    assert len(adapted.lora["ranks"]) == 2 * 7
    texts = tokenizer(["a b", "b"], padding=True, return_tensors="pt")
    assert adapted.model(**texts).logits.isfinite().all()


def test_fetch_unpacks_a_gguf_file(gguf_file, capsys):
    write_gguf(gguf_file)
    assert unpacked(gguf_file) is None
    assert main(["fetch", "model=local", f"model.path={gguf_file}", "task=synthetic"]) == 0
    folder = unpacked(gguf_file)
    assert folder is not None and (folder / "model.safetensors").is_file()
    assert capsys.readouterr().out.endswith(f": {folder}\nsynthetic: 600 generated rows\n")


def test_a_torn_gguf_file_or_none_that_can_be_read_is_refused_in_one_line(gguf_file, monkeypatch):
    write_gguf(gguf_file)
    gguf_file.write_bytes(gguf_file.read_bytes()[:3000])
    with pytest.raises(Refused, match=r"^model .*tiny.gguf: cannot be loaded"):
        load(gguf_file)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"tiny\.gguf: a GGUF file needs the package gguf; pip install gguf$"):
        load(gguf_file)


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A Llama of two blocks with random weights, and a tokenizer of a few pieces; returns the weights."""
    gguf = pytest.importorskip("gguf")
    width, inner, rng = 32, 64, np.random.default_rng(0)
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "\u2581a", "\u2581b"]
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"context_length": 128, "embedding_length": width, "block_count": 2, "feed_forward_length": inner}
    sizes |= {"head_count": 4, "head_count_kv": 2, "rope_dimension_count": width // 4, "layer_norm_rms_eps": 1e-5}
    tokens = {"vocab_size": len(pieces), "tokenizer_model": "llama", "token_list": pieces}
    tokens |= {"token_scores": [float(-i) for i in range(len(pieces))], "token_types": [2, 3, 3, 1, 1, 1, 1, 1]}
    tokens |= {"unk_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    for key, value in (sizes | tokens).items():
        getattr(writer, f"add_{key}")(value)
    layers = dict.fromkeys(("attn_norm", "ffn_norm"), (width,))
    layers |= dict.fromkeys(("attn_q", "attn_output"), (width, width))
    layers |= dict.fromkeys(("attn_k", "attn_v"), (width // 2, width))
    layers |= dict.fromkeys(("ffn_gate", "ffn_up"), (inner, width)) | {"ffn_down": (width, inner)}
    shapes = {"token_embd": (len(pieces), width), "output_norm": (width,)}
    shapes |= {f"blk.{block}.{name}": shape for block in range(2) for name, shape in layers.items()}
    weights = {f"{name}.weight": rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_weights_are_the_pages_of_their_file_which_all_runs_share(saved_base):
    where = saved_base("bert")
    model = tiny("bert", model__path=str(where)).model
    lm, _ = base.load(model, resolve(model), 2, 0)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(where) in line]
    ranges = [[int(end, 16) for end in span.split("-")] for span, *_ in lines]
    assert ranges and all(any(low <= p.data_ptr() < high for low, high in ranges) for p in lm.parameters())
