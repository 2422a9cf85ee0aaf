"""Fixtures of fine-tuning and of predictions."""

from tests.finetune.conftest import classify, runner, toy_folder
from tests.inference.conftest import models
