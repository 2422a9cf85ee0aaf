"""Benchmarks. This file makes the folder a package, so that one of .venv-parity does not shadow it."""
