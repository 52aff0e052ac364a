"""What one does with the adapters of finished runs: merge, export, swap, combine, shrink, compare."""
