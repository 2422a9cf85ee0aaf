"""Fixtures of fine-tuning and of predictions."""

from tests.finetune.conftest import classify, corpus, random_encoder, runner, toy_folder, trained
from tests.inference.conftest import models
