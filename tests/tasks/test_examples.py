"""Examples of a causal LM: prompts, references, templates, conversations, plain texts; and the published formats."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import test_tables
from test_tables import content, places, records

from rankwise.assets import resolve
from rankwise.config import Task
from rankwise.errors import Refused
from rankwise.study.compose import composed
from rankwise.tasks.data import Data, load
from rankwise.tasks.examples import examples
from rankwise.tasks.tables import Table

PARTS = ("train", "validation", "test")
PROMPTS = [f"the {i}th sea is as deep as" for i in range(100)]


def read(path: Path, **keys: Any) -> Data:
    return test_tables.read(path, kind="causal_lm", **keys)


def shipped(name: str, **keys: Any) -> Data:
    """The data of ``conf/task/<name>.yaml``."""
    place = [f"task.path={keys['path']}"] if "path" in keys else []
    task = replace(composed(["model=tiny_llama", f"task={name}", *place]).task, **keys)
    return load(task, resolve(task), 0)


def json_lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(data: Data) -> list[list[tuple[str, str]]]:
    """Prompt and completion of each row, by part."""
    return [list(zip(part.texts, part.completions or [], strict=True)) for part in map(data.__getattribute__, PARTS)]


def test_references_of_one_prompt_stay_together_whatever_is_between_them(tmp_path):
    rows = [{"prompt": text, "completion": f"{i} oaks"} for i in range(3) for text in PROMPTS]
    data = read(json_lines(tmp_path, rows), prompt="prompt", completion="completion")
    found = [{prompt for prompt, _ in part} for part in said(data)]
    assert sum(map(len, found)) == 100 and len(set.union(*found)) == 100
    assert sorted(pair for part in said(data) for pair in part) == sorted(tuple(row.values()) for row in rows)
    assert data.classes is None and data.test.labels.tolist() == [0] * len(data.test)


def test_a_list_of_completions_is_a_row_for_each(tmp_path):
    rows = [{"prompt": text, "completion": [f"{i} oaks" for i in range(3)]} for text in PROMPTS]
    lists = json_lines(tmp_path, rows)
    pd.DataFrame(rows).explode("completion").to_csv(tmp_path / "data.csv", index=False)
    keys = {"prompt": "prompt", "completion": "completion"}
    assert read(lists, **keys).fingerprint == read(tmp_path / "data.csv", **keys).fingerprint
    assert sorted(item for part in PARTS for item in getattr(read(lists, **keys), part).items) == list(range(300))


def test_duplicates_are_prompts_with_the_same_completion(tmp_path):
    rows = [{"prompt": text, "completion": end} for text in PROMPTS for end in ("one", "two", "One!")]
    data = read(json_lines(tmp_path, rows), prompt="prompt", completion="completion", deduplicate=True)
    assert [end for part in said(data) for _, end in part] == ["one", "two"] * 100


def test_a_template_makes_the_prompt_of_columns_and_keeps_what_is_written(tmp_path):
    rows = [{"word": f"oak {i}", "part of speech": "noun", "gloss": f" a tree {i}\n"} for i in range(100)]
    data = read(json_lines(tmp_path, rows), template="{word} ({part of speech}):", completion="gloss", prompt="word")
    assert ("oak 7 (noun):", " a tree 7\n") in [pair for part in said(data) for pair in part]
    with pytest.raises(Refused, match=r"^task.template=pos: .*data.jsonl line 1 has the columns word, part of spee"):
        read(json_lines(tmp_path, rows), template="{word} ({pos}):", completion="gloss")


def test_a_text_alone_is_learned_whole_and_split_by_itself(tmp_path):
    data = read(json_lines(tmp_path, [{"text": text} for text in PROMPTS]))
    for name, part in zip(PARTS, said(data), strict=True):
        assert part and {prompt for prompt, _ in part} == {""}
        assert all((place < 0.25) == (name == "test") for place in places([text for _, text in part]))


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def test_conversations_are_split_by_what_the_user_says_first(tmp_path):
    system = [{"role": "system", "content": text} for text in ("Be brief.", "Be kind.")]
    more = [(), ("And now?", "Now too.")]
    rows = [[system[k], *talk(f"Hello {i}", "Hi", *more[k])] for i in range(100) for k in range(2)]
    path = json_lines(tmp_path, [{"messages": row, "id": 1} for row in rows])
    data = read(path, messages="messages")
    parts = [data.train, data.validation, data.test]
    assert sorted(map(str, rows)) == sorted(str(row) for part in parts for row in part.messages or [])
    opened = [{row[1]["content"] for row in part.messages or []} for part in parts]
    assert sum(map(len, opened)) == 100
    assert set(data.test.texts) == opened[2] | {"And now?"} and data.test.completions is None
    cells = pd.DataFrame({"messages": [json.dumps(row) for row in rows]})
    cells.to_csv(tmp_path / "data.csv", index=False)
    pd.DataFrame({"messages": rows}).to_parquet(tmp_path / "data.parquet")
    for other in ("data.csv", "data.parquet"):
        again = read(tmp_path / other, messages="messages")
        assert again.fingerprint == data.fingerprint and again.test.messages == data.test.messages


TOLD = {"role": "user", "content": None}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no reply": ({"m": talk("Hi")}, {"messages": "m"}, "^task.messages=m: .*l line 2 holds .*must end with a reply"),
    "an empty reply": ({"m": talk("Hi", " ")}, {"messages": "m"}, "end with a reply .* not be empty; task.skip_empty"),
    "no call": (
        {"m": [*talk("Hi"), {"role": "assistant", "content": "", "tool_calls": []}]},
        {"messages": "m"},
        "empty; t",
    ),
    "null": ({"m": [*talk("Hi"), {"from": "gpt", "value": None}]}, {"messages": "m"}, "must not be empty; t"),
    "an empty reply before": (
        {"m": talk("Hi", "", "So", "Yes")},
        {"messages": "m"},
        "must not be empty; task.skip_empty",
    ),
    "a null question": ({"m": [TOLD, *talk("", "So")[1:]]}, {"messages": "m"}, "needs a message of the user before"),
    "no message": ({"m": []}, {"messages": "m"}, "must end with a reply"),
    "a reply to nobody": ({"m": talk("Hi", "So")[1:]}, {"messages": "m"}, "needs a message of the user before the"),
    "another role": ({"m": [{"role": "bot", "content": "Hi"}]}, {"messages": "m"}, "whose roles are system, dev"),
    "a list for a sender": ({"m": [{"from": ["x"], "value": "y"}]}, {"messages": "m"}, "not a list of {role, content}"),
    "no content": ({"m": [{"role": "user"}]}, {"messages": "m"}, "not a list of {role, content}"),
    "broken JSON": ({"m": "[{"}, {"messages": "m"}, r"line 2 holds '\[\{', not a list of messages in JSON"),
    "an empty completion": ({"p": "x", "c": ""}, {"prompt": "p", "completion": "c"}, "=c: .* line 2 holds '', no text"),
    "an empty reference": ({"p": "x", "c": ["y", ""]}, {"prompt": "p", "completion": "c"}, "line 2 holds '', no text"),
    "no references": ({"p": "x", "c": []}, {"prompt": "p", "completion": "c"}, r"line 2 holds \[\], no text"),
    "an empty prompt": ({"p": " ", "c": "y"}, {"prompt": "p", "completion": "c"}, "^task.prompt=p: .*no text; t"),
    "an empty column of a template": ({"p": "", "c": "y"}, {"template": "{p}:", "completion": "c"}, "=p: .*no text; t"),
    "nothing to write": ({"p": "x"}, {"prompt": "p"}, "^task.completion=null: the column of what is to be written"),
    "an empty text": ({"text": None}, {}, "^task.text=text: .* line 2 holds None, no text; task.sk"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_refused_with_its_line(tmp_path, case):
    row, keys, line = REFUSED[case]
    path = json_lines(tmp_path, [row])
    path.write_text("\n" + path.read_text())
    with pytest.raises(Refused, match=line):
        read(path, **keys)


def test_e2e_is_read_from_its_files(tmp_path):
    for name, start in (("trainset", 0), ("devset", 20), ("testset_w_refs", 30)):
        rows = [
            (f"name[Oak {i}], near[the sea, east]", f'"Oak {i}" is {k} by the sea.')
            for i in range(start, start + 5)
            for k in ("near", "right")
        ]
        pd.DataFrame(rows, columns=["mr", "ref"]).to_csv(tmp_path / f"{name}.csv", index=False)
    data = shipped("e2e", path=str(tmp_path))
    assert [len(part) for part in said(data)] == [10, 10, 10]
    assert said(data)[2][:2] == [
        ("name[Oak 30], near[the sea, east]", f'"Oak 30" is {k} by the sea.') for k in ("near", "right")
    ]


def test_webnlg_and_dart_write_triples_as_text(tmp_path):
    def webnlg(i: int) -> dict[str, Any]:
        triples = [
            {"subject": f"Oak_{i}", "property": "near", "object": "sea"},
            {"subject": "sea", "property": "colour", "object": '"blue"'},
        ]
        lex = [{"comment": "good", "lang": lang, "lex": f"{lang} {i}"} for lang in ("en", "en", "ru")]
        return {str(i + 1): {"category": "Tree", "modifiedtripleset": triples, "lexicalisations": lex}}

    def dart(i: int) -> dict[str, Any]:
        triples = [[f"Oak_{i}", "near", "sea"], ["sea", "colour", '"blue"']]
        return {"tripleset": triples, "annotations": [{"source": "x", "text": f"en {i}"}] * 2}

    for i, part in enumerate(("train", "dev", "test")):
        entries = [webnlg(k) for k in range(9 * i, 9 * i + 9)]
        (tmp_path / f"{part}.json").write_text(json.dumps({"entries": entries}))
        whole = [dart(k) for k in range(9 * i, 9 * i + 9)]
        (tmp_path / f"dart-v1.1.1-full-{part}.json").write_text(json.dumps(whole))
    first, second = shipped("webnlg", path=str(tmp_path), group="category"), shipped("dart", path=str(tmp_path))
    assert first.fingerprint == second.fingerprint and first.test.groups == ["Tree"] * 18
    assert said(first)[2][:2] == [('Oak_18 : near : sea | sea : colour : "blue"', "en 18")] * 2
    (tmp_path / "dev.json").write_text(json.dumps({"entries": [webnlg(1), {"2": {"category": "Tree"}}]}))
    with pytest.raises(Refused, match=r"^task data .*dev.json entry 2: not a WebNLG file: .*KeyError: 'modifiedtr"):
        shipped("webnlg", path=str(tmp_path))
    (tmp_path / "dev.json").write_text("{")
    with pytest.raises(Refused, match=r"^task data .*dev.json line 1 column 2: not JSON"):
        shipped("webnlg", path=str(tmp_path))
    with pytest.raises(Refused, match=r"^task data .*train.json entry 1: not a DART file"):
        read(tmp_path / "train.json", format="dart", prompt="triples", completion="texts")


@pytest.mark.parametrize("flat", [True, False])
def test_trees_of_messages_are_conversations_of_every_way_down(tmp_path, flat):
    def message(name: str, role: str, *replies: Any) -> dict[str, Any]:
        return {"message_id": name, "role": role, "text": f"says {name}", "replies": list(replies)}

    def rows(node: dict[str, Any], parent: str | None) -> list[dict[str, Any]]:
        own = {key: value for key, value in node.items() if key != "replies"} | {"parent_id": parent}
        return [own, *(row for reply in node["replies"] for row in rows(reply, node["message_id"]))]

    def tree(i: int) -> dict[str, Any]:
        more = message(f"{i}e", "assistant"), message(f"{i}f", "assistant")
        ends = message(f"{i}c", "prompter", *more), message(f"{i}g", "prompter")
        return message(f"{i}a", "prompter", message(f"{i}b", "assistant", *ends), message(f"{i}d", "assistant"))

    trees = [tree(i) for i in range(50)]
    path = json_lines(
        tmp_path, [row for node in trees for row in rows(node, None)] if flat else [{"prompt": node} for node in trees]
    )
    data = read(path, format="oasst", messages="messages")
    talks = [talk for part in (data.train, data.validation, data.test) for talk in part.messages or []]
    ways = {"".join(turn["content"][-1] for turn in talk) for talk in talks}
    assert len(talks) == 150 and ways == {"abce", "abcf", "ad"}
    assert [turn["role"] for turn in talks[0]][:2] == ["user", "assistant"]


def test_a_plain_text_is_cut_into_stretches_of_lines_or_whole_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {i}\n" for i in range(100)))
    data = read(path, format="text", blocks=True)
    assert [part.completions for part in (data.train, data.validation, data.test)] == [
        [f"line {i}\n" for i in range(start, stop)] for start, stop in ((0, 60), (60, 75), (75, 100))
    ]
    (tmp_path / "b.txt").write_text("the sea\nthe oak\n")
    data = read(tmp_path, format="text", blocks=True, files={"train": "a.txt", "test": "b.txt"})
    assert data.validation.completions == [f"line {i}\n" for i in range(85, 100)]
    (tmp_path / "c.txt").write_text(path.read_text())
    files = {"train": "b.txt", "validation": "a.txt", "test": "c.txt"}
    data = read(tmp_path, format="text", blocks=True, files=files, n_validation=7, n_test=5)
    assert [part.completions for part in (data.validation, data.test)] == [
        [f"line {i}\n" for i in range(n)] for n in (7, 5)
    ]
    path.write_text("".join(f"Once {i}.\n\nThe end.\n<|endoftext|>{chr(10) * (i % 3)}" for i in range(100)))
    data = read(path, format="text", blocks=True, delimiter="<|endoftext|>")
    assert data.test.completions == [f"Once {i}.\n\nThe end." for i in range(75, 100)] and len(data.train) == 60


def test_wordnet_s_data_files_are_words_with_their_definitions(tmp_path):
    top = "  1 This software and database is being provided under a licence  \n"
    line = "{i:08d} 03 {kind} 02 {word} 0 twin 0 001 @ 00001740 {kind} 0000 | {gloss}  \n"
    gloss = 'a tree by the sea; "it stood there"; "and fell"'
    (tmp_path / "dict").mkdir()
    kinds = {"noun": "n old_oak_{i}", "verb": "v oak_{i}", "adj": "s oaken_{i}(p)", "adv": "r so_{i}"}
    for name, (kind, word) in ((name, form.split()) for name, form in kinds.items()):
        rows = [line.format(i=i, kind=kind, word=word.format(i=i), gloss=gloss) for i in range(30)]
        (tmp_path / "dict" / f"data.{name}").write_text(top + "".join(rows))
    keys = {"format": "wordnet", "template": "{word} ({pos}):", "completion": "gloss"}
    found = {pair for part in said(read(tmp_path, **keys)) for pair in part}
    assert len(found) == 120 and {completion for _, completion in found} == {"a tree by the sea"}
    assert {"old oak 3 (noun):", "oak 3 (verb):", "oaken 3 (adjective):", "so 3 (adverb):"} <= {
        text for text, _ in found
    }
    assert len({pair for part in said(read(tmp_path / "dict/data.noun", **keys)) for pair in part}) == 30
    (tmp_path / "dict/data.adv").write_text(top + "00000001 03 r 01 so 0 000\n")
    with pytest.raises(Refused, match=r"^task data .*data.adv line 2: not a line of WordNet's data files$"):
        read(tmp_path, **keys)
    (tmp_path / "dict").rename(tmp_path / "elsewhere")
    (tmp_path / "more").write_text("")
    with pytest.raises(Refused, match=r"^task data .*: none of data.noun, .* is there$"):
        read(tmp_path, **keys)


def test_the_objects_to_write_have_the_keys_that_are_asked_for():
    data = shipped("write_json")
    for prompt, completion in zip(data.train.texts, data.train.completions or [], strict=True):
        found = json.loads(completion)
        assert list(found) == ["name", "place", "count"]
        assert all(f"{key} is {value}" in prompt for key, value in found.items())
    assert len(set(data.train.texts)) > 300


def test_the_synthetic_prompts_have_a_rule_to_learn():
    data = shipped("synthetic_lm")
    assert [len(part) for part in said(data)] == [128, 64, 64]
    mood = {"sun": 1, "joy": 1, "win": 1, "fog": -1, "ill": -1, "mud": -1}
    for prompt, completion in said(data)[0]:
        *words, arrow = prompt.split()
        assert arrow == "->" and completion == ("good" if sum(mood.get(word, 0) for word in words) > 0 else "bad")
    assert 0.4 < sum(end == "good" for _, end in said(data)[2]) / 64 < 0.6


def test_reasoning_tasks_are_made_of_questions_and_answers():
    pytest.importorskip("reasoning_gym")
    data = shipped("reasoning", synthetic=60)
    pairs = [pair for part in said(data) for pair in part]
    assert len(pairs) == 60 and all("leg" in question and answer.isdecimal() for question, answer in pairs)


def test_a_row_that_is_left_out_does_not_move_those_behind_it():
    rows = [(f"row {i}", {"prompt": "x", "completion": text, "part": "train"}) for i, text in enumerate(("a", "", "b"))]
    rows += [("row 4", None), ("row 5", rows[0][1] | {"part": "other"}), ("row 6", rows[0][1])]
    task = Task("t", kind="causal_lm", prompt="prompt", completion="completion", skip_empty=True, split="part")
    found = examples(replace(task, splits={"train": "train"}), [Table("t", lambda: iter(rows))] * 2, Counter())
    assert [example.item for example in found if example] == [0, 2, 4, 5, 7, 9], "a format leaves out what is no row"


def test_conversations_of_other_layouts_are_the_same(tmp_path):
    talks = [talk(f"Hello {i}", f"Hi {i}") for i in range(60)]
    names = {"user": "human", "assistant": "gpt"}
    layouts = {
        "messages": talks,
        "conversations": [[{"from": names[m["role"]], "value": m["content"]} for m in one] for one in talks],
        "parts": [[m | {"content": [{"type": "text", "text": m["content"]}]} for m in one] for one in talks],
        "nulls": [[m | {"tool_calls": None, "name": None} for m in one] for one in talks],
    }
    found = [
        read(records(tmp_path, [{name: one} for one in layout]), messages=name) for name, layout in layouts.items()
    ]
    assert [content(data) for data in found] == [content(found[0])] * 4


@pytest.mark.parametrize("reply", [{"weight": 0}, {"tool_calls": [{"name": "look"}]}, {}])
def test_a_reply_may_be_empty_that_is_not_learned_or_calls(tmp_path, reply):
    rows = [
        [*talk(f"Hello {i}"), {"role": "assistant", "content": None} | reply, *talk("So", "Yes")] for i in range(60)
    ]
    keys = {} if reply else {"replies": "last"}
    data = read(records(tmp_path, [{"m": row} for row in rows]), messages="m", **keys)
    assert {one[1]["content"] for one in data.train.messages or []} == {""} and data.skipped == 0


def test_what_a_message_brings_beside_its_content_is_kept(tmp_path):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}
    end = [{"role": "tool", "name": "look", "content": "sea"}, *talk("", "The sea")[1:]]
    rows = [{"messages": [*talk(f"Look {i}"), call, *end], "tools": [{"name": "look"}]} for i in range(60)]
    data = read(records(tmp_path, rows), messages="messages")
    as_text = [row | {"tools": '[{"name": "look"}]'} for row in rows]
    assert content(read(records(tmp_path, as_text), messages="messages")) == content(data)
    messages = (data.train.messages or [])[0]
    assert messages[1]["tool_calls"] == call["tool_calls"] and messages[1]["content"] == ""
    assert messages[2]["name"] == "look" and messages[0]["tools"] == [{"name": "look"}]
