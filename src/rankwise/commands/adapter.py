"""``rankwise adapter``: what one does with the adapters of finished runs."""

import argparse
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from rankwise.commands._shared import parse, parser, positive, print_json, show_table, wrapped
from rankwise.errors import Refused, did_you_mean, tell
from rankwise.metrics import signed

Document = dict[str, Any]

ABOUT = {
    "merge": "write a plain transformers model with the adapter folded in, checked to be the same model",
    "export": "write a plain PEFT folder with a model card, for people without rankwise",
    "swap": "several adapters on one base: whether each is as alone, and what switching costs",
    "combine": "one LoRA adapter out of several, scored on each one's task",
    "shrink": "truncate an adapter to a lower rank, scored before and after",
    "eval": "score runs on tasks of lm-evaluation-harness, into their records",
    "diff": "two runs side by side: config, weights, scores",
}
HELP = """usage: rankwise adapter WHAT RUN …

What one does with the adapters of finished runs. RUN is a run's folder, outputs/STUDY/RUN.

{lines}

rankwise adapter WHAT --help tells more. Results go to stdout; --json prints one document."""
_OUT = {
    "merge": "where the model goes (default: RUN/merged)",
    "export": "where the adapter goes (default: RUN/peft)",
    "combine": "save the adapter and the heads here",
    "shrink": "save the smaller adapter here, with a card",
}


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 an adapter is not the same on a shared base."""
    if not arguments:
        raise Refused(f"adapter: give one of {', '.join(ABOUT)}, and RUN; see rankwise adapter --help")
    if arguments[0] in ("-h", "--help"):
        print(wrapped(HELP.format(lines="\n".join(f"  {name:<7}  {about}" for name, about in ABOUT.items()))))
        return 0
    what, *rest = arguments
    if what not in ABOUT:
        near = did_you_mean(what, ABOUT)
        raise Refused(f"adapter {what}: no such subcommand; one of {', '.join(ABOUT)}{near}")
    options = parse(_parser(what), rest)
    document = _call(what, options)
    print_json(document) if options.json else _TELL[what](document)
    return 1 if what == "swap" and not all(row["same"] for row in document["adapters"]) else 0


def _parser(what: str) -> argparse.ArgumentParser:
    spec = parser(f"adapter {what}", f"{ABOUT[what][0].upper()}{ABOUT[what][1:]}.", as_json=True)
    add = spec.add_argument
    if what in ("merge", "export", "shrink"):
        add("run", type=Path, metavar="RUN", help="the folder of a finished run")
    else:
        number: Any = 2 if what == "diff" else "+"
        add("runs", type=Path, nargs=number, metavar="RUN", help="folders of finished runs")
    if what in _OUT:
        add("--out", type=Path, metavar="FOLDER", help=_OUT[what])
    if what == "eval":
        add("--tasks", required=True, type=_names, metavar="A,B…", help="tasks of lm-evaluation-harness, by commas")
        add("--include-path", "--include_path", type=Path, metavar="FOLDER", help="a folder with tasks of your own")
        examples = "examples before a question (default: the task's)"
        add("--shots", "--num_fewshot", type=partial(positive, "--shots", least=0), metavar="N", help=examples)
        add("--limit", type=partial(positive, "--limit"), metavar="N", help="the first N items of each task")
        add("--base", action="store_true", help="score the base as it is, too, and the difference from it")
    elif what == "merge":
        add("--dtype", choices=("fp32", "bf16"), default="fp32", help="of the written weights")
    elif what == "export":
        hub = "upload it to the hub, as a private repository if it is a new one"
        add("--push", metavar="NAME/REPOSITORY", help=hub)
    elif what == "combine":
        hows = ("linear", "cat", "svd", "ties", "dare_linear", "dare_ties")
        add("--how", choices=hows, required=True, help="cat and svd add the ΔWs; the others work on the factors")
        add("--weights", type=_numbers, metavar="W,W…", help="one per run, by commas (default: 1/n each)")
        add("--rank", type=int, help="of svd (default: the largest of the runs)")
        add("--density", type=float, help="share of weights that ties and dare_* keep (default there: 0.5)")
    elif what == "shrink":
        size = spec.add_mutually_exclusive_group(required=True)
        size.add_argument("--rank", type=int, help="the new rank; modules of a lower one keep theirs")
        energy = "share of the squared singular values that each module keeps: 0.9"
        size.add_argument("--energy", type=float, help=energy)
    return spec


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise Refused(f"--weights {text}: numbers, by commas, such as 0.7,0.3") from None


def _call(what: str, options: argparse.Namespace) -> Document:
    from rankwise.adapters import combine, diff, export, harness, merge, runs, shrink, swap

    match what:
        case "merge":
            return merge.merge(runs.open_trained(options.run), options.out or options.run / "merged", options.dtype)
        case "export":
            return export.export(runs.open_adapter(options.run), options.out or options.run / "peft", options.push)
        case "shrink":
            return shrink.shrink(runs.open_adapter(options.run), options.rank, options.energy, options.out)
        case "diff":
            return diff.diff(*map(runs.open_run, options.runs))
        case "eval":
            asked = {key: getattr(options, key) for key in ("shots", "limit", "base")}
            opened = [runs.open_trained(folder) for folder in options.runs]
            return harness.evaluate(opened, options.tasks, include=options.include_path, **asked)
    opened = [runs.open_adapter(folder) for folder in options.runs]
    if what == "swap":
        return swap.swap(opened)
    density = 0.5 if options.density is None and options.how in combine.WITH_DENSITY else options.density
    return combine.combine(opened, options.how, options.weights, options.rank, density, options.out)


def _tell_merge(document: Document) -> None:
    logits = document["logits"]
    what = {
        "dequantized": f"base dequantized from {document['quant']} to fp32, against the run as it was",
        "merged": "adapter merged, in fp32",
        "written": f"read back from the folder, in {document['dtype']}",
    }
    tell(f"merged into {document['out']} ({document['weight_bytes'] / 1e6:.2f} MB, {document['dtype']})")
    tell(f"outputs: {document['outputs']}")
    tell(f"relative error of the logits of {logits['compared']} (at most {logits['tolerance']:g} in fp32):")
    for name, error in logits["relative_errors"].items():
        tell(f"  {error:.1e}  {what[name]}")


def _tell_export(document: Document) -> None:
    size, files = f"{document['weight_bytes'] / 1e6:.2f} MB", ", ".join(document["files"])
    tell(f"exported to {document['out']} ({size}, {document['peft_type']} in PEFT): {files}")
    tell(f"base: {document['base']['source']}")
    tell(f"outputs: {document['outputs']}")
    if document["pushed"]:
        tell(f"pushed to {document['pushed']}")


def _tell_swap(document: Document) -> None:
    headers = ["adapter", "logits of", "MB", "relative error of logits", f"same (≤ {document['tolerance']:g})"]
    rows = []
    for row in document["adapters"]:
        size, error = f"{row['adapter_bytes'] / 1e6:.3f}", f"{row['relative_error']:.1e}"
        rows.append([row["run"], row["compared"], size, error, "yes" if row["same"] else "NO"])
    show_table(headers, rows)
    tell(
        f"switching takes {document['switch_ms']:.2f} ms (median of {document['switches']}), loading a model anew "
        f"{document['load_ms']:.0f} ms (median of {document['loads']}): "
        f"{document['load_ms'] / document['switch_ms']:.0f} times as long"
    )


def _tell_combine(document: Document) -> None:
    weights = ", ".join(f"{weight:g}" for weight in document["weights"])
    tell(f"{document['how']} of {len(document['runs'])} adapters, weights {weights}, rank {_span(document['ranks'])}")
    rows = []
    for row in document["tasks"]:
        scores = [_score(row["single"]), _score(row["combined"]), _gap(row["difference"])]
        rows.append([row["task"], row["run"], row["metric"], *scores])
    show_table(["task", "head of", "metric", "alone", "combined", "paired difference"], rows)
    _tell_end("test rows", saved_in=document["out"])


def _tell_shrink(document: Document) -> None:
    ranks, size, kept = document["ranks"], document["adapter_bytes"], document["kept_energy"]
    rows = [
        ["rank", _span(ranks["before"]), _span(ranks["after"]), ""],
        *([["kB, head included", *(f"{bytes_ / 1e3:.1f}" for bytes_ in size.values()), ""]] if size["after"] else []),
        *([] if kept is None else [["Σσ²", "100 %", f"{100 * kept:.2f} %", ""]]),
        [document["metric"], _score(document["before"]), _score(document["after"]), _gap(document["difference"])],
    ]
    show_table(["", "before", "after", "paired difference"], rows)
    how = "nested in training: its first columns were kept" if kept is None else "cut by singular values"
    tell(f"rank {_span(ranks['after'])}: {how}")
    _tell_end("test rows", saved_in=document["out"])


def _tell_eval(document: Document) -> None:
    rows = []
    for run in document["runs"]:
        for name, score in run["scores"].items():
            before = _score(score["before"]) if "before" in score else "–"
            rows.append([run["run"], name, score["n"], _score(score), before, _gap(score.get("difference"))])
    show_table(["run", "task:metric", "items", "score", "base", "paired difference"], rows)
    reasons = [score.get("not_paired") for run in document["runs"] for score in run["scores"].values()]
    _tell_end("items; rankwise report STUDY --score TASK:METRIC compares runs by one of these", reasons)


def _tell_diff(document: Document) -> None:
    for number, run in enumerate(document["runs"], 1):
        tell(f"{number}: {run}")
    show_table(["config key", "1", "2"], [[key, *values] for key, values in document["config"].items()])
    if document["not_compared"]:
        tell(f"weights: not compared: {document['not_compared']}")
    else:
        modules = document["modules"] | {"all of these": document["all_modules"] or None}
        rows = [
            [name, *("–" if module[key] is None else signed(f"{module[key]:.4f}") for key in ("distance", "cosine"))]
            for name, module in modules.items()
            if module
        ]
        show_table(["module", "‖ΔW₁ − ΔW₂‖ / ‖ΔW₁‖", "cosine"], rows)
        for number, only in enumerate(document["only_in"], 1):
            if only:
                tell(f"only in {number}, or of another shape: {', '.join(only)}")
        if not document["same_base"]:
            tell("the two are not on the same base in the same storage")
    scores = document["scores"]
    rows = [[name, *map(_score, row["scores"]), _gap(row["difference"])] for name, row in scores["metrics"].items()]
    show_table(["test score", "1", "2", "paired difference"], rows)
    _tell_end("test rows", [scores["not_paired"]])


def _span(ranks: Document) -> str:
    several = f"{ranks['min']} to {ranks['max']}, median {ranks['median']:g}, mean {ranks['mean']:.1f}"
    return str(ranks["min"]) if ranks["min"] == ranks["max"] else several


def _score(score: Document) -> str:
    if score.get("value") is None:
        return "–"
    return signed(f"{score['value']:.4f}") + _error(score.get("se"))


def _gap(difference: Document | None) -> str:
    return "–" if difference is None else signed(f"{difference['value']:+.4f}") + _error(difference["se"])


def _error(se: float | None) -> str:
    return "" if se is None or not math.isfinite(se) else f" ± {se:.4f}"


def _tell_end(over: str, reasons: Iterable[str | None] = (), saved_in: str | None = None) -> None:
    for reason in dict.fromkeys(filter(None, reasons)):
        tell(f"no paired difference: {reason}")
    tell(f"± one standard error over {over}")
    if saved_in:
        tell(f"saved in {saved_in}")


_TELL = {
    "merge": _tell_merge,
    "export": _tell_export,
    "swap": _tell_swap,
    "combine": _tell_combine,
    "shrink": _tell_shrink,
    "eval": _tell_eval,
    "diff": _tell_diff,
}
