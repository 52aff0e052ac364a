"""``rankwise claims``: what papers and introductory texts say of LoRA, beside what comes out here."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rankwise.claims.claim import TIERS, Claim
from rankwise.commands._shared import parse, prepare_environment, show
from rankwise.errors import Refused

DESCRIPTION = """Test published claims about LoRA: exact ones are computed, measured ones timed (--measure) or
read where they were timed before, the others read from finished runs. Each has a bound, fixed before its runs; a note
says where it was not.

  rankwise claims                          of the runs in outputs/
  rankwise claims --only lora_t6_rank1     one claim
  rankwise claims --tier full --markdown claims.md --html claims.html
"""
TIMINGS = "claims_measured"  # folder in outputs


def main(arguments: list[str]) -> int:
    """Print verdicts; the exit code is 0 whatever they are."""
    parser = argparse.ArgumentParser(
        "rankwise claims", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="runs or studies (default: outputs)")
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="ID", help="these claims alone")
    parser.add_argument(
        "--tier", choices=TIERS, default="quick", help="whose bounds: those of the full tier are tighter"
    )
    parser.add_argument("--measure", action="store_true", help="time the measured claims, on an otherwise idle machine")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page, too")
    options = parse(parser, arguments)
    prepare_environment()
    from rankwise.claims import registry
    from rankwise.claims.judge import Timings, judge, to_json
    from rankwise.claims.show import html, markdown, table
    from rankwise.tracking.record import find, write_atomically

    outputs = Path("outputs")
    paths = options.paths or [outputs]
    records = find(paths) if options.paths or any(outputs.glob("*/*/result.json")) else []
    claims = registry.only(registry.read(), options.only)

    def progress(claim: Claim) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{claim.id}", end="", file=sys.stderr, flush=True)

    timings = Timings(outputs / TIMINGS, options.measure)
    verdicts = judge(claims, records, options.tier, timings, progress)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    document = to_json(verdicts, options.tier)
    if options.json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(table(verdicts))
    for file, text in ((options.markdown, markdown), (options.html, html)):
        if file:
            try:
                write_atomically(file, text(verdicts, document))
            except OSError as error:
                raise Refused(f"{file}: cannot be written ({error.strerror or error})") from None
    return 0
