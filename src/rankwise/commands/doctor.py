"""``rankwise doctor``: what this machine can do."""

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from rankwise.commands._shared import parse, parser, prepare_environment, print_json


def main(arguments: list[str]) -> int:
    """Print what was found; the exit code is 0 whatever it is."""
    made = parser("doctor", "Show what this machine can do, and what is missing for the rest.", as_json=True)
    options = parse(made, arguments)
    prepare_environment()
    from rankwise import doctor

    checks = doctor.here()
    if not options.json:
        _print(_first(checks))  # torch takes seconds
    checks |= doctor.with_torch()
    print_json(checks) if options.json else _print(_second(checks))
    return 0


def _print(lines: Iterator[str]) -> None:
    """Lines of a name and what is said of it, which a terminal has beside the name; into a pipe each is one line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for line in lines:
        print(textwrap.fill(line, width, subsequent_indent=" " * 20, break_on_hyphens=False), flush=True)


def _first(checks: dict[str, Any]) -> Iterator[str]:
    def machine(has: dict[str, Any]) -> str:
        free, total = has["memory_available_bytes"] / 1e9, has["memory_bytes"] / 1e9
        gpus = ", ".join(has["gpus"]) or "no GPU"
        return f"{has['cpu']}, cores: {has['cores']}, memory: {free:.1f} of {total:.1f} GB free, {gpus}"

    def packages(has: dict[str, Any]) -> str:
        return ", ".join(f"{name} {number or 'not installed'}" for name, number in has.items())

    def wandb(has: dict[str, Any]) -> str:
        why = {
            "environment": "WANDB_API_KEY is set",
            "netrc": "a key is in netrc",
            None: "no key; wandb login sets one",
        }
        return f"{has['mode']} ({why[has['key']]})"

    def cache(has: dict[str, Any]) -> str:
        size = f"{'' if has['complete'] else 'more than '}{has['bytes'] / 1e6:.1f} MB"
        return f"{has['folder']}, {size}" + ("" if has["writable"] else ", cannot be written: set RANKWISE_CACHE")

    def launchers(has: dict[str, Any]) -> str:
        return f"{', '.join(has['names'])} (local: up to {has['local_slots']} at once)"

    for name, text in zip(checks, (machine, packages, wandb, cache, launchers), strict=True):
        yield _row(name, checks[name], text)


def _second(checks: dict[str, Any]) -> Iterator[str]:
    def devices(has: dict[str, Any]) -> str:
        return "; ".join(_device(name, about) for name, about in has.items())

    yield _row("devices", checks["devices"], devices)
    storages = checks["quantization"]
    if "problem" in storages:
        yield _row("quantization", storages, str)
        return
    for name, about in storages.items():
        works = (
            f"works on {about['device']}, error of a product {about['error']:.2g}" if about["works"] else about["why"]
        )
        yield f"{'quant=' + name:<20}{works}"


def _device(name: str, about: dict[str, Any]) -> str:
    parts = [about["name"]] if "name" in about else []
    parts += [f"{about['memory_bytes'] / 1e9:.1f} GB"] if "memory_bytes" in about else []
    parts += [f"threads: {about['threads']}"] if "threads" in about else []
    return f"{name}: " + ", ".join([*parts, "bf16" if about["bf16"] else "no bf16: precision auto is fp32"])


def _row(name: str, has: Any, text: Any) -> str:
    return f"{name:<20}" + (f"not known: {has['problem']}" if "problem" in has else text(has))
