"""Every analysis of real runs: against dense algebra, against other commands, and as files."""

import itertools
import json
import re
from xml.etree import ElementTree

import pytest
import torch

from rankwise import analysis
from rankwise.adapters.shrink import shrink
from rankwise.analysis.truncation import cuts
from rankwise.commands.analyze import main
from rankwise.errors import Refused
from rankwise.report import analyses, analysis_plots
from rankwise.report.formats import percent
from rankwise.report.palette import FULL
from rankwise.tracking.record import Record


def test_subspaces_are_those_of_the_dense_updates(low, high):
    found = analysis.analyze("subspaces", [high.folder, low.folder], layer=1, module="v")
    pair = found["pairs"][0]
    assert pair["pair"] == ["lora r=2", "lora r=4"] and pair["directions"] == [2, 4]
    tops = []
    for run in (low, high):
        (weights,) = analysis.together([run], layer=1, module="v")[0].modules.values()
        tops.append(torch.linalg.svd(weights.delta.b @ weights.delta.a)[2])
    for point in pair["points"]:
        i, j = point["i"], point["j"]
        wanted = float(((tops[0][:i] @ tops[1][:j].T) ** 2).sum()) / min(i, j)
        assert point["phi"] == pytest.approx(wanted)
        assert point["excess"] == pytest.approx(wanted - max(i, j) / pair["d"])
        assert pair["phi"][i - 1][j - 1] == pytest.approx(wanted, abs=1e-4)


def test_between_seeds_and_on_the_left_side(low, ran):
    runs = [low.folder, ran(method__rank=2, seed=1).folder]
    right, left = (analysis.analyze("subspaces", runs, side=side) for side in ("right", "left"))
    assert right["pairs"][0]["start"] and not right["start_unknown"]
    assert left["pairs"][0]["start"] is None and "B starts at zero" in left["start_unknown"]["lora r=2 seed 0"]
    assert right["pairs"][0]["phi"] != left["pairs"][0]["phi"]
    said = "lora r=2 seed 0: nothing before training to compare with: B starts at zero."
    assert said in analyses.section(left, "0").notes


def test_a_start_taken_out_of_w_has_half_the_directions_of_what_came_of_it(ran):
    runs = [ran(method="pissa", method__rank=2).folder, ran(method="pissa", method__rank=2, seed=1).folder]
    for pair in analysis.analyze("subspaces", runs)["pairs"]:
        i, j = pair["directions"]
        assert i == 4 and len(pair["start"]) == 2
        known = {(point["i"], point["j"]): point["start"] is not None for point in pair["points"]}
        assert known == {(1, 1): True, (2, 2): True, (4, 4): False, (i, j): False}


def test_a_that_was_not_trained_shares_what_it_shared_at_the_start(ran):
    runs = [ran(method="lora_fa", method__rank=rank).folder for rank in (2, 4)]
    found = analysis.analyze("subspaces", runs, of="A")
    assert all(pair["phi"] == pair["start"] for pair in found["pairs"])


def test_ranks_are_bounded_by_the_adapter_and_layers_add_up(low, full):
    rows = {row["run"]: row for row in analysis.analyze("spectrum", [low.folder, full.folder])["rows"]}
    assert 1 <= rows["lora r=2"]["effective_rank"] <= 2 and len(rows["lora r=2"]["energy"]) == 2
    assert rows["full"]["effective_rank"] > 2 and rows["full"]["energy"][-1] == pytest.approx(1)
    found = analysis.analyze("layers", [full.folder], module="q")
    cells = found["rows"][0]["cells"]
    most = max(cells, key=lambda cell: cell["relative"])
    assert analyses.section(found, "x").rows[0][3] == f"{percent(most['relative'])} (block {most['layer']})"
    weights = analysis.together([full], module="q")[0].modules
    for cell in cells:
        w = weights[cell["name"]]
        assert cell["relative"] == pytest.approx(float(w.delta.b.norm() / w.base.double().norm()))


_CUSTOM = {"IA3": {}, "LoHa": {"r": 4}}


