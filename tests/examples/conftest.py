"""Fixtures of fine-tuning."""

from tests.finetune.conftest import classify, runner, toy_folder
