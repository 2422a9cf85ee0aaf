"""Evaluate a model with mteb.

python examples/mteb_encoder.py configs/e5-small STS17
"""

import sys

import mteb
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta

import ernie_m


class ErnieM(AbsEncoder):
    """Encoder for mteb: embeddings of `ernie_m.load(folder)`, with the prompts of E5."""

    def __init__(self, folder):
        self.model = ernie_m.load(folder)
        self.mteb_model_meta = ModelMeta.create_empty({"name": f"local/{folder}", "revision": "1"})

    def encode(self, inputs, *, prompt_type=None, **options):
        prompt = {"query": "query", "document": "passage"}.get(prompt_type and prompt_type.value)
        return self.model.encode([text for batch in inputs for text in batch["text"]], prompt=prompt)


if __name__ == "__main__":
    folder, *tasks = sys.argv[1:]
    print(mteb.evaluate(ErnieM(folder), mteb.get_tasks(tasks=tasks)))
