"""Comparisons, each its own module with a `main(argv)`; `python -m benchmarks` lists them."""
