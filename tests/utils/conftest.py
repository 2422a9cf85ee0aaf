"""Fixtures of predictions."""

from tests.inference.conftest import models
