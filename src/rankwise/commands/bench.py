"""``rankwise bench``: what it costs, beside the same work done without rankwise."""

import datetime
import functools
import json
import sys
from pathlib import Path
from typing import Any

from rankwise.commands._shared import parse, parser, positive, print_json, show_table, writable, write
from rankwise.errors import tell

DESCRIPTION = """Measure one run and a sweep of ranks here: with rankwise, with transformers.Trainer and peft (as in
examples and tuned for speed), and with a plain PyTorch loop; the same base, rows, steps and seed, in turns.

  rankwise bench --quick        about ten minutes on two idle cores
  rankwise bench --output FILE  also write everything as JSON, with commit and hardware
"""


def main(arguments: list[str]) -> int:
    """Measure, print the tables."""
    spec = parser("bench", DESCRIPTION, as_json=True)
    spec.add_argument("--quick", action="store_true", help="fewer steps and ranks, each measured once")
    times = functools.partial(positive, "--repeats")
    spec.add_argument(
        "--repeats", type=times, metavar="N", help="measurements of each, of which the median counts (3; quick 1)"
    )
    spec.add_argument("--output", type=Path, metavar="FILE", help="write everything as JSON")
    options = parse(spec, arguments)
    if options.output:
        writable(options.output, "--output ")
    from rankwise.bench.bench import bench

    repeats = options.repeats or (1 if options.quick else 3)
    document = bench(options.quick, repeats, lambda text: print(f"rankwise: {text}", file=sys.stderr))
    document["date"] = datetime.date.today().isoformat()
    if options.output:
        write(options.output, json.dumps(document, indent=1) + "\n", "--output ")
    print_json(document) if options.json else _show(document)
    return 0


_RUN = [  # figure, factor, digits and header
    ("step_cpu_s", 1e3, 0, "step, ms of processor"),
    ("rest_cpu_s", 1, 1, "rest, s of processor"),
    ("peak_bytes", 1e-6, 0, "peak MB"),
]
_SWEEP = [("wall_s", 1, 0, "wall s"), ("cpu_s", 1, 0, "processor s")]


def _show(document: dict[str, Any]) -> None:
    for name, workload in document["workloads"].items():
        print()
        tell(f"{name}: one run on one core, and how many times rankwise's cost that is")
        _show_figures(workload["runs"], _RUN)
        if (agree := workload["scores_agree"]) is not None:
            apart = "agree: they are as close as" if agree else "DIFFER: they are further apart than"
            tell(f"test scores {apart} test items of one model allow")
        if workload["sweeps"]:
            print(f"\n{name}: the sweep of ranks and full fine-tuning")
            _show_figures(workload["sweeps"], _SWEEP)
    print()
    tell(", ".join(f"rankwise {name} {s:.1f} s of processor" for name, s in document["commands"].items()))


def _show_figures(measured: dict[str, Any], figures: list[Any]) -> None:
    """Each figure, and how many times rankwise's it is; behind those of a run its score."""
    ours, scored = measured["rankwise"], figures is _RUN
    rows = []
    for who, run in measured.items():
        row = [who]
        for key, factor, digits, _ in figures:
            row += [f"{run[key] * factor:.{digits}f}", f"{run[key] / ours[key]:.2f}"]
        rows.append([*row, f"{run['score']:.3f}"] if scored else row)
    headers = [header for *_, title in figures for header in (title, "×")]
    show_table(["", *headers, *["test score"] * scored], rows, 1)
