"""Latency in the report: a row per arm and shape, over runs, and how it was timed."""

import pytest
from synthetic_study import printed, write_run

from rankwise.report.page import html
from rankwise.report.report import build


def ratio(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half}


def timed(record, adapted, merged=None, rows=1, length=128):
    """Add a shape as ``measure.latency`` writes it; the base takes 20 ms."""
    cell = {
        "rows": rows,
        "length": length,
        "blocks": 100,
        "base_ms": 20.0,
        "adapted_ms": 20 * adapted,
        "adapted_of_base": ratio(adapted),
        "merged_ms": merged and 20 * merged,
        "merged_of_base": merged and ratio(merged),
    }
    record.compute.setdefault("latency", []).append(cell)
    record.compute["threads"] = 2
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
    assert "(cpu, fp32; 2 threads)" in part and "full: a second instance of the base" in part
    assert "several runs" not in part
    assert "1.050 (1.040 to 1.060)" in printed(report) and "1.200 (1.190 to 1.210)" in html(report)
    documents = {arm["label"]: arm["latency"] for arm in report.to_json()["arms"]}
    assert documents["lora r=4"] == [] and documents["full"][0]["merged_of_base"] is None
    assert documents["lora r=8"][1]["adapted_of_base"] == ratio(1.05) == lora.compute["latency"][1]["adapted_of_base"]


def test_of_several_runs_the_median_is_shown_with_the_ends_of_all_their_intervals(tmp_path):
    for seed, slower in enumerate((1.1, 1.3, 1.2)):
        timed(write_run(tmp_path, "lora", 8, seed=seed), slower, 1.0)
    report = build([tmp_path])
    (arm,) = report.to_json()["arms"]
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
