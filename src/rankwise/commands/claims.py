"""``rankwise claims``: what papers and introductory texts say of LoRA, beside what comes out here."""

import sys
from pathlib import Path

from rankwise.claims.claim import TIERS
from rankwise.commands._shared import parse, parser, print_json, show, writable, write
from rankwise.errors import plural

DESCRIPTION = """Test published claims about LoRA: exact ones are computed, measured ones timed with --measure
alone, the others read from finished runs. Each has a bound, fixed before its runs; a note
says where it was not.

  rankwise claims                          of the runs in outputs/
  rankwise claims --only lora_t6           those whose ids begin so
  rankwise claims --tier full --markdown claims.md
"""


def main(arguments: list[str]) -> int:
    """Print verdicts; the exit code is 0 whatever they are."""
    spec = parser("claims", DESCRIPTION, as_json=True)
    spec.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="runs or studies (default: outputs)")
    spec.add_argument("--only", nargs="+", action="extend", default=[], metavar="ID", help="ids, or how they begin")
    spec.add_argument("--tier", choices=TIERS, default="quick", help="whose bounds: those of the full tier are tighter")
    spec.add_argument("--measure", action="store_true", help="time the measured claims, on an otherwise idle machine")
    spec.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown, too")
    options = parse(spec, arguments)
    if options.markdown:
        writable(options.markdown, "--markdown ")
    from rankwise.claims import registry
    from rankwise.tracking.record import find

    outputs = Path("outputs")
    paths = options.paths or [outputs]
    records = find(paths) if options.paths or any(outputs.glob("*/*/result.json")) else []
    claims = registry.only(registry.read(), options.only)
    what = f"{plural(len(claims), 'claim')}, read from {plural(len(records), 'run')} or computed here"
    print(f"rankwise: {what}; that may take minutes", file=sys.stderr)
    from rich.console import Console
    from rich.progress import track

    from rankwise.claims.judge import judge, to_json
    from rankwise.claims.show import markdown, table

    shown = track(claims, "claims", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    verdicts = [judge(claim, records, options.tier, options.measure) for claim in shown]
    document = to_json(verdicts, options.tier)
    print_json(document) if options.json else show(table(verdicts))
    if options.markdown:
        write(options.markdown, markdown(verdicts, document), "--markdown ")
    return 0
