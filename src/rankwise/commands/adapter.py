"""``rankwise adapter``: what one does with the adapters of finished runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankwise.commands._shared import parse, prepare_environment, show
from rankwise.errors import Refused, did_you_mean

Found = dict[str, Any]

HELP = """usage: rankwise adapter WHAT RUN …

What one does with the adapters of finished runs. RUN is a run's folder, outputs/STUDY/RUN.

{lines}

rankwise adapter WHAT --help tells more. Results go to stdout; --json prints one document."""
WHAT = {
    "merge": "write a plain transformers model with the adapter folded in, checked to be the same model",
    "export": "write a plain PEFT folder with a model card, for people without rankwise",
    "swap": "several adapters on one base: is each as alone, and what does switching cost?",
    "combine": "one LoRA adapter out of several, scored on each one's task",
    "shrink": "truncate an adapter to a lower rank, scored before and after",
    "diff": "two runs side by side: config, weights, scores",
}


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 an adapter is not the same on a shared base."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(lines="\n".join(f"  {name:<8} {text}" for name, text in WHAT.items())))
        return 0
    what, *rest = arguments
    if what not in WHAT:
        raise Refused(f"adapter {what}: no such subcommand; one of {', '.join(WHAT)}{did_you_mean(what, WHAT)}")
    parser = argparse.ArgumentParser(f"rankwise adapter {what}", description=WHAT[what].capitalize() + ".")
    add, call, text = _SUBCOMMANDS[what]
    add(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parse(parser, rest)
    prepare_environment()
    from rankwise.tracking.record import finite

    found = call(options)
    if options.json:
        print(json.dumps(finite(found), indent=1))
    else:
        text(found)
    return 1 if what == "swap" and not all(row["same"] for row in found["adapters"]) else 0


def _one_run(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=out)


def _many_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of finished runs on one base")


# merge


def _add_merge(parser: argparse.ArgumentParser) -> None:
    _one_run(parser, "where the model goes (default: RUN/merged)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the written weights")


def _merge(options: argparse.Namespace) -> Found:
    from rankwise.adapters import merge, runs

    return merge.merge(runs.open_trained(options.run), options.out or options.run / "merged", options.dtype)


def _merged(found: Found) -> None:
    logits = found["logits"]
    what = {
        "dequantized": f"base dequantized from {found['quant']} to fp32, against the run as it was",
        "merged": "adapter merged, in fp32",
        "written": f"read back from the folder, in {found['dtype']}",
    }
    print(f"merged into {found['out']} ({found['weight_bytes'] / 1e6:.2f} MB, {found['dtype']})")
    print(
        f"relative error of the logits of {logits['rows']} validation rows (at most {logits['tolerance']:g} in fp32):"
    )
    for name, error in logits["relative_errors"].items():
        print(f"  {error:.1e}  {what[name]}")


# export


def _add_export(parser: argparse.ArgumentParser) -> None:
    _one_run(parser, "where the adapter goes (default: RUN/peft)")


def _export(options: argparse.Namespace) -> Found:
    from rankwise.adapters import export, runs

    return export.export(runs.open_adapter(options.run), options.out or options.run / "peft")


def _exported(found: Found) -> None:
    print(f"{found['peft_type']} adapter in {found['out']} ({found['weight_bytes'] / 1e6:.2f} MB): "
          f"{', '.join(found['files'])}")  # fmt: skip
    print(f"base: {found['base']['source']}")


# swap


def _swap(options: argparse.Namespace) -> Found:
    from rankwise.adapters import runs, swap

    return swap.swap([runs.open_adapter(folder) for folder in options.runs])


def _swapped(found: Found) -> None:
    rows = [
        [row["run"], row["rows"], f"{row['adapter_bytes'] / 1e6:.3f}", f"{row['relative_error']:.1e}",
         "yes" if row["same"] else "NO"]
        for row in found["adapters"]
    ]  # fmt: skip
    _table(["adapter", "rows", "MB", "relative error of logits", f"same (≤ {found['tolerance']:g})"], rows)
    times = found["load_ms"] / found["switch_ms"]
    print(
        f"switching takes {found['switch_ms']:.2f} ms (median of {found['switches']}), loading a model anew "
        f"{found['load_ms']:.0f} ms (median of {found['loads']}): {times:.0f} times as long"
    )


# combine


def _add_combine(parser: argparse.ArgumentParser) -> None:
    _many_runs(parser)
    hows = ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties")
    parser.add_argument(
        "--how", choices=hows, required=True, help="cat and svd add the ΔWs; the others work on the factors"
    )
    parser.add_argument("--weights", metavar="W,W…", help="one number per run, by commas (default: 1/n each)")
    parser.add_argument("--rank", type=int, help="of svd (default: the largest of the runs)")
    parser.add_argument("--density", type=float, help="share of weights that ties and dare_* keep (default there: 0.5)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save the adapter and the heads here")


def _combine(options: argparse.Namespace) -> Found:
    weights = None if options.weights is None else _numbers(options.weights)
    from rankwise.adapters import combine, runs

    density = 0.5 if options.density is None and options.how in combine.WITH_DENSITY else options.density
    opened = [runs.open_adapter(folder) for folder in options.runs]
    return combine.combine(opened, options.how, weights, options.rank, density, options.out)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise Refused(f"--weights {text}: numbers, by commas, such as 0.7,0.3") from None


def _combined(found: Found) -> None:
    ranks, weights = found["ranks"], ", ".join(f"{weight:g}" for weight in found["weights"])
    print(f"{found['how']} of {len(found['runs'])} adapters, weights {weights}, rank {_span(ranks)}")
    rows = [
        [
            row["task"],
            row["run"],
            row["metric"],
            _score(row["single"]),
            _score(row["combined"]),
            _gap(row["difference"]),
        ]
        for row in found["tasks"]
    ]
    _table(["task", "head of", "metric", "alone", "combined", "paired difference"], rows)
    print("± one standard error over test rows")
    _say_out(found)


# shrink


def _add_shrink(parser: argparse.ArgumentParser) -> None:
    _one_run(parser, "save the smaller adapter here, with a card")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", type=int, help="the new rank; modules of a lower one keep theirs")
    size.add_argument("--energy", type=float, help="share of the squared singular values that each module keeps: 0.9")


def _shrink(options: argparse.Namespace) -> Found:
    from rankwise.adapters import runs, shrink

    return shrink.shrink(runs.open_adapter(options.run), options.rank, options.energy, options.out)


def _shrunk(found: Found) -> None:
    size = found["adapter_bytes"]
    rows = [
        ["rank", _span(found["ranks"]["before"]), _span(found["ranks"]["after"]), ""],
        ["kB, head included", f"{size['before'] / 1e3:.1f}", f"{size['after'] / 1e3:.1f}", ""],
        ["Σσ² kept", "100 %", f"{100 * found['kept_energy']:.2f} %", ""],
        [found["metric"], _score(found["before"]), _score(found["after"]), _gap(found["difference"])],
    ]
    _table(["", "before", "after", "paired difference"], rows)
    print("± one standard error over test rows")
    _say_out(found)


# diff


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN", help="folders of two finished runs")


def _diff(options: argparse.Namespace) -> Found:
    from rankwise.adapters import diff, runs

    one, other = (runs.open_run(folder) for folder in options.runs)
    return diff.diff(one, other)


def _differ(found: Found) -> None:
    names = [f"1: {found['runs'][0]}", f"2: {found['runs'][1]}"]
    print("\n".join(names))
    _table(["config key", "1", "2"], [[key, str(a), str(b)] for key, (a, b) in found["config"].items()])
    if found["not_compared"]:
        print(f"weights: not compared: {found['not_compared']}")
    else:
        rows = [[name, *_distances(each)] for name, each in found["modules"].items()]
        if found["all_modules"]:
            rows.append(["all of these", *_distances(found["all_modules"])])
        _table(["module", "‖ΔW₁ − ΔW₂‖ / ‖ΔW₁‖", "cosine"], rows)
        for number, only in enumerate(found["only_in"], 1):
            if only:
                print(f"only in {number}, or of another shape: {', '.join(only)}")
        if not found["same_base"]:
            print("the two are not on the same base in the same storage")
    metrics = found["scores"]["metrics"]
    rows = [[name, *map(_score, row["scores"]), _gap(row["difference"])] for name, row in metrics.items()]
    _table(["test score", "1", "2", "paired difference"], rows)
    if found["scores"]["not_paired"]:
        print(f"no paired difference: {found['scores']['not_paired']}")


def _distances(each: Found) -> list[str]:
    return ["–" if each[key] is None else f"{each[key]:.4f}" for key in ("distance", "cosine")]


# tables


def _table(headers: list[str], rows: list[list[Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    show(table)


def _span(ranks: Found) -> str:
    return f"{ranks['min']}" if ranks["min"] == ranks["max"] else (
        f"{ranks['min']} to {ranks['max']}, median {ranks['median']:g}, mean {ranks['mean']:.1f}"
    )  # fmt: skip


def _score(score: Found) -> str:
    return "–" if score.get("value") is None else f"{score['value']:.4f} ± {score.get('se') or float('nan'):.4f}"


def _gap(difference: Found | None) -> str:
    return "–" if difference is None else f"{difference['value']:+.4f} ± {difference['se']:.4f}"


def _say_out(found: Found) -> None:
    if found["out"]:
        print(f"saved in {found['out']}")


_SUBCOMMANDS: dict[str, tuple[Callable[[Any], None], Callable[[Any], Found], Callable[[Found], None]]] = {
    "merge": (_add_merge, _merge, _merged), "export": (_add_export, _export, _exported),
    "swap": (_many_runs, _swap, _swapped), "combine": (_add_combine, _combine, _combined),
    "shrink": (_add_shrink, _shrink, _shrunk), "diff": (_add_diff, _diff, _differ),
}  # fmt: skip
