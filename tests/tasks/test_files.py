"""Files as people have them: each reads with its right values, or is refused with the option that reads it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_examples import said, shipped, talk
from test_tables import ROWS, content, read, texts, write

from rankwise.errors import Refused
from rankwise.tasks.data import Data

PROMPTS = {"kind": "causal_lm", "prompt": "prompt", "completion": "completion"}


def plain(folder: Path) -> Data:
    return read(write(folder, "csv", ROWS, "plain"))


def records(folder: Path, rows: list[dict[str, Any]], name: str = "a.json", indent: int | None = None) -> Path:
    (folder / name).write_text(json.dumps(rows, indent=indent))
    return folder / name


FORMS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "label, blank, text": ("a.all", b"".join(f"{y} {t}\n".encode() for t, y in ROWS),
                           {"format": "lines", "columns": ["label", "text"]}),
    "the same, its blank said": ("a.txt", b"".join(f"{y} {t}\n".encode() for t, y in ROWS),
                                 {"format": "lines", "columns": ["label", "text"], "delimiter": " "}),
    "two bars": ("a.txt", b"".join(f"{t} || {y}\n".encode() for t, y in ROWS),
                 {"columns": ["text", "label"], "delimiter": "||"}),
    "blank lines": ("a.tsv", b"\n  \ntext\tlabel\n" + b"".join(f"{t}\t{y}\n\n".encode() for t, y in ROWS), {}),
    "semicolons": ("a.csv", b"text;label\n" + b"".join(f"{t};{y}\n".encode() for t, y in ROWS), {"delimiter": ";"}),
    **{f"tabs as {tab!r}": ("a.csv", b"text\tlabel\n" + b"".join(f"{t}\t{y}\n".encode() for t, y in ROWS),
                            {"delimiter": tab}) for tab in ("\t", "\\t", "tab")},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_text_tables_of_every_kind_give_the_same_data(tmp_path: Path, form: str) -> None:
    name, written, keys = FORMS[form]
    (tmp_path / name).write_bytes(written)
    assert content(read(tmp_path / name, **keys)) == content(plain(tmp_path))


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_compressed_files_are_read_as_they_are(
    tmp_path: Path, form: str, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path, form, ROWS)
    packed = tmp_path / f"train.{form}{suffix}"
    packed.write_bytes(pack(path.read_bytes()))
    assert content(read(packed)) == content(plain(tmp_path))
    with pytest.raises(Refused, match=r"cannot be read|not text, but binary"):
        packed.write_bytes(path.read_bytes())
        read(packed)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_of_objects_is_read(tmp_path: Path, indent: int | None) -> None:
    path = records(tmp_path, [{"text": t, "label": y} for t, y in ROWS], indent=indent)
    assert content(read(path)) == content(plain(tmp_path))
    with pytest.raises(Refused, match=r"^task.label=y: .*a.json entry 1 has the columns text, label"):
        read(path, label="y")


def test_an_empty_column_of_a_template_is_an_empty_text(tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Name oak {i}", "input": "short" if i % 2 else "", "output": f"oak {i}"} for i in range(60)
    ]
    data = read(records(tmp_path, rows), kind="causal_lm", template="{instruction} {input}", completion="output")
    pairs = [pair for part in said(data) for pair in part]
    assert len(pairs) == 60 and {("Name oak 0 ", "oak 0"), ("Name oak 1 short", "oak 1")} <= set(pairs)


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = [{"text": t, "label": y} for t, y in ROWS]
    parts = {"train": rows[:120], "val": rows[120:150], "test": rows[150:]}
    splits = datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    splits.save_to_disk(str(tmp_path / "set"))
    data = read(tmp_path / "set")
    assert [len(part) for part in texts(data)] == [120, 30, 50]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "one"))
    assert content(read(tmp_path / "one")) == content(plain(tmp_path))


@pytest.mark.parametrize(("name", "part"), [("val", 1), ("dev", 1), ("valid", 1), ("testing", 2)])
def test_other_names_of_a_part_are_taken_for_it_and_said(tmp_path: Path, name: str, part: int) -> None:
    write(tmp_path, "csv", ROWS[:150], "train")
    write(tmp_path, "csv", ROWS[150:], name)
    data = read(tmp_path)
    assert texts(data)[part] == {text for text, _ in ROWS[150:]}
    assert [f"{name}.csv of" in note and ("validation", "test")[part - 1] in note for note in data.notes] == [True]


def test_a_file_that_is_not_understood_is_said(tmp_path: Path) -> None:
    write(tmp_path, "csv", ROWS, "train")
    write(tmp_path, "csv", ROWS[:9], "eval")
    (tmp_path / "notes.txt").write_text("not data")
    assert [note.split(" of ")[0] for note in read(tmp_path).notes] == ["eval.csv"]


def test_empty_cells_are_left_out_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = [*ROWS, ("", 1), (" ", 0), ("no label", "")]
    data = read(write(tmp_path, "csv", rows), skip_empty=True)
    assert data.skipped == 3 and content(data)[:2] == content(plain(tmp_path))[:2]


@pytest.mark.parametrize("missing", ["NaN", "null"])
def test_a_missing_value_is_no_text(tmp_path: Path, missing: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": {missing}, "label": 1}}\n')
    with pytest.raises(Refused, match=r"^task.text=text: .*a.jsonl line 1 holds (nan|None), no text; task.skip_empty"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("text", "encoding"), [("“the {}th sea” – fine", "cp1252"), ("caf\xe9 {} \x81", "latin-1")])
def test_quotes_of_windows_are_read_and_said(tmp_path: Path, text: str, encoding: str) -> None:
    rows = [(text.format(i), i % 2) for i in range(120)]
    path = tmp_path / "a.csv"
    path.write_bytes(("text,label\n" + "".join(f"{t},{y}\n" for t, y in rows)).encode(encoding))
    data = read(path)
    assert set.union(*texts(data)) == {text for text, _ in rows}
    assert data.notes == [f"{path} is read as {encoding}; if that is wrong, set task.encoding"]


def test_one_bad_byte_does_not_change_a_file_of_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    written = ("text,label\n" + "".join(f"café {i} 日本,{i % 2}\n" for i in range(120))).encode()
    path.write_bytes(written.replace("café 7 ".encode(), b"caf\xe9 7 "))
    with pytest.raises(Refused, match=r"a.csv line 9: not UTF-8, as 119 other lines are; mend it, or give task.encod"):
        read(path)


CAUSES: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "blanks as delimiter": ("a.all", b"0 the sea\n1 the old oak\n",
                            {"format": "csv", "delimiter": " ", "columns": ["label", "text"]}, "task.format=lines"),
    "lines without names": ("a.all", b"0 the sea\n", {"format": "lines"}, r"task.columns=\[label,text\]"),
    "semicolons": ("a.csv", b"text;label\nx;1\n", {}, """is task.delimiter right.*task.delimiter='";"'"""),
    "tabs": ("a.csv", b"text\tlabel\nx\t1\n", {}, "task.delimiter=tab parts them"),
    "no header": ("a.csv", b"the sea,1\nthe oak,0\n", {}, "without a header line, task.columns names them"),
    "a header that is given": ("a.tsv", b"Label\tText\nspam\tthe sea\n", {"columns": ["label", "text"]},
                               "a.tsv line 1: repeats the header; leave task.columns out"),
    "a second header": ("a.csv", b"text,label\nthe sea,1\n\xef\xbb\xbftext,label\nthe oak,1\n", {},
                        "a.csv line 3: repeats the header; take the line out"),
    "empty names": ("a.csv", b"text,label,,\nthe sea,1,,\n", {}, "line 1: cells of the header are empty"),
    "an invisible character": ("a.csv", "text,\u200blabel\nthe sea,1\n".encode(), {},
                               r"did you mean .*u200blabel.*; an invisible character is in a name"),
    "rows in an object": ("a.json", b'{"data": [{"text": "x", "label": 1}, {}]}', {}, "rows must be a list of objects"),
}  # fmt: skip


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_and_the_way_out_are_named(tmp_path: Path, case: str) -> None:
    name, written, keys, line = CAUSES[case]
    (tmp_path / name).write_bytes(written)
    with pytest.raises(Refused, match=line):
        read(tmp_path / name, **keys)


def test_files_of_one_s_own_take_the_place_of_a_release_s(tmp_path: Path) -> None:
    rows = [(f"name[Oak {i}]", f"Oak {i} is {k} by the sea") for i in range(40) for k in range(3)]
    for name, part in (("devset", rows[:90]), ("testset_w_refs", rows[90:])):
        (tmp_path / f"{name}.csv").write_text("mr,ref\n" + "".join(f"{p},{c}\n" for p, c in part))
    data = shipped("e2e", path=str(tmp_path), files={"train": "devset.csv", "test": "testset_w_refs.csv"})
    train, validation, test = ({prompt for prompt, _ in part} for part in said(data))
    assert len(train | validation) == 30 and validation and not train & validation and len(test) == 10
    with pytest.raises(Refused, match=r"^task.files=devset.csv: one file for two parts, so that they would share"):
        shipped("e2e", path=str(tmp_path), files={part: "devset.csv" for part in ("train", "validation", "test")})


def test_rows_that_parts_share_are_counted_and_most_of_a_part_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "csv", ROWS[:150], "train")
    write(tmp_path, "csv", [*ROWS[150:], *ROWS[:3], (ROWS[4][0].upper() + "!", 0)], "test")
    data = read(tmp_path, validation_share=0.05)
    assert data.shared == {"test": {"verbatim": 3, "near": 4}} and "4 of 54 test rows say the same" in data.notes[-1]
    assert len(read(tmp_path, validation_share=0.05, deduplicate=True).test) == 50
    write(tmp_path, "csv", ROWS[:80], "test")
    with pytest.raises(Refused, match=r"^task data: \d\d of 80 test rows are training rows; name another file"):
        read(tmp_path)


@pytest.mark.parametrize("wanted", [10, 18, 50, 53])
def test_a_limit_cuts_no_prompt(tmp_path: Path, wanted: int) -> None:
    rows = [{"prompt": f"sea {i}", "completion": f"oak {k}"} for i in range(100) for k in range(9)]
    data = read(records(tmp_path, rows), **PROMPTS, n_test=wanted, n_validation=wanted)
    for part in said(data)[1:]:
        prompts = [prompt for prompt, _ in part]
        assert len(prompts) == 9 * (wanted // 9) and {prompts.count(prompt) for prompt in prompts} == {9}


def test_rows_of_one_prompt_text_or_group_are_a_cluster(tmp_path: Path) -> None:
    rows = [{"prompt": f"sea {i}", "completion": f"oak {k}", "doc": i % 7} for k in range(3) for i in range(60)]
    path = records(tmp_path, rows)
    by_prompt = read(path, **PROMPTS).test
    assert dict(zip(by_prompt.texts, by_prompt.clusters, strict=True)).items() == set(
        zip(by_prompt.texts, by_prompt.clusters, strict=True)
    )
    assert len(set(by_prompt.clusters)) == len(set(by_prompt.texts)) == len(by_prompt) / 3
    by_group = read(path, **PROMPTS, group="doc").test
    assert len(set(zip(by_group.groups or [], by_group.clusters, strict=True))) == len(set(by_group.groups or [])) <= 7
    labelled = read(write(tmp_path, "csv", [*ROWS, *ROWS[:20]]))
    assert len(set(labelled.test.clusters)) == len(set(labelled.test.texts)) < len(labelled.test)


def test_conversations_of_other_layouts_are_the_same(tmp_path: Path) -> None:
    talks = [talk(f"Hello {i}", f"Hi {i}") for i in range(60)]
    names = {"user": "human", "assistant": "gpt"}
    layouts = {
        "messages": talks,
        "conversations": [[{"from": names[m["role"]], "value": m["content"]} for m in one] for one in talks],
        "parts": [[m | {"content": [{"type": "text", "text": m["content"]}]} for m in one] for one in talks],
        "nulls": [[m | {"tool_calls": None, "name": None} for m in one] for one in talks],
    }
    found = [
        read(records(tmp_path, [{name: one} for one in layout]), kind="causal_lm", messages=name)
        for name, layout in layouts.items()
    ]
    assert [content(data) for data in found] == [content(found[0])] * 4


def test_what_a_message_brings_beside_its_content_is_kept(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]}
    end = [{"role": "tool", "name": "look", "content": "sea"}, *talk("", "The sea")[1:]]
    rows = [{"messages": [*talk(f"Look {i}"), call, *end], "tools": [{"name": "look"}]} for i in range(60)]
    data = read(records(tmp_path, rows), kind="causal_lm", messages="messages")
    messages = (data.train.messages or [])[0]
    assert messages[1]["tool_calls"] == call["tool_calls"] and messages[1]["content"] == ""
    assert messages[2]["name"] == "look" and messages[0]["tools"] == [{"name": "look"}]
