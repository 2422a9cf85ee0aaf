"""Fixtures of the readers: a tokenizer, and a server of files."""

from tests.reader.conftest import piece_model, server, tokenizer
