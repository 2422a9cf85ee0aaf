"""A package, because in .venv-parity a dependency of a peer installs one of this name, which would hide it."""