def test_every_family_looks_another_and_a_rank_of_one_is_seen(low, high, full, ran):
    ia3, one = ran(method="ia3"), ran(method__rank=1)
    own = [
        ran(method="custom", method__peft={"_target_": f"peft.{kind}Config"} | keys) for kind, keys in _CUSTOM.items()
    ]
    for name in ("spectrum", "intruders", "amplification"):
        found = analysis.analyze(name, [run.folder for run in (one, low, high, full, ia3, *own)])
        axes = getattr(analysis_plots, name)(found).axes
        drawn = {line.get_label(): line for line in axes[0].lines}
        of = ["lora"] if name == "amplification" else ["lora r=1", "lora r=2", "lora r=4"]
        of += ["full", "ia3", "custom-ia3", "custom-loha" + " r=4" * (name != "amplification")]
        looks = {(drawn[label].get_color(), drawn[label].get_marker()) for label in of}
        assert len(looks) == len(of) and drawn["full"].get_color() == FULL
        if name == "amplification":
            assert list(drawn["lora"].get_xdata()) == [1, 2, 4]


def test_every_kind_of_layer_has_a_panel_and_pairs_that_are_too_many_are_said_to_be_left_out(
    low, high, full, monkeypatch
):
    found = analysis.analyze("amplification", [full.folder])
    panels = [ax.title.get_text() for ax in analysis_plots.amplification(found).axes if ax.get_visible()]
    assert panels == [f"layers {kind}" for kind in ("intermediate.dense", "k", "o", "output.dense", "q", "v")]
    found = analysis.analyze("subspaces", [low.folder, high.folder])
    pair = found["pairs"][0] | {"phi": [[0.2]], "start": [[0.7]]}
    maps = [ax.images[0] for ax in analysis_plots.subspaces(found | {"pairs": [pair]}).axes[:2]]
    assert [image.get_clim() for image in maps] == [(0, 0.7)] * 2, "one scale, that has all of both"
    monkeypatch.setattr(analyses, "_MOST", 2)  # each takes a second to draw
    for pairs, said in ((2, False), (3, True)):
        caption = analyses.section(found | {"pairs": found["pairs"][:1] * pairs}, "0").plot.caption
        assert caption.endswith("Of 3 the first 2 are drawn.") == said


def test_truncation_agrees_with_shrink_and_with_the_recorded_test(low, high, ran):
    pissa = ran(method="pissa", method__rank=1)  # whose file has two columns
    found = analysis.analyze("truncation", [high.folder, low.folder, pissa.folder])
    cut = {row["rank"]: row for row in found["cut"]}
    assert sorted(cut) == [1, 2, 4]
    assert cut[4]["score"]["value"] == pytest.approx(high.record.metrics["test"][found["metric"]]["value"])
    smaller = shrink(high, 2, None)
    assert cut[2]["score"] == smaller["after"] and cut[2]["difference"] == smaller["difference"]
    assert cut[2]["energy"] == pytest.approx(smaller["kept_energy"])
    start, trained = found["trained"]
    assert (start["rank"], trained["rank"]) == (1, 2)
    assert trained["from_cut"]["value"] == pytest.approx(trained["score"]["value"] - cut[2]["score"]["value"])


def test_an_adapter_whose_start_was_taken_out_of_w_is_whole_at_its_own_rank(ran):
    """Though its ΔW has twice as many directions."""
    score = {"task__kind": "regression", "task__metric": "pearson", "objective": "val/pearson"}
    run = ran(method="pissa", method__rank=2, **score)
    (row,) = analysis.analyze("spectrum", [run.folder])["rows"]
    assert len(row["energy"]) == 4 and row["rank"] == 2
    found = analysis.analyze("truncation", [run.folder])
    assert found["rank"] == 2 and [(cut["rank"], cut["energy"] == 1) for cut in found["cut"]] == [(1, False), (2, True)]
    wanted = pytest.approx(run.record.metrics["test"]["pearson"]["value"], rel=1e-4)
    assert found["cut"][-1]["score"]["value"] == wanted and cuts(run, [1, 2], part="test")[2] == wanted


