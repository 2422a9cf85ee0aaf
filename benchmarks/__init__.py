"""A package, because in .venv-parity a peer's dependency installs one of this name, which would hide a folder."""
