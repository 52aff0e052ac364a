"""Causal language modelling: what is learned, how it is packed, and what its loss is."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_configs import tiny
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from torch.nn import functional as F  # noqa: N812  torch's own convention
from transformers import GenerationConfig, PreTrainedTokenizerFast

from rankwise.assets import resolve
from rankwise.errors import Refused
from rankwise.measure.flops import Tally
from rankwise.measure.ledger import Ledger
from rankwise.model import base
from rankwise.tasks.data import Data, Split
from rankwise.tasks.language import CollateText, EncodedText, Packed, end_ids, in_blocks, question, reply
from rankwise.tasks.scores import TokenScorer, language_scores
from rankwise.train import step
from rankwise.train.step import losses

DECODERS = ("llama", "gpt2", "qwen2")
PROMPTS = ["one", "two words", "", "a little longer than that"]
COMPLETIONS = ["un", "deux mots", "rien", "é"]


def split(prompts: list[str] = PROMPTS, completions: list[str] | None = COMPLETIONS, **keys: Any) -> Split:
    n = len(prompts)
    return Split(prompts, np.zeros(n), np.arange(n), completions=completions, **keys)


def model(shape: str) -> tuple[Any, Any]:
    config = tiny(shape)
    lm, tokenizer = base.load(config.model, resolve(config.model), 1, 0, "eager", kind="causal_lm")
    return lm.eval(), tokenizer


def whole(lm: Any, rows: EncodedText, row: int) -> float:
    """The summed loss of one row, computed alone and with all logits."""
    ids = torch.tensor(rows.ids[row])[None]
    with torch.no_grad():
        logits = lm(input_ids=ids).logits[0, :-1]
    each = F.cross_entropy(logits, ids[0, 1:], reduction="none")
    return float(each[torch.from_numpy(rows.learned[row][1:])].sum())


def test_the_completion_alone_is_learned_with_its_end():
    _, tokenizer = model("llama")
    rows = EncodedText(split(), tokenizer, 64, "train")
    for row, completion in enumerate(COMPLETIONS):
        learned = [token for token, wanted in zip(rows.ids[row], rows.learned[row], strict=True) if wanted]
        assert tokenizer.decode(learned).strip() == f"{completion}{tokenizer.eos_token}"
    assert rows.labelled.tolist() == [int(mask.sum()) for mask in rows.learned]
    assert rows.bytes[3] == len(" é".encode())


def test_white_space_between_prompt_and_completion_is_not_doubled():
    _, tokenizer = model("llama")
    rows = EncodedText(split(["a", "a ", "a"], ["b", "b", " b"]), tokenizer, 64, "train")
    assert rows.ids[0] == rows.ids[1] == rows.ids[2]


def test_a_tokenizer_that_sets_a_blank_before_every_text_sets_one_before_a_row():
    letters = ["<s>", "</s>", *"▁abcdeiklsuy[]\n", "▁b", "▁bl", "▁blu", "▁blue"]
    merges = [("▁", "b"), ("▁b", "l"), ("▁bl", "u"), ("▁blu", "e")]
    own = Tokenizer(BPE({letter: n for n, letter in enumerate(letters)}, merges))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # Llama 2's
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    talk = [{"role": role, "content": text} for role, text in (("user", "sky is"), ("assistant", "blue"))]
    for rows, learned in (
        (split(["sky is"], ["blue"]), ["▁blue", "</s>"]),
        (split([""], messages=[talk]), [*"[blue]"]),
    ):
        made = EncodedText(rows, tokenizer, 64, "train")
        tokens = tokenizer.convert_ids_to_tokens(made.ids[0])
        assert [token for token, wanted in zip(tokens, made.learned[0], strict=True) if wanted] == learned
        assert len(tokens) == made.lengths[0] and tokens[: -len(learned)] in ([*"▁sky▁is"], [*"▁[sky▁is]"])
    part = split([""] * 2, ["sky\n", "blue\n"])
    blocks = in_blocks(Data(part, part, part, None, ""), tokenizer, 64).test.blocks
    assert tokenizer.convert_ids_to_tokens(blocks[0]) == [*"▁sky\nblue\n"]


@pytest.mark.parametrize("shape", DECODERS)
def test_logits_at_the_learned_tokens_give_the_loss_of_all_logits(shape):
    lm, tokenizer = model(shape)
    rows, scorer = EncodedText(split(), tokenizer, 64, "train"), TokenScorer()
    batch = CollateText(tokenizer.pad_token_id)([rows[row] for row in range(4)])
    with torch.no_grad():
        logits, each = losses(lm, scorer, batch)
    columns = scorer.columns(logits, each, batch)
    assert len(logits) == rows.labelled.sum() < batch["input_ids"].numel()
    assert columns["score"].tolist() == pytest.approx([whole(lm, rows, row) for row in range(4)], rel=1e-5)
    assert columns["label"].tolist() == rows.labelled.tolist()


def test_fewer_logits_take_less_memory_and_fewer_operations_and_give_the_same_gradients():
    lm, tokenizer = model("llama")
    rows = EncodedText(
        split(["a question that is much longer than its answer"] * 8, ["no"] * 8), tokenizer, 64, "train"
    )
    batch = CollateText(tokenizer.pad_token_id)([rows[row] for row in range(8)])

    def whole_batch() -> torch.Tensor:
        logits = lm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.flatten(0, 1)
        return F.cross_entropy(logits[batch["keep"]].float(), batch["labels"])

    def chosen() -> torch.Tensor:
        return losses(lm, TokenScorer(), batch)[1].mean()

    def measured(loss: Any) -> tuple[int, int, torch.Tensor]:
        lm.zero_grad(set_to_none=True)
        with Ledger(lm) as ledger, Tally() as counted:
            loss().backward()
        gradient = torch.cat([p.grad.flatten() for p in lm.parameters() if p.grad is not None])
        return ledger.footprint().peak, counted.flops, gradient

    (memory, flops, gradient), (less, fewer, same) = measured(whole_batch), measured(chosen)
    assert less < memory and fewer < flops
    assert torch.allclose(gradient, same, atol=1e-6)


@pytest.mark.parametrize("shape", DECODERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_packed_example_never_sees_another(shape, attention):
    config = tiny(shape)
    lm, tokenizer = base.load(config.model, resolve(config.model), 1, 0, attention, kind="causal_lm")
    lm.eval()
    rows, scorer = EncodedText(split(), tokenizer, 64, "train"), TokenScorer()
    packed = Packed(rows, 40, seed=0)
    assert 1 < len(packed) < len(rows) and max(packed.lengths) <= 40
    batch = CollateText(tokenizer.pad_token_id)([packed[number] for number in range(len(packed))])
    with torch.no_grad():
        columns = scorer.columns(*losses(lm, scorer, batch), batch)
    alone = [sum(whole(lm, rows, row) for row in members) for members in packed.bins]
    assert columns["score"].tolist() == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_a_text_in_blocks_has_the_perplexity_of_its_tokens(shape):
    lm, tokenizer = model(shape)
    texts = [f"the {i}th sea is as deep as {i} oaks" + "\n" * (i != 4) for i in range(9)]
    part = split([""] * 9, texts)
    blocks = in_blocks(Data(part, part, part, None, ""), tokenizer, 16).test
    rows, scorer = EncodedText(blocks, tokenizer, 16, "test"), TokenScorer()
    begin = [token for token in tokenizer("")["input_ids"][:1] if token == tokenizer.bos_token_id]
    joined = "".join([*texts[:5], tokenizer.eos_token, *texts[5:]])
    tokens = tokenizer(joined, add_special_tokens=False)["input_ids"]
    room = 16 - len(begin)
    chunks = [begin + tokens[start : start + room] for start in range(0, len(tokens), room)]
    assert rows.ids == [chunk for chunk in chunks if len(chunk) > 1] and rows.cut == 0
    one = split([""], ["x" * 30 + "\n"])
    last = in_blocks(Data(one, one, one, None, ""), tokenizer, 16).test.blocks
    assert [*map(len, last)] == ([15, 15, 1] if begin else [16, 15]), "behind a token that begins, one can be learned"
    batch = CollateText(tokenizer.pad_token_id)([rows[row] for row in range(len(rows))])
    with torch.no_grad():
        columns = scorer.columns(*losses(lm, scorer, batch), batch)
        asked = [torch.tensor([ids]) for ids in rows.ids]
        each = [float(lm(input_ids=ids, labels=ids).loss) * (ids.numel() - 1) for ids in asked]
    assert columns["label"].tolist() == [len(ids) - 1 for ids in rows.ids]
    assert columns["score"].tolist() == pytest.approx(each, rel=1e-4)


def test_packing_keeps_every_row_once():
    _, tokenizer = model("llama")
    rows = EncodedText(split(PROMPTS * 10, COMPLETIONS * 10), tokenizer, 64, "train")
    packed = Packed(rows, 64, seed=3)
    assert sorted(row for members in packed.bins for row in members) == list(range(40))
    assert packed.bins != Packed(rows, 64, seed=4).bins


TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c }}]{% endfor %}"
TALK = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]


def chat(template: str | None, talk: list[dict[str, Any]], **keys: Any) -> tuple[Any, EncodedText, str]:
    """A tokenizer with this template, a conversation as it encodes it, and what is learned of it."""
    _, tokenizer = model("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eot>"]})
    tokenizer.chat_template = template
    rows = EncodedText(split([""], None, messages=[talk]), tokenizer, 128, "train", **keys)
    learned = [token for token, wanted in zip(rows.ids[0], rows.learned[0], strict=True) if wanted]
    return tokenizer, rows, tokenizer.decode(learned)


@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""])
def test_a_conversation_begins_with_one_start_token_whoever_writes_it(bos):
    tokenizer, rows, _ = chat(bos + TURNS + "{% endfor %}", TALK)
    begun = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    assert rows.ids[0].count(tokenizer.bos_token_id) == int(bool(bos) or begun)
    if bos:
        assert rows.ids[0] == tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=False)


def test_an_answer_ends_where_the_template_or_the_model_ends_one():
    tokenizer, _, learned = chat(TURNS + "<eot>\n{% endfor %}", TALK)
    end, tokenizer_end = tokenizer.convert_tokens_to_ids("<eot>"), tokenizer.eos_token_id
    settings = GenerationConfig(eos_token_id=[7, 9])
    assert "<eot>" in learned
    assert set(end_ids(tokenizer, settings, conversations=True)) == {end, tokenizer_end, 7, 9}
    assert set(end_ids(tokenizer, GenerationConfig(), conversations=False)) == {tokenizer_end}
    tokenizer.chat_template = TURNS + " that is all{% endfor %}"
    assert set(end_ids(tokenizer, None, conversations=True)) == {tokenizer_end}, "a word may stand in an answer too"


def test_every_reply_of_a_conversation_is_learned_and_nothing_else():
    tokenizer, _, learned = chat(TURNS + "{% endfor %}", TALK)
    one = split([""], None, messages=[TALK])
    assert learned == "<assistant>b<assistant>d"
    assert (question(one, 0, tokenizer), reply(one, 0)) == ("<user>a<assistant>b<user>c", "d")


def test_calls_of_tools_are_learned_and_replies_of_no_weight_are_not():
    call = {"role": "assistant", "content": "", "tool_calls": ["look"]}
    assert chat(TURNS + "{% endfor %}", [TALK[0], call])[2] == "<assistant>[look]"
    assert chat(TURNS + "{% endfor %}", [TALK[0], TALK[1] | {"weight": 0}, *TALK[2:]])[2] == "<assistant>d"
    assert reply(split([""], None, messages=[[TALK[0], call]]), 0) == '["look"]'
    older = {"role": "assistant", "content": "", "function_call": {"name": "look"}}
    assert reply(split([""], None, messages=[[TALK[0], older]]), 0) == '{"name": "look"}'
    deaf = TURNS.partition("{% for c")[0] + "<eot>{% endfor %}"
    with pytest.raises(Refused, match=r"chat template does not write calls of tools, .*; give another model"):
        chat(deaf, [TALK[0], call])
    assert chat(deaf, [TALK[0], call, *TALK[2:]], last=True)[2] == "<assistant>d<eot>"
    with_tools = "{{ tools or '' }}" + TURNS + "{% endfor %}"
    tokenizer, rows, _ = chat(with_tools, [TALK[0] | {"tools": [{"name": "look"}]}, call])
    assert "[{'name': 'look'}]<user>a" in tokenizer.decode(rows.ids[0])


def test_where_a_template_rewrites_earlier_turns_the_last_reply_alone_can_be_learned():
    rewriting = TURNS + "{% if loop.last %}!{% endif %}{% endfor %}"
    with pytest.raises(Refused, match=r"rewrites earlier turns, .*; task.replies=last"):
        chat(rewriting, TALK)
    template = (
        "{% for m in messages %}{% if not loop.last %}<{{ m.role }}>{{ m.content }}{% else %}"
        "{% if m.role == 'assistant' %}<{{ m.role }}>think {{ m.content }}{% else %}<{{ m.role }}>{{ m.content }}"
        "{% endif %}{% endif %}{% endfor %}"
    )
    with pytest.raises(Refused, match=r"task.replies=last"):
        chat(template, TALK)
    assert chat(template, TALK, last=True)[2] == "<assistant>think d"
    unasked = template + "{% if add_generation_prompt %}<assistant>!{% endif %}"
    with pytest.raises(Refused, match="does not write a reply behind what asks for it; give another model"):
        chat(unasked, TALK, last=True)
    with pytest.raises(Refused, match="this model's tokenizer has no chat template"):
        chat(None, TALK)


def test_a_prompt_that_leaves_no_room_is_refused_with_its_row():
    _, tokenizer = model("gpt2")
    rows = split(["short", "much longer than sixteen", "x" * 40], ["a", "b", "c"])
    with pytest.raises(
        Refused, match=r"^task\.max_length=16: must be above 41, .* prompt, example 3 \(test\).*raise it"
    ):
        EncodedText(rows, tokenizer, 16, "test")
    assert len(EncodedText(rows, tokenizer, 42, "test")) == 3
    with pytest.raises(Refused, match="shorten the prompt"):
        EncodedText(split(["x" * 200], ["a"]), tokenizer, 64, "test")
    with pytest.raises(Refused, match=r"task\.max_length=4096: .*positions"):
        EncodedText(split(), tokenizer, 4096, "train")


def test_a_row_that_is_too_long_loses_its_end_and_is_counted():
    _, tokenizer = model("gpt2")
    rows = EncodedText(split(["a", "b"], ["c" * 50, "d"]), tokenizer, 16, "train")
    assert rows.cut == 1 and rows.lengths.tolist() == [16, len(rows.ids[1])]


def test_perplexity_is_over_tokens_and_bits_per_byte_over_bytes():
    nats, tokens, size = np.array([2.0, 6.0, 1.0]), np.array([4.0, 2.0, 2.0]), np.array([10, 8, 2])
    found = language_scores(nats, tokens, size)
    assert found["loss"]["value"] == pytest.approx(9 / 8)
    assert found["perplexity"]["value"] == pytest.approx(math.exp(9 / 8))
    assert found["bits_per_byte"]["value"] == pytest.approx(9 / math.log(2) / 20)


def test_the_error_of_the_loss_is_that_of_resampled_texts():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30, 400).astype(float)
    nats = tokens * rng.gamma(4, 0.5, 400)
    found = language_scores(nats, tokens, tokens)["loss"]
    draws = rng.integers(0, 400, (2000, 400))
    spread = (nats[draws].sum(1) / tokens[draws].sum(1)).std()
    assert found["se"] == pytest.approx(spread, rel=0.1)


def test_micro_batches_weigh_by_what_they_ask():
    """Two of them give the gradient of both together, however their learned tokens are shared out."""
    lm, tokenizer = model("llama")
    rows = EncodedText(split(), tokenizer, 64, "train")
    collate, scorer = CollateText(tokenizer.pad_token_id), TokenScorer()

    def gradient(groups: list[list[int]]) -> torch.Tensor:
        lm.zero_grad(set_to_none=True)
        for members, share in zip(groups, step.shares([rows.shape(group) for group in groups]), strict=True):
            each = losses(lm, scorer, collate([rows[row] for row in members]))[1]
            (step.loss(lm, each, share) / len(groups)).backward()
        return torch.cat([p.grad.flatten() for p in lm.parameters() if p.grad is not None])

    assert torch.allclose(gradient([[0, 1, 2, 3]]), gradient([[0], [1, 2, 3]]), atol=1e-6)


@pytest.mark.parametrize("shape", ["bert", "roberta"])
def test_an_encoder_cannot_learn_to_write(shape):
    with pytest.raises(Refused, match=r"reads in both directions.*, or for a trial model=tiny_llama"):
        model(shape)
