"""A package, because in .venv-parity a dependency installs one of this name, which would shadow it."""