@pytest.mark.parametrize("name", list(analysis.WHAT))
def test_every_analysis_is_printed_written_and_shown_in_the_report(name, low, high, tmp_path, capsys):
    out = tmp_path / analyses.FOLDER
    assert main([name, str(high.folder), str(low.folder), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    (file,) = out.glob("*.json")
    document = json.loads(file.read_text(encoding="utf-8"))
    ElementTree.parse(file.with_suffix(".svg"))
    (section,) = analyses.of_records([Record({}, {}, folder=tmp_path / "run")])
    assert section.rows and all(len(row) == len(section.header) for row in section.rows)
    assert section == analyses.section(document, "0") and section.plot.image.startswith("<svg")
    assert document["question"] in printed and f"{file.stem}.svg" in printed


def test_runs_and_options_have_files_of_their_own_beside_the_runs_and_all_are_shown(study, low, high):
    one, two = (run.record.run["id"] for run in (low, high))
    wanted = {
        f"spectrum-{one}",
        f"spectrum-{two}",
        f"spectrum-{'-'.join(sorted((one, two)))}",
        f"spectrum-{one}-layer1-q",
    }
    asked = [([low],), ([high],), ([low, high],), ([high, low],), ([low], "--layer", "1", "--module", "q")]
    for runs, *options in asked:
        assert main(["spectrum", *(str(run.folder) for run in runs), *options]) == 0
    assert {file.stem for file in (study / analyses.FOLDER).glob("*.json")} == wanted
    shown = analyses.of_records([low.record, high.record])
    assert len(shown) == 4 and "Rank of the update, block 1, q" in [part.title for part in shown]


def test_an_answer_has_one_file_whatever_the_order_of_runs_that_are_alike_to_it():
    orders = {name: {} for name in analysis.WHAT}
    for name, found in orders.items():
        for given in itertools.permutations("abc"):
            stem = analyses.stem({"analysis": name, "runs": [{"id": run_id} for run_id in given]})
            found.setdefault(stem, set()).add(given[0])
    assert orders.pop("truncation") == {f"truncation-{ids}": {ids[0]} for ids in ("a-b-c", "b-a-c", "c-a-b")}
    assert all(len(found) == 1 for found in orders.values())


@pytest.mark.parametrize("ids", [["../../x"], ["0123456789"] * 30, [""]])
def test_ids_of_many_runs_or_of_a_strangers_make_a_name_of_a_file(ids):
    name = analyses.stem({"analysis": "spectrum", "runs": [{"id": run_id} for run_id in ids]})
    assert re.fullmatch(r"spectrum-[0-9a-f]{10}", name)


def test_json_is_the_whole_output(low, tmp_path, capsys):
    assert main(["spectrum", str(low.folder), "--json", "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["analysis"] == "spectrum"


def test_where_nothing_can_be_written_is_said_before_a_run_is_read(tmp_path):
    taken = tmp_path / analyses.FOLDER
    taken.touch()
    for given, said in (([], f"{taken}/"), (["--out", str(taken)], f"--out {taken}/")):
        with pytest.raises(Refused) as refused:
            main(["spectrum", str(tmp_path / "no-run"), *given])
        assert str(refused.value).startswith(f"{said}spectrum.json: cannot be written (Not a directory)")
        assert str(refused.value).endswith("; give --out FOLDER") == (not given)


def test_a_file_that_is_no_analysis_is_left_out_of_the_report(study, low, tmp_path, capsys):
    folder = tmp_path / analyses.FOLDER
    assert main(["spectrum", str(low.folder), "--out", str(folder)]) == 0
    (file,) = folder.glob("*.json")
    document = json.loads(file.read_text())
    texts = ["{", '{"analysis": "unheard"}', "[]", "null", '"spectrum"', "[" * 100_000]
    texts += [json.dumps({k: v for k, v in document.items() if k != key}) for key in ("runs", "rows", "share", "layer")]
    for number, text in enumerate(texts):
        (folder / f"{number}.json").write_text(text)
    capsys.readouterr()
    records = [Record({}, {}, folder=tmp_path / where) for where in ("run", "nowhere/run")]
    assert len(analyses.of_records(records)) == 1 and capsys.readouterr().err.count("left out") == len(texts)


@pytest.mark.parametrize("name", ["a\\q", '"><script>x<!--', "$x$"])
def test_the_name_of_a_file_does_not_reach_the_page(low, tmp_path, name):
    folder = tmp_path / analyses.FOLDER
    assert main(["spectrum", str(low.folder), "--out", str(folder)]) == 0
    (file,) = folder.glob("*.json")
    file.rename(folder / f"{name}.json")
    (section,) = analyses.of_records([Record({}, {}, folder=tmp_path / "run")])
    ElementTree.fromstring(section.plot.image)
    assert name not in str(section)
