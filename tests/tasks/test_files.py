"""Files as people have them: each reads with its right values, or is refused with the option that reads it."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_examples import said, shipped
from test_tables import ROWS, content, read, records, texts, write

from rankwise.errors import Refused
from rankwise.tasks.data import Data

PROMPTS = {"kind": "causal_lm", "prompt": "prompt", "completion": "completion"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKWISE_CACHE", str(tmp_path_factory.mktemp("cache")))  # where archives are unpacked


def plain(folder: Path) -> Data:
    return read(write(folder, "csv", ROWS, "plain"))


def body(sign: str, end: str = "\n", label_first: bool = False) -> bytes:
    pairs = ((y, t) if label_first else (t, y) for t, y in ROWS)
    return "".join(f"{one}{sign}{other}{end}" for one, other in pairs).encode()


def json_lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FIRST = {"format": "lines", "columns": ["label", "text"]}
FRAME = pd.DataFrame(ROWS, columns=["text", "label"])
OBJECTS = [{"text": t, "label": y} for t, y in ROWS]
FORMS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "label, blank, text": ("a.all", body(" ", label_first=True), FIRST),
    "the same, its blank said": ("a.txt", body(" ", label_first=True), FIRST | {"delimiter": " "}),
    "two bars": ("a.txt", body(" || "), {"columns": ["text", "label"], "delimiter": "||"}),
    "blank lines": ("a.tsv", b"\n  \ntext\tlabel\n" + body("\t", "\n\n"), {}),
    "semicolons": ("a.csv", b"text;label\n" + body(";"), {"delimiter": ";"}),
    **{f"tabs as {t!r}": ("a.csv", b"text\tlabel\n" + body("\t"), {"delimiter": t}) for t in ("\t", "\\t", "tab")},
    "fields behind the columns": (
        "a.tsv",
        "".join(f"{t}\t{y}{chr(9) * y}more\n" if y else f"{t}\t0\n" for t, y in ROWS).encode(),
        {"columns": ["text", "label", "..."]},
    ),
    "Excel's first line": ("a.csv", b"sep=;\r\ntext;label\r\n" + body(";", "\r\n"), {}),
    "no header": (
        "a.csv",
        "".join(f'{y},"{t}",x\n' for t, y in ROWS).encode(),
        {"columns": ["y", "said", "rest"], "text": "said", "label": "y"},
    ),
    "invisible signs": ("a.csv", "text,\u200blabel\ufeff\n".encode() + body(","), {}),
    "columns without a name": ("a.csv", b"text,label,,\n" + body(",", ",,\n"), {}),
    "delimiters behind the last field": ("a.csv", b"text,label\n" + body(",", ",\n"), {}),
    "an index of pandas": ("a.csv", FRAME.to_csv().encode(), {}),
    "two columns of one name": ("a.csv", b"text,label,id,id\n" + body(",", ",1,2\n"), {}),
    "UTF-32": ("a.csv", (b"text,label\n" + body(",")).decode().encode("utf-32"), {}),
    "inside": ("a.jsonl", json_lines({"in": {"text": t}, "label": y} for t, y in ROWS), {"text": "in.text"}),
    "labels in a list": ("a.jsonl", json_lines({"text": t, "label": [y]} for t, y in ROWS), {"label": "label.0"}),
    "Label Studio": (
        "a.json",
        json.dumps([{"data": {"text": t}, "annotations": [{"result": [{"value": y}]}]} for t, y in ROWS]).encode(),
        {"text": "data.text", "label": "annotations.0.result.0.value"},
    ),
    "lists with names": ("a.jsonl", json_lines(ROWS), {"columns": ["text", "label"]}),
    "a list of lists": ("a.json", json.dumps(ROWS).encode(), {"columns": ["text", "label"]}),
    "an array": ("a.json", json.dumps(OBJECTS).encode(), {}),
    "an array on many lines": ("a.json", json.dumps(OBJECTS, indent=2).encode(), {}),
    "an object around a list": ("a.json", json.dumps({"version": 1, "data": OBJECTS}, indent=1).encode(), {}),
    "an object of lists, one of them asked for": (
        "a.json",
        json.dumps({"t": FRAME["text"].tolist(), "label": FRAME["label"].tolist()}).encode(),
        {"text": "t"},
    ),
    "an object of lists": ("a.json", json.dumps(FRAME.to_dict("list")).encode(), {}),
    "a mark and UTF-8": ("a.csv", b"\xef\xbb\xbf" + body(","), {"columns": ["text", "label"], "encoding": "utf-8"}),
    "a mark and JSON": ("a.jsonl", b"\xef\xbb\xbf" + json_lines(OBJECTS), {"encoding": "utf-8+cp1252"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_layout_give_the_same_data(tmp_path, form):
    name, written, keys = FORMS[form]
    (tmp_path / name).write_bytes(written)
    assert content(read(tmp_path / name, **keys)) == content(plain(tmp_path))


def zipped(content: bytes, name: str) -> bytes:
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        archive.writestr(f"set/{name}", content)
        archive.writestr("__MACOSX/set/._a", b"\0\1")
    return packed.getvalue()


def tarred(content: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


PACKS: dict[str, Callable[[bytes, str], bytes]] = {
    ".gz": lambda content, _: gzip.compress(content),
    ".bz2": lambda content, _: bz2.compress(content),
    ".xz": lambda content, _: lzma.compress(content),
    ".zip": zipped,
    ".tar.gz": tarred,
}


@pytest.mark.parametrize("suffix", PACKS)
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_compressed_files_and_archives_are_read_as_what_is_in_them(tmp_path, form, suffix):
    path = write(tmp_path, form, ROWS)
    packed = tmp_path / f"train.{form}{suffix}"
    packed.write_bytes(PACKS[suffix](path.read_bytes(), f"a.{form}"))
    assert content(read(packed)) == content(plain(tmp_path))
    with pytest.raises(Refused, match=r"cannot be read|not text, but binary|neither a zip nor a tar"):
        packed.write_bytes(path.read_bytes())
        read(packed)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("rt-polarity.pos", "rt-polarity.neg"), None),
        (("pos.csv", "neg.csv"), None),
        (("train/pos.txt", "train/neg.txt", "test/pos.txt", "test/neg.txt"), None),
        (("test_pos.txt", "train_pos.txt", "train_neg.txt", "test_neg.txt"), None),
        (("a/pos.txt", "a/neg.txt", "README"), {"train": ["a/pos.txt", "a/neg.txt"]}),
    ],
)
def test_a_file_for_each_class_is_read(tmp_path, names, files):
    for name in names:
        rows = [f"{'new ' * ('test' in name)}{text}\n" for text, label in ROWS if label == ("pos" in name)]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("".join(["text\n" * (".csv" in name), *rows, "\n"]))
    (tmp_path / "README.md").write_text("what these are\n" * 9)
    data = read(tmp_path, format="class_files", files=files)
    assert data.classes == ["neg", "pos"] and any(note.startswith("classes by file: ") for note in data.notes)
    parts = [zip(part.texts, part.labels.tolist(), strict=True) for part in (data.train, data.validation, data.test)]
    new = {(f"new {text}", label) for text, label in ROWS}
    assert {pair for part in parts for pair in part} == {*ROWS, *(new if len(names) > 3 else ())}


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_the_names_that_datasets_has_for_classes_are_theirs(tmp_path, form):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    names = ["world", "Sports", "tech", "never"]

    def save(part: str, order: list[str], labels: list[int]) -> Any:
        features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=order)}
        rows = {"text": [f"{part} {text}" for text, _ in ROWS[: len(labels)]], "label": labels}
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        if form == "parquet":
            made.to_parquet(str(tmp_path / f"{part}.parquet"))
        return made

    parts = {"train": save("train", names, [0, 1, 2] * 40), "test": save("test", names[::-1], [3, 2, 1] * 9)}
    if form == "saved":
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    path = tmp_path / "saved" if form == "saved" else tmp_path
    data = read(path)
    assert data.classes == names and data.test.labels.tolist() == [0, 1, 2] * 9
    assert read(path, labels=["sports", "world", "tech"]).test.labels.tolist() == [1, 0, 2] * 9
    assert read(path, kind="regression").test.labels.tolist() == [3.0, 2.0, 1.0] * 9
    assert read(path, threshold=1).test.labels.tolist() == [1, 1, 0] * 9
    unknown = save("test", names, [-1] * 9)
    if form == "saved":
        datasets.DatasetDict(parts | {"test": unknown}).save_to_disk(str(tmp_path / "hidden"))
        path = tmp_path / "hidden"
    with pytest.raises(Refused, match=r"test.* row 1 holds -1, no label; task.skip_empty=true leaves such rows out"):
        read(path)
    key = "splits" if form == "saved" else "files"
    with pytest.raises(Refused, match=rf"test.*: every row is left out; task.{key}=.train: NAME. does without"):
        read(path, skip_empty=True)


def test_numbers_with_commas_are_read_where_that_is_said(tmp_path):
    values = {"0,5": 0.5, "-1.234,25": -1234.25, "12.000": 12000.0, "7": 7.0, "1,5E-3": 0.0015}
    rows = [(text, [*values][i % 5]) for i, (text, _) in enumerate(ROWS)]
    path = tmp_path / "a.csv"
    path.write_text("text;label\n" + "".join(f"{t};{y}\n" for t, y in rows), encoding="utf-8-sig")
    data = read(path, delimiter=";", kind="regression", decimal=",")
    assert set(zip(data.test.texts, data.test.labels.tolist(), strict=True)) <= {(t, values[y]) for t, y in rows}
    with pytest.raises(Refused, match=r"""line 2 holds '0,5', not a number; 'task.decimal=","' reads commas"""):
        read(path, delimiter=";", kind="regression")
    path.write_text("text;label\nx;1,017\n")
    with pytest.raises(Refused, match=r"line 2 holds '1,017', not a number$"):
        read(path, delimiter=";", kind="regression")
    path.write_text("text;label\nx;1.5\n")
    with pytest.raises(Refused, match=r"line 2 holds '1.5', not a number$"):
        read(path, delimiter=";", kind="regression", decimal=",")


def test_an_empty_column_of_a_template_is_an_empty_text(tmp_path):
    rows = [{"instruction": f"Name oak {i}", "input": "short" * (i % 2), "output": f"oak {i}"} for i in range(60)]
    for between in (" ", "\\n"):
        keys = {"template": "{instruction}" + between + "{input}", "completion": "output"}
        pairs = [pair for part in said(read(records(tmp_path, rows), kind="causal_lm", **keys)) for pair in part]
        between = between.replace("\\n", "\n")
        assert len(pairs) == 60
        assert {(f"Name oak 0{between}", "oak 0"), (f"Name oak 1{between}short", "oak 1")} <= set(pairs)


def test_a_folder_that_datasets_saved_is_read(tmp_path):
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
    (tmp_path / "files").mkdir()
    write(tmp_path / "files", "csv", ROWS, "train")
    sources = [("set", "files"), ("files/train.csv", "files"), ("files/train.csv", "splits")]
    for name, key in [*sources, ("files", "splits")]:
        of = "a folder of files" if key == "files" else "a hub id"
        with pytest.raises(Refused, match=rf"^task.{key}={{'train': 'train'}}: null here: it names parts of {of}"):
            read(tmp_path / name, **{key: {"train": "train"}})
    with pytest.raises(Refused, match=r"^task.format=oasst: null with .*set, which datasets reads"):
        read(tmp_path / "set", format="oasst")


@pytest.mark.parametrize(("name", "part"), [("val", 1), ("dev", 1), ("valid", 1), ("testing", 2)])
def test_other_names_of_a_part_are_taken_for_it_and_said(tmp_path, name, part):
    write(tmp_path, "csv", ROWS[:150], "train")
    write(tmp_path, "csv", ROWS[150:], name)
    data = read(tmp_path)
    assert texts(data)[part] == {text for text, _ in ROWS[150:]}
    assert [f"{name}.csv of" in note and ("validation", "test")[part - 1] in note for note in data.notes] == [True]


def test_a_folder_of_the_hub_is_read(tmp_path):
    (tmp_path / "data").mkdir()
    one, two = (f"train-0000{number}-of-00002-0123456789abcdef" for number in range(2))
    for name, rows in ((one, ROWS[:80]), (two, ROWS[80:150]), ("test-00000-of-00001", ROWS[150:])):
        write(tmp_path / "data", "parquet", rows, name)
    data = read(tmp_path)
    assert set(data.test.texts) == {text for text, _ in ROWS[150:]} and len(data.train) + len(data.validation) == 150
    (tmp_path / "parts/test").mkdir(parents=True)
    (tmp_path / "data").rename(tmp_path / "parts/train")
    (tmp_path / "parts/train/test-00000-of-00001.parquet").rename(tmp_path / "parts/test/0.parquet")
    assert content(read(tmp_path / "parts")) == content(data)
    (tmp_path / "around").mkdir()
    shutil.copytree(tmp_path / "parts", tmp_path / "around/parts")
    (tmp_path / "around/README.md").write_text("what these are")
    assert content(read(tmp_path / "around")) == content(data)
    for name in ("plain", "raw"):
        shutil.copytree(tmp_path / "parts/train", tmp_path / "several" / name)
    with pytest.raises(Refused, match=r"several: several data sets, in a folder each; task.path=.*/plain is one"):
        read(tmp_path / "several")
    assert content(read(Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "parts")))) == content(data)


@pytest.mark.parametrize("parts", [("train", "test"), ("",)])
def test_folders_named_as_classes_are_read(tmp_path, parts):
    for part in parts:
        for i, (text, label) in enumerate(ROWS):
            path = tmp_path / part / ("neg", "pos")[label] / f"{i}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{part} {text},\n“so”\n")
        (tmp_path / part / "urls_pos.txt").write_text("not data")
    (tmp_path / parts[0] / "unsup").mkdir()
    (tmp_path / parts[0] / "unsup/0.txt").write_text("without a label")
    for part in (tmp_path, *(tmp_path / part for part in parts)):
        (part / ".ipynb_checkpoints").mkdir(exist_ok=True)
        (part / ".ipynb_checkpoints/0.txt").write_text("hidden")
    data = read(tmp_path)
    assert [note.endswith("unsup is not read: texts without a label") for note in data.notes] == [True]
    assert data.classes == ["neg", "pos"] and (parts == ("",) or len(data.test) == len(ROWS))
    for part in (data.train, data.validation, data.test):
        for text, label in zip(part.texts, part.labels, strict=True):
            assert text.endswith(",\n“so”") and (text[text.index("the") : text.index(",")], label) in ROWS


def test_a_file_that_is_not_understood_is_said(tmp_path):
    write(tmp_path, "csv", ROWS, "train")
    write(tmp_path, "csv", ROWS[:9], "eval")
    (tmp_path / "notes.txt").write_text("not data")
    assert [note.split(" of ")[0] for note in read(tmp_path).notes] == ["eval.csv"]


def test_empty_cells_are_left_out_and_counted_where_that_is_asked_for(tmp_path):
    rows = [*ROWS, ("", 1), (" ", 0), ("no label", "")]
    data = read(write(tmp_path, "csv", rows), skip_empty=True)
    assert data.skipped == 3 and content(data)[:2] == content(plain(tmp_path))[:2]
    assert data.notes == ["task.skip_empty leaves out rows without task.text=text (2), task.label=label (1)"]


def test_a_stray_control_character_does_not_make_a_text_binary(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"text\tlabel\n" + "".join(f"caf\xe9 {t}\b\t{y}\n" for t, y in ROWS).encode("latin-1"))
    assert "\b" in read(path).train.texts[0]


@pytest.mark.parametrize(("text", "encoding"), [("“the {}th sea” – fine", "cp1252"), ("caf\xe9 {} \x81", "latin-1")])
def test_quotes_of_windows_are_read_and_said(tmp_path, text, encoding):
    rows = [(text.format(i), i % 2) for i in range(120)]
    path = tmp_path / "a.csv"
    path.write_bytes(("text,label\n" + "".join(f"{t},{y}\n" for t, y in rows)).encode(encoding))
    data = read(path)
    assert set.union(*texts(data)) == {text for text, _ in rows}
    assert data.notes == [f"{path} is read as {encoding}; if that is wrong, set task.encoding"]


def test_one_bad_byte_does_not_change_a_file_of_utf_8(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"café {i} 日本" for i in range(120)]
    written = ("text,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(rows))).encode()
    path.write_bytes(written.replace("café 7 ".encode(), b"caf\xe9 7 "))
    with pytest.raises(Refused, match=r"a.csv line 9: byte 4 of it \(0xe9\) is not UTF-8, as 119 other lines are;"):
        read(path)
    assert set.union(*texts(read(path, encoding="utf-8+cp1252"))) == set(rows)
    for unknown in ("utf-8+cp", "utf-9"):
        with pytest.raises(Refused, match=r"^task.encoding=.*a name that Python knows"):
            read(path, encoding=unknown)


def test_files_of_one_s_own_take_the_place_of_a_release_s(tmp_path):
    rows = [(f"name[Oak {i}]", f"Oak {i} is {k} by the sea") for i in range(40) for k in range(3)]
    for name, part in (("devset", rows[:90]), ("testset_w_refs", rows[90:])):
        (tmp_path / f"{name}.csv").write_text("mr,ref\n" + "".join(f"{p},{c}\n" for p, c in part))
    data = shipped("e2e", path=str(tmp_path), files={"train": "devset.csv", "test": "testset_w_refs.csv"})
    train, validation, test = ({prompt for prompt, _ in part} for part in said(data))
    assert len(train | validation) == 30 and validation and not train & validation and len(test) == 10
    with pytest.raises(Refused, match=r"^task.files=devset.csv: a file named once; here its rows would come tw"):
        shipped("e2e", path=str(tmp_path), files={"train": ["devset.csv", "devset.csv"], "test": "testset_w_refs.csv"})


def test_rows_that_parts_share_are_counted_and_most_of_a_part_is_refused(tmp_path):
    write(tmp_path, "csv", ROWS[:150], "train")
    write(tmp_path, "csv", [*ROWS[150:], *ROWS[:3], (ROWS[4][0].upper() + "!", 0)], "test")
    data = read(tmp_path, validation_share=0.05)
    assert data.shared == {"test": {"verbatim": 3, "near": 4}} and "4 of 54 test rows say the same" in data.notes[-1]
    assert len(read(tmp_path, validation_share=0.05, deduplicate=True).test) == 50
    write(tmp_path, "csv", ROWS[:80], "test")
    with pytest.raises(Refused, match=r"^task data: \d\d of 80 test rows are training rows; name another file"):
        read(tmp_path)


@pytest.mark.parametrize("wanted", [10, 18, 50, 53])
def test_a_limit_cuts_no_prompt(tmp_path, wanted):
    rows = [{"prompt": f"sea {i}", "completion": f"oak {k}"} for i in range(100) for k in range(9)]
    data = read(records(tmp_path, rows), **PROMPTS, n_test=wanted, n_validation=wanted)
    for part in said(data)[1:]:
        prompts = [prompt for prompt, _ in part]
        assert len(prompts) == 9 * (wanted // 9) and {prompts.count(prompt) for prompt in prompts} == {9}
    with pytest.raises(Refused, match=r"^task.n_test=5: at least 9, the rows of the first prompt"):
        read(records(tmp_path, rows), **PROMPTS, n_test=5)


@pytest.mark.parametrize("mark", "abcd")
def test_prompts_of_one_row_or_six_are_not_cut_either(tmp_path, mark):
    rows = [{"prompt": f"sea {i}{mark}", "completion": f"{k}"} for i in range(200) for k in range(1 if i % 2 else 6)]
    path, sizes, least = records(tmp_path, rows), Counter(row["prompt"] for row in rows), 2
    for wanted in range(2, 9):
        try:
            found = Counter(read(path, **PROMPTS, n_test=wanted).test.texts)
            assert least <= found.total() <= wanted and all(sizes[prompt] == n for prompt, n in found.items())
        except Refused as refused:
            least = int(str(refused).partition("at least ")[2].partition(",")[0])
            assert wanted < least <= 7
