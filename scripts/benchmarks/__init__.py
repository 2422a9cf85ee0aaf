"""A package, because in .venv-parity a dependency of a peer installs one of this name that would hide it."""
