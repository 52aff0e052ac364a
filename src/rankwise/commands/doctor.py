"""``rankwise doctor``: what this machine can do."""

import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from rankwise.commands._shared import parse, parser, print_json


def main(arguments: list[str]) -> int:
    """Print what was found; the exit code is 0 whatever it is."""
    spec = parser("doctor", "Show what this machine can do, and what is missing for the rest.", as_json=True)
    options = parse(spec, arguments)
    from rankwise import doctor

    found: dict[str, Any] = {}
    for checks in (doctor.here, doctor.with_torch):  # torch takes seconds
        section = checks()
        found |= section
        if not options.json:
            _print(section)
    if options.json:
        print_json(found)
    return 0


def _print(checks: dict[str, Any]) -> None:
    """Lines of a name and what is said of it, which a terminal has beside the name; into a pipe each is one line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for section, has in checks.items():
        if "problem" in has:
            lines = {section: f"not known: {has['problem']}"}
        elif section == "quantization":
            lines = {f"quant={name}": _storage(about) for name, about in has.items()}
        else:
            lines = {section: _TOLD[section](has)}
        for name, text in lines.items():
            line = f"{name:<20}{text}"
            print(textwrap.fill(line, width, subsequent_indent=" " * 20, break_on_hyphens=False), flush=True)


def _machine(has: dict[str, Any]) -> str:
    free, total = has["memory_available_bytes"] / 1e9, has["memory_bytes"] / 1e9
    gpus = ", ".join(has["gpus"]) or "no GPU"
    return f"{has['cpu']}, cores: {has['cores']}, memory: {free:.1f} of {total:.1f} GB free, {gpus}"


def _cache(has: dict[str, Any]) -> str:
    size = f"{'' if has['complete'] else 'more than '}{has['bytes'] / 1e6:.1f} MB"
    return f"{has['folder']}, {size}" + ("" if has["writable"] else ", cannot be written: set RANKWISE_CACHE")


def _device(name: str, about: dict[str, Any]) -> str:
    parts = [about["name"]] if "name" in about else []
    parts += [f"{about['memory_bytes'] / 1e9:.1f} GB"] if "memory_bytes" in about else []
    parts += [f"threads: {about['threads']}"] if "threads" in about else []
    return f"{name}: " + ", ".join([*parts, "bf16" if about["bf16"] else "no bf16: precision auto is fp32"])


def _storage(about: dict[str, Any]) -> str:
    works = about["works"]
    return f"works on {about['device']}, error of a product {about['error']:.2g}" if works else str(about["why"])


def _slots(most: int | None) -> str:
    return f"up to {most}" if most else "one or more on each GPU"


_TOLD: dict[str, Callable[[dict[str, Any]], str]] = {
    "machine": _machine,
    "packages": lambda has: ", ".join(f"{name} {number or 'not installed'}" for name, number in has.items()),
    "wandb": lambda has: f"{has['mode']} ({has['why'] or 'a key is configured'})",
    "cache": _cache,
    "launchers": lambda has: f"{', '.join(has['names'])} (local: {_slots(has['local_slots'])} at once)",
    "devices": lambda has: "; ".join(_device(name, about) for name, about in has.items()),
}
