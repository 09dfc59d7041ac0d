"""Measurements, side by side in one run: ``python -m benchmarks.startup``, ``.replay``, ``.gathering``, ``.trip``, ``.domains``."""
