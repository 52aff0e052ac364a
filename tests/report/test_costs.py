"""What a run cost: memory, computation and seconds, in every form of the report, and where a record lacks them."""

import json
import re

import pytest
from synthetic_study import printed, write_run, write_study

from rankwise.report import costs
from rankwise.report import formats as fmt
from rankwise.report.page import html
from rankwise.report.report import build

PARTS = ("weights", "gradients", "optimizer", "activations", "other")


def change(record, group, **values):
    """Rewrite a record with other values in a group, at dotted keys written with ``__``."""
    for key, value in values.items():
        *parents, last = key.split("__")
        place = getattr(record, group)
        for parent in parents:
            place = place[parent]
        place[last] = value
    record.write()


def page(report, folder):
    return report.write(folder)["html"].read_text(encoding="utf-8")


def row(text, first):
    """Cells of the first HTML table row that starts with this cell, after the anchor of its section."""
    found = re.search(rf"<tr>\s*<td[^>]*>{re.escape(first)}</td>(.*?)</tr>", text, flags=re.S)
    return re.findall(r"<td[^>]*>(.*?)</td>", found[1])


def arm_of(report, **wanted):
    return next(a for a in report.document()["arms"] if all(a[key] == value for key, value in wanted.items()))


def test_parts_sum_to_the_peak_though_seeds_differ(tmp_path):
    write_study(tmp_path, {8: 0.82}, range(4))
    held = arm_of(build([tmp_path]), rank=8)["memory"]["train"]
    assert held["peak_bytes"] == sum(held[f"{part}_bytes"] for part in PARTS)
    assert (held["batch"], held["activations_bytes"]) == ([[32, 49]], 3_000_000 * 49)  # of lengths 48 to 51


