"""One module per command: parse, call, print. Each has a ``main(arguments) -> exit code``."""
