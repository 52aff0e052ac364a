"""What cannot be read is refused in one line: the file, the line, the column, the cause, the option that reads it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from test_tables import read

from rankwise.cli import main
from rankwise.errors import Refused

PROMPTS = {"kind": "causal_lm", "prompt": "prompt", "completion": "completion"}
NAMED = {"columns": ["text", "label"]}
COMMAS = {"format": "lines", "delimiter": ","}
PLAIN = {"format": "text", "kind": "causal_lm"}
LINES = r"task.format=lines 'task.columns=\[label,text\]'"
CAUSES: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "a missing column": ("a.csv", b"text,label\nx,1\n", {"text": "txt"}, "^task.text=txt: .*a.csv .*text, label .did"),
    "behind blank lines": ("a.csv", b"\ntext,label\n\n  \nx,1\ny,\n", {}, "^task.label=label: .*a.csv line 6 holds ''"),
    "no part to leave out": ("a.csv", b"text,label\nx,\n", {"skip_empty": True}, "a.csv: every row is left out$"),
    "behind a quoted break": (
        "a.csv",
        b'text,label\n"a\n\nb",1\n"c\nd",\n',
        {},
        r"a.csv line 5 \(row 3\) holds '', no label",
    ),
    "behind a break, CRLF": (
        "a.csv",
        b'text,label\r\n"a\r\nb",1\r\nc,\r\n',
        {},
        r"a.csv line 4 \(row 3\) holds '', no label",
    ),
    "a ragged row": (
        "a.csv",
        b'text,label\n"a\nb",1\nc\n',
        {},
        r"a.csv line 4 \(row 3\): not a text table of 2 col.* has 1",
    ),
    "an open quote": ("a.csv", b'text,label\nx,1\n"y,1\nz,1\n', {}, "a.csv line 3: not a text table .unexpected"),
    "a quote gone wrong": ("a.csv", b'text,label\n"x" y,1\n', {}, "a.csv line 2: not a text table"),
    "zero bytes": ("a.csv", b"text,label\nx,1\n\0\1\2,1\n", {}, "a.csv line 3: not text, but binary"),
    "binary without zeros": ("a.tsv", b"text\tlabel\n\x8f\x02\xff\t1\n", {}, "a.tsv line 2: not text"),
    "not in its encoding": ("a.tsv", b"text\tlabel\nx\t1\n\xe9\t1\n", {"encoding": "utf-8"}, "=utf-8: .*a.tsv line 3"),
    "no encoding": ("a.tsv", b"text\tlabel\n", {"encoding": "utf-9"}, "encoding=utf-9: a name"),
    "a broken JSON line": ("a.jsonl", b'{"text": "x", "label": 1}\n\n{"text": \n', {}, "l line 3 column 9: not JSO"),
    "a list of texts": ("a.json", b'["x",\n "y"]\n', {}, "a.json entry 1: not a JSON object, but str"),
    "a broken array": ("a.json", b'[{"text": "x"}\n', {}, "a.json line 2 column 1: not JSON"),
    "a key that is not there": ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": "y"}\n', {}, "line 2 holds None, no"),
    "no column, behind a blank line": ("a.jsonl", b'\n{"text": "x", "y": 1}\n', {}, "line 2 has the columns text, y"),
    "null around it": ("a.jsonl", b'{"text": "x", "m": null}\n', {"label": "m.a"}, "1 holds None, no label; task.skip"),
    "what decodes nothing": ("a.csv", b"text,label\nx,1\n", {"encoding": "undefined"}, "=undefined: .* is not in it"),
    "too deep": ("a.json", b"[" * 100_000, {}, "a.json line 1: not JSON .maximum recursion"),
    "not a number": ("a.jsonl", b'{"text": "x", "label": NaN}\n', {"kind": "regression"}, "1 holds nan, no number"),
    "a list for a text": ("a.jsonl", b'{"text": ["x"], "label": 1}\n', {}, r"line 1 holds \['x'\], not a text"),
    "no text, by pandas": ("a.jsonl", b'{"text": NaN, "label": 1}\n', {}, "=text: .*l line 1 holds nan, no text; task"),
    "no text": ("a.jsonl", b'{"text": " ", "label": 1}\n', {}, "^task.text=text: .*a.jsonl line 1 holds ' ', no text"),
    "a broken Parquet": ("a.parquet", b"PAR1xxxxxxxxPAR1", {}, "a.parquet: not a Parquet file"),
    "no rows": ("a.csv", b"text,label\n", {}, "^task data .*a.csv: no rows$"),
    "nothing": ("a.jsonl", b"", {}, "^task data .*a.jsonl: no rows$"),
    "blanks": ("a.all", b"0 the sea\n1 an old oak\n", {"delimiter": " ", **NAMED}, "line 1: .*task.format=lines"),
    "a label in front": ("a.all", b"0 the sea\n1 the oak\n", {}, f"{LINES} takes the first word as the label"),
    "the same with a comma": ("a.all", b"0 the sea, so\n1 the oak\n", {}, f""".*=","' parts it; {LINES} takes"""),
    "no label is asked for": (
        "a.all",
        b"The sea, so\nrose.\n",
        {"kind": "causal_lm"},
        "; task.format=lines 'task.columns=.text.' takes each",
    ),
    "fastText's": ("a.txt", b"__label__1 sea, so\n__label__2 x\n", {}, f"sea, so; {LINES} takes"),
    "lines without names": ("a.all", b"0 the sea\n", {"format": "lines"}, LINES.partition(" ")[2]),
    "semicolons": ("a.csv", b"text;label\nx;1\n", {}, """is task.delimiter right. 'task.delimiter=";"' parts it"""),
    "semicolons and a comma": ("a.csv", b"text;label\nx, y;1\n", {}, """line 2: .*'task.delimiter=";"'"""),
    "semicolons and quotes": ("a.csv", b'"text";"label"\n"x";"1"\n', {}, """'task.delimiter=";"' parts it"""),
    "tabs and quotes": ("a.csv", b'text\tlabel\n"x, y"\t1\n', {}, "task.delimiter=tab parts it"),
    "a bar": ("a.csv", b"text|label\nx|1\n", {}, r"columns text\|label; is task.delimiter right. 'task.delimiter="),
    "two bars": ("a.txt", b"the sea||1\n" * 2, {}, r"""'task.delimiter="\|\|"' parts it, with 'task.columns="""),
    "quotes in tabs": ("a.tsv", b'text\tlabel\n"a\nb"\t1\n', {}, "task.format=csv task.delimiter=tab reads field"),
    "another quote": ("a.csv", b'text,label\n"a \\"b\\"",1\n', {}, "line 2: .*; with task.format=tsv, quotes are te"),
    "a remark above": ("a.csv", b"by hand\ntext,label\nx,1\n", {}, "line 2: .*the first line was taken as the hea"),
    "no header": (
        "a.csv",
        b"the sea,1\nthe oak,0\n",
        {},
        r"/a.csv has the columns the sea, 1; .*the first line is no header, 'task.columns=\[NAME,…\]' ",
    ),
    "no name": ("a.csv", b"text,\nthe sea,1\n", {}, """a column has no name: "task.label=''" is that one"""),
    "a name given twice": ("a.csv", b"text,text,label\nx,y,1\n", {}, "=text: .*; two columns are named text: rename"),
    "a header that is given": ("a.csv", b"Text,Label\na,b\n", NAMED, "line 1: repeats the header; leave task.columns"),
    "a header of lines": ("a.csv", b"text,label\nx,1\n", NAMED | COMMAS, "repeats the header; take the line out"),
    "a second header": ("a.csv", b"text,label\nx,1\n\xef\xbb\xbftext,label\n", {}, "line 3: repeats the header; take"),
    "an invisible sign": ("a.csv", "text,la\u200bbel\nx,1\n".encode(), {}, "bel.*; an invisible character is in"),
    "many columns": ("a.json", json.dumps([dict.fromkeys(map(str, range(99)))]).encode(), {}, r", … \(99 in all\)"),
    "JSON as CSV": ("a.csv", b'{"text": "x", "label": 1}\n{"text": "y"}\n', {}, "task.format=jsonl reads it"),
    "CSV as JSON": ("a.json", b"text,label\nx,1\n", {}, "a.json line 1 column 1: not JSON .*; of CSV, give task.fo"),
    "CSV as Parquet": ("a.parquet", b"text,label\nx,1\n", {}, "not a Parquet file.*; of a text file, give task.form"),
    "parts in one file": ("a.json", b'{"a": [{"text": "x", "label": 1}], "b": [{}]}', {}, "; save each list of ro"),
    "columns of pandas": ("a.json", b'{"text": {"0": "a", "1": "b"}, "label": {"0": 1}}', {}, "with orient='records'$"),
    "a split of pandas": ("a.json", b'{"columns": ["text"], "data": 5}', {}, "1 has the columns columns, data; "),
    "a list without names": ("a.json", b'[["x", 1]]', {}, r"entry 1: not a JSON object, but list; 'task.columns=\["),
    "an object inside": ("a.jsonl", b'{"text": "x", "in": {"label": 1}}\n' * 2, {}, "task.label=in.label reads what i"),
    "lists inside": ("a.json", b'[{"doc": {"a": [{"label": 1}]}, "text": "x"}]', {}, "l=doc.a.0.label reads what is i"),
    "no choice": ("a.json", b'[{"text": "x", "a": []}]', {"label": "a.0"}, r"holds \[\], which has nothing at 0"),
    "Python's dicts": ("a.json", b"{'text': 'x', 'label': 1}\n" * 2, {}, "names stand in double quotes, as json.dumps"),
    "a conversation": ("a.jsonl", b'{"messages": []}\n' * 2, {}, "task=chat reads such rows"),
    "Alpaca": ("a.json", b'[{"instruction": "x", "input": "", "output": "y"}]', {}, "{input}.' task.completion=output"),
    "a prompt of messages": ("a.json", b'[{"prompt": [{"role": "user"}], "completion": []}]', PROMPTS, "task=chat ta"),
    "a reply of messages": ("a.json", b'[{"prompt": "x", "completion": [{"role": ""}]}]', PROMPTS, "=completion$"),
    "choices": ("a.json", b'[{"chosen": "x", "rejected": "y"}]', PROMPTS, "task.prompt=null task.completion=chosen"),
    "several columns without a name": ("a.csv", b"text,y,,\nthe sea,1,,\n", {}, "; task.label=NAME is one of them"),
    "UTF-16 without a mark": ("a.csv", "text,label\n".encode("utf-16-le"), {}, "task.encoding=utf-16-le reads it"),
    "a spreadsheet": ("a.xlsx", b"PK\x03\x04\0\0", {}, "not text, but binary; a zip archive or a spreadsheet: unpack"),
    "a document's end": ("a.txt", b"x\n<|endoftext|>\n", PLAIN, r"2: .*; 'task.delimiter=.<\|endoftext\|>.' reads"),
    "OpenAssistant": ("a.jsonl", b'{"message_tree_id": "x", "prompt": {}}\n' * 2, {}, "task=chat task.format=oasst re"),
    "OpenAssistant, as CSV": ("a.csv", b"message_id,parent_id,role,text\na,,b,c\n", {}, "; task.label=NAME is one"),
    "remarks above": ("a.csv", b"# by hand\n# 2024\ntext,label\nx,1\n", {}, "a remark stands above the header: take"),
    "XML in a line": ("a.xml", b"<rows><row/></rows>\n", {}, "no header; it is XML or HTML: save its rows as CSV"),
    "XML": ("a.xml", b"<?xml version='1.0'?>\n<rows/>\n", {}, "it is XML or HTML: save its rows as CSV or JSON"),
    "several labels": ("a.jsonl", b'{"text": "x", "label": [1, 2]}\n', {}, "one: task.label=label.0 reads the first"),
    "too few labels": ("a.jsonl", b'{"text": "x", "label": [1]}\n', {"label": "label.2"}, "nothing at 2 .the first"),
    "too large": ("a.jsonl", b'{"text": "x", "label": 1%s}\n' % (b"0" * 400), {"kind": "regression"}, "not a number$"),
    "still too large": ("a.tsv", b"text\tlabel\nx\t1e300\n", {"kind": "regression"}, "not a number$"),
    "half a character": ("a.jsonl", b'{"text": "x\\ud800", "label": 1}\n', {}, "l line 1 holds .*, half of a char"),
    "gzip by another name": ("a.csv", gzip.compress(b"text,label\n"), {}, "packed by gzip: name it .gz, or unpack it"),
    "Parquet by another name": ("a.csv", b"PAR1\0\0", {}, "task.format=parquet reads it"),
    "a column for each class": ("a.csv", b"text,a,b\nx,0,1\n", {}, r"h class has a column of 0 and 1, table\[\[NAME"),
    "percent signs": ("a.csv", b"text,label\nx,5%\n", {"kind": "regression"}, "a number; take the percent signs off"),
    "fewer fields than the first": ("a.tsv", b"a\tb\tc\nx\t1\n", {}, r"no header, 'task.columns=\[NAME,…,...\]'"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_the_cause_and_the_way_out_are_named(tmp_path: Path, case: str) -> None:
    name, written, keys, line = CAUSES[case]
    (tmp_path / name).write_bytes(written)
    with pytest.raises(Refused, match=line):
        read(tmp_path / name, **keys)


WAYS = {
    "one run": ["train", "debug=fast"],
    "a baseline": ["train", "debug=fast", "method=tfidf"],
    "a study": ["train", "-m", "debug=fast", "method.rank=1,2"],
    "a list of runs": ["train", "-m", "debug=fast", "method.rank=1,2", "--dry-run"],
    "a plan": ["plan", "debug=fast"],
    "a question": ["find", "debug=fast", "method.rank=1,2"],
}


@pytest.mark.parametrize(
    ("way", "group", "key"),
    [*((way, "task", "task.delimiter") for way in WAYS), ("one run", "forgetting", "forgetting.label=label")],
)
def test_a_file_that_cannot_be_read_stops_before_anything_is_written(tmp_path, monkeypatch, capsys, way, group, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text;label\nx;1\n")
    assert main([*WAYS[way], f"{group}=local", f"{group}.path=a.csv"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and key in told[0] and [*tmp_path.iterdir()] == [tmp_path / "a.csv"]
    assert told[0].endswith("has the columns text;label") == (group == "forgetting")  # which has no delimiter