def test_what_the_system_saw_is_the_median_over_runs(tmp_path):
    for seed, size in enumerate((1_500_000_000, 1_100_000_000, 1_200_000_000)):
        change(write_run(tmp_path, seed=seed), "memory", train__process_peak_bytes=size)
    assert build([tmp_path]).document()["arms"][0]["memory"]["train"]["process_peak_bytes"] == 1.2e9


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The report of a study that nobody changes."""
    folder = tmp_path_factory.mktemp("read")
    write_study(folder, {8: 0.82, 128: 0.82})
    return build([folder])


@pytest.fixture(scope="module")
def text(read, tmp_path_factory):
    return page(read, tmp_path_factory.mktemp("page"))


def test_json_has_memory_compute_and_the_seconds_of_every_phase(read):
    arm = arm_of(read, rank=8)
    assert arm["memory"]["train"]["predicted"]["peak_bytes"] > arm["memory"]["train"]["peak_bytes"]
    assert arm["memory"]["eval"]["peak_bytes"] == 4 * (22_700_770 + 320_000) + 13_000_000
    assert arm["compute"]["flops"]["of_full"] == pytest.approx(2 / 3 + 8 / 77.4 / 3)
    assert arm["compute"]["flops"]["break_even_rank"] == 77.4
    assert (arm["compute"]["mfu"], arm["compute"]["attention"]) == (pytest.approx(0.37), "sdpa")  # median of three
    phases = ["start_up", "imports", "load", "plan", "train", "validate", "test", "measure", "save", "total"]
    assert set(arm["compute"]["seconds"]) == {f"{phase}_s" for phase in phases}
    full = arm_of(read, method="full")
    assert full["compute"]["flops"]["break_even_rank"] is None


def test_table_shows_peak_error_of_the_prediction_and_share_of_flops(read):
    text, peak = printed(read), fmt.megabytes(costs.peak_bytes(read.arms[0]))
    assert re.search(rf"lora r=8 .* {peak} \+2\.0 % +0\.70 ", text)
    assert re.search(r"full .* 519 \+2\.0 % +1\.00 ", text)
    assert "of the peak that is computed from the config alone" in " ".join(text.split())
    assert f"| {peak} | +2.0 % | 0.70 |" in read.to_markdown()


def test_page_sets_predicted_beside_measured_memory(read, text):
    text, arm = text[text.index('<h2 id="memory">') :], read.arms[0]
    held = costs.memory(arm)
    assert row(text, "lora r=8") == [
        "32 × 49",
        "backward",
        fmt.megabytes(costs.predicted_bytes(arm)),
        fmt.megabytes(held["peak_bytes"]),
        "+2.0 %",
        fmt.megabytes(costs.peak_bytes(arm, "eval")),
        fmt.megabytes(held["process_peak_bytes"]),
    ]
    # The page may stand in W&B, with no file beside it.
    assert "The raw numbers: rankwise report --csv and --json.</footer>" in text
    assert "Per token counts padding, tokens /s does not;" in text
    assert "(step 3)" in text and "Python and its libraries included" in text
    assert "CUDA" not in text


def test_page_says_what_the_storage_of_the_base_costs(tmp_path):
    for quant, error in (("none", 0.0), ("nf4", 0.25)):
        change(write_run(tmp_path / "study", quant__name=quant, quant__kind=quant), "compute", quant_error=error)
    text = page(build([tmp_path / "study"]), tmp_path / "out")
    assert row(text[text.index('<h2 id="compute">') :], "lora r=8 nf4")[-1] == "25.0"


def test_page_shows_the_allocator_in_place_of_the_process_on_a_gpu(tmp_path):
    write_study(tmp_path / "study", {8: 0.82}, device="cuda")
    text = page(build([tmp_path / "study"]), tmp_path / "out")
    assert "reserved peak MB" in text and "what it took of the GPU" in text
    assert "process peak MB" not in text


@pytest.mark.parametrize("devices", [1, 2])
def test_the_bytes_of_several_devices_are_said_to_be_of_the_first(tmp_path, devices):
    write_run(tmp_path, trainer__devices=devices)
    said = "Of a run on several devices (trainer.devices), bytes and MFU are those of the first."
    assert build([tmp_path]).to_markdown().count(said) == devices - 1


def test_page_draws_all_parts_and_the_prediction(text):
    figure = text[text.index('id="plot-memory"') :]
    shown = set(re.findall(r"<text[^>]*>(.*?)</text>", figure[: figure.index("</figure>")]))
    assert {*PARTS, "predicted peak"} <= shown


def test_page_says_above_which_rank_lora_computes_more(text):
    assert "On these layers low-rank adapters compute more than full fine-tuning above r = 77:" in text
    assert "Here r = 128 is above it." in text
    assert row(text[text.index('<h2 id="compute">') :], "lora r=128")[1:3] == ["1.22", "77"]
    assert "the device&#39;s peak (90.0 GFLOP/s, measured)" in text


def test_break_even_is_a_range_where_targets_differ(tmp_path):
    write_study(tmp_path, {8: 0.82})
    write_run(tmp_path, "lora", 8, targets__name="qv")
    said = costs.break_even(build([tmp_path]).arms)
    assert "above r = 77 to 309: an adapter" in said
    assert said.endswith("No rank here is above it.")


def test_costs_that_were_not_measured_are_a_dash(tmp_path):
    write_study(tmp_path / "study", {4: 0.82}, range(1))
    write_run(tmp_path / "study", "lora", 8, measured=False)
    write_run(tmp_path / "study", "probe", None, lr=0.0)
    report = build([tmp_path / "study"])
    arm = arm_of(report, rank=8)
    assert arm["memory"] == {"train": {}, "eval": {}}
    assert set(arm["compute"]["flops"].values()) == {None}
    text = page(report, tmp_path / "out")
    assert text.count("– not measured") == 2
    assert [n for n in re.findall(r">(lora r=\d+)</td>", text[text.index('<h2 id="memory">') :])][:1] == ["lora r=4"]
    line = next(line for line in report.to_markdown().splitlines() if line.startswith("| lora r=8"))
    assert "| – | – | – | 20.0 |" in line  # peak, error of the prediction, FLOPs; the training time is known


def test_a_study_without_any_measurement_has_no_such_sections(tmp_path):
    write_study(tmp_path / "study", {8: 0.82}, measured=False)
    report = build([tmp_path / "study"])
    text = page(report, tmp_path / "out")
    assert 'id="memory"' not in text and "Computation" not in text
    assert "Peak: live tensors" not in report.to_markdown()
    json.dumps(report.document(), allow_nan=False)


@pytest.mark.parametrize("missing", ["predicted", "peaks", "batch", "phase", "step", "process_peak_bytes"])
def test_each_part_of_the_memory_may_be_missing(tmp_path, missing):
    for method, rank in (("full", None), ("lora", 8)):
        record = write_run(tmp_path / "study", method, rank)
        del record.memory["train"][missing]
        del record.compute["flops"], record.compute["mfu"]
        record.write()
    report = build([tmp_path / "study"])
    assert costs.peak_bytes(report.arms[0])
    text = page(report, tmp_path / "out")
    assert 'id="memory"' in text and "None" not in text


def test_the_answer_costs_are_of_the_tensors(read, text):
    share = costs.peak_bytes(read.arms[0]) / costs.peak_bytes(read.reference)
    assert f"{fmt.percent(share)} % of the peak training memory" in read.headline.cost
    assert re.search(rf'FLOPs per token</div><div class="value">{fmt.percent(2 / 3 + 8 / 77.4 / 3)} %', text)
    assert '<div class="why">21 s against 29 s</div>' in text


def ratio(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half}


def timed(record, adapted, merged=None, rows=1, length=128):
    """Add a shape as ``measure.latency`` writes it; the base takes 20 ms."""
    cell = {"rows": rows, "length": length, "blocks": 100, "base_ms": 20.0}
    for key, value in (("adapted", adapted), ("merged", merged)):
        cell |= {f"{key}_ms": value and 20 * value, f"{key}_of_base": value and ratio(value)}
    record.compute.setdefault("latency", []).append(cell)
    record.compute["threads"] = 1
    record.write()
    return record


def section_of(report):
    return report.to_markdown().split("**Latency of a forward pass**")[1].split("\n* ")[0]


def test_every_arm_has_a_row_per_shape_and_full_fine_tuning_is_the_control(tmp_path):
    lora = timed(timed(write_run(tmp_path, "lora", 8), 1.2, 1.0), 1.05, 1.001, 32, 512)
    timed(write_run(tmp_path, "full", None), 1.002)
    write_run(tmp_path, "lora", 4)
    report = build([tmp_path])
    part = section_of(report)
    header, _, *rows = [line for line in part.splitlines() if line.startswith("|")]
    assert header == "| arm | input | base ms | ms | against base | merged against base |"
    assert rows == [
        "| lora r=8 | 1 × 128 | 20.0 | 24.0 | 1.200 (1.190 to 1.210) | 1.000 (0.990 to 1.010) |",
        "| lora r=8 | 32 × 512 | 20.0 | 21.0 | 1.050 (1.040 to 1.060) | 1.001 (0.991 to 1.011) |",
        "| full | 1 × 128 | 20.0 | 20.0 | 1.002 (0.992 to 1.012) | – |",
    ]
    assert "(cpu, fp32; 1 thread)" in part and "full: a second instance of the base" in part
    assert "several runs" not in part
    assert "1.050 (1.040–1.060)" in printed(report) and "1.200 (1.190 to 1.210)" in html(report)
    documents = {arm["label"]: arm["latency"] for arm in report.document()["arms"]}
    assert documents["lora r=4"] == [] and documents["full"][0]["merged_of_base"] is None
    assert documents["lora r=8"][1]["adapted_of_base"] == ratio(1.05) == lora.compute["latency"][1]["adapted_of_base"]


def test_of_several_runs_the_median_is_shown_with_the_ends_of_all_their_intervals(tmp_path):
    for seed, slower in enumerate((1.1, 1.3, 1.2)):
        timed(write_run(tmp_path, "lora", 8, seed=seed), slower, 1.0)
    report = build([tmp_path])
    (arm,) = report.document()["arms"]
    assert arm["latency"][0]["adapted_of_base"] == pytest.approx({"value": 1.2, "low": 1.09, "high": 1.31})
    assert arm["latency"][0]["adapted_ms"] == pytest.approx(24) and arm["latency"][0]["runs"] == 3
    assert "from the lowest to the highest end" in section_of(report)


def test_what_could_not_be_timed_is_named_and_without_any_there_is_no_section(tmp_path):
    record = timed(write_run(tmp_path / "some", "lora", 8), 1.1, 1.0)
    record.compute["latency"].append({"rows": 32, "length": 512, "absent": "out of memory"})
    record.write()
    assert "Absent: 32 × 512 of lora r=8: out of memory" in section_of(build([tmp_path / "some"]))
    write_run(tmp_path / "none", "lora", 8)
    assert "Latency" not in build([tmp_path / "none"]).to_markdown()


@pytest.mark.parametrize("disturbed", [("lora", 4), ("lora", 8), ("full", None)])
def test_seconds_of_a_run_that_others_disturbed_are_flagged_and_not_compared(tmp_path, disturbed):
    write_study(tmp_path, {4: 0.7, 8: 0.82})
    record = write_run(tmp_path, *disturbed, lr=1e-4 if disturbed[0] == "full" else 2e-3, test=0.82, seed=0)
    record.compute["mfu"] = 0.2
    record.write()
    report = build([tmp_path])
    flagged = [(arm.method, arm.rank) for arm in report.arms if "disturbed: MFU of a run" in " ".join(arm.flags)]
    assert flagged == [disturbed]
    assert "% of the FLOPs per token" in report.headline.cost
    assert ("training time" in report.headline.cost) == (disturbed == ("lora", 4))
    record.compute["seconds"]["train_s"] = 1.9  # of which no run tells how fast its machine is
    record.write()
    assert all(arm.timed for arm in build([tmp_path]).arms)


def test_runs_are_measured_by_the_fastest_where_most_were_disturbed(tmp_path):
    write_study(tmp_path, {8: 0.82})
    for seed, mfu in enumerate((0.38, 0.2, 0.2)):
        record = write_run(tmp_path, "head", None, test=0.82, seed=seed)
        record.compute["mfu"] = mfu
        record.write()
    report = build([tmp_path])
    assert [arm.method for arm in report.arms if not arm.timed] == ["head"]
    (said,) = (flag for arm in report.arms for flag in arm.flags if flag.startswith("disturbed"))
    assert said.startswith("disturbed: MFU of a run under 75.0 % of the 38.0 % that another reached;")


def test_what_is_slower_for_its_storage_is_not_disturbed_and_its_time_is_told(tmp_path):
    write_study(tmp_path, {4: 0.7, 16: 0.7})
    for seed in range(3):
        record = write_run(tmp_path, "lora", 8, test=0.82, seed=seed, quant__name="nf4", quant__kind="nf4")
        record.compute["mfu"], record.compute["seconds"]["train_s"] = 0.2, 60.0
        record.write()
    report = build([tmp_path])
    assert all(arm.timed for arm in report.arms) and "207 % of the training time" in report.headline.cost
