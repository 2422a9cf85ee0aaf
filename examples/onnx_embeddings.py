"""Encode texts with ONNX Runtime and an embedding model of `ernie-m export --format onnx`, without Paddle."""

import json

import numpy as np
import onnxruntime

from ernie_m.reader.tokenization import Tokenizer

with open("exported/config.json", encoding="utf-8") as file:
    config = json.load(file)
reading = config.get("reading", {})
longest = reading.get("max_seq_len") or config["max_position_embeddings"] - 2  # tokens
tokenizer = Tokenizer.from_folder("exported")
session = onnxruntime.InferenceSession("exported/model.onnx")


def encode(text):
    prompt = reading.get("prompts", {}).get(reading.get("default_prompt"), "")
    ids = tokenizer.build_inputs(prompt + text, max_seq_len=longest)  # [CLS] ... [SEP]
    (sequence,) = session.run(["sequence"], {"input_ids": [ids]})  # [1, T, H]
    states = {"mean": sequence[0], "cls": sequence[0, :1]}
    # by default without [CLS] and [SEP]; with "pooler" the vector is the output `pooled`
    vector = states.get(reading.get("pooling"), sequence[0, 1:-1]).mean(axis=0)  # [H]
    return vector / np.linalg.norm(vector) if reading.get("normalize") else vector


vector = encode("A man eats.")
