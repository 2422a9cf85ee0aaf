"""Fine-tuned from the real model, questions and words are answered in transformers as here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from ernie_m.commands import convert
from ernie_m.model.checkpoint.open import open_checkpoint
from tests.helpers.files import write_file

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(os.environ["REAL_MODEL"])
QUESTIONS = 200  # half of them English, half Chinese
WORDS = 2_900
WINDOW = 384  # tokens
LONGEST_SENTENCE = 40  # words, whose sub-words fit into 128 tokens
TAGS = ["B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "O"]


def run_finetuning(script, output, *flags):
    """Train for some steps from the real model, and return the folder of the last one in both formats."""
    command = [sys.executable, str(ROOT / script), "--init_pretraining_params", str(MODEL), *flags]
    command += ["--do_val", "false", "--do_test", "false", "--use_cuda", "false", "--learning_rate", "2e-4"]
    command += ["--max_steps", os.environ.get("REAL_STEPS", "60"), "--checkpoints", str(output / "run")]
    subprocess.run(command, check=True, cwd=ROOT)
    steps = sorted((output / "run").glob("step_*"), key=lambda path: int(path.name.split("_")[1]))
    convert.main([str(steps[-1]), str(output / "there"), "--to", "xlm-roberta"])
    return steps[-1], output / "there"


@pytest.fixture(scope="module")
def answering(tmp_path_factory, data_dir):
    flags = ["--train_set", str(data_dir / "qa/train-en.tydiqa-goldp.json"), "--max_seq_len", str(WINDOW)]
    return run_finetuning("run_mrc.py", tmp_path_factory.mktemp("qa"), *flags, "--batch_size", "6")


@pytest.fixture(scope="module")
def tagging(module_folder, data_dir):
    blocks = (data_dir / "ner/panx/train-en.tsv").read_text(encoding="utf-8").strip("\n").split("\n\n")
    with open(module_folder / "train.tsv", "w", encoding="utf-8") as file:
        file.write("text_a\tlabel\n")
        for block in blocks[:4000]:
            words, tags = zip(*(line.split("\t") for line in block.split("\n")))
            file.write("\x02".join(words) + "\t" + "\x02".join(tags) + "\n")
    (module_folder / "map.json").write_text(json.dumps({tag: number for number, tag in enumerate(TAGS)}))
    flags = ["--label_map_config", str(module_folder / "map.json"), "--num_labels", str(len(TAGS))]
    flags += ["--train_set", str(module_folder / "train.tsv"), "--max_seq_len", "128"]
    return run_finetuning("run_sequence_labeling.py", module_folder, *flags, "--batch_size", "16")


def asked_here(model, task, requests, folder):
    """The answers of `predict` in its own process: Paddle and torch do not share one at this size."""
    path = write_file(folder / f"{task}.jsonl", "".join(json.dumps(request) + "\n" for request in requests))
    answers = folder / f"{task}-answers.jsonl"
    answers.unlink(missing_ok=True)  # those of the other language
    command = [sys.executable, "-m", "ernie_m", "predict", "--task", task, "--model", str(model)]
    subprocess.run([*command, "--input", str(path), "--output", str(answers)], check=True, cwd=ROOT)
    return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


def read_questions(data_dir, language, tokenizer):
    """Questions of XQuAD with their contexts, of contexts that fit into one window."""
    content = json.loads((data_dir / f"qa/xquad.{language}.json").read_text(encoding="utf-8"))
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                if len(tokenizer(qa["question"], paragraph["context"])["input_ids"]) <= WINDOW:
                    yield {"question": qa["question"], "context": paragraph["context"]}


def test_answers_equal_transformers(answering, data_dir, tmp_path):
    native, there = answering
    reference = transformers.pipeline("question-answering", model=str(there), device="cpu")
    longest = open_checkpoint(native).pipeline_config.max_answer_length
    options = {"align_to_words": False, "max_seq_len": WINDOW, "max_answer_len": longest}
    for language in ("en", "zh"):
        questions = list(read_questions(data_dir, language, reference.tokenizer))[: QUESTIONS // 2]
        assert len(questions) == QUESTIONS // 2
        answers = asked_here(native, "question-answering", questions, tmp_path)
        expected = [reference(**question, **options)["answer"].strip() for question in questions]
        assert [answer["answer"] for answer in answers] == expected


def test_tags_equal_transformers(tagging, data_dir, tmp_path):
    native, there = tagging
    tokenizer = transformers.AutoTokenizer.from_pretrained(there)
    reference = transformers.AutoModelForTokenClassification.from_pretrained(there).eval()
    for language in ("en", "zh"):
        text = (data_dir / f"ner/panx/dev-{language}.tsv").read_text(encoding="utf-8")
        sentences = [re.findall(r"^(.*)\t", block, re.MULTILINE) for block in text.split("\n\n")]
        requests = [{"words": words} for words in sentences[: WORDS // 4] if len(words) <= LONGEST_SENTENCE]
        answers = asked_here(native, "token-classification", requests, tmp_path)
        compared = 0
        for request, answer in zip(requests, answers, strict=True):
            encoded = tokenizer(request["words"], is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                labels = reference(**encoded).logits[0].argmax(-1).tolist()
            first = {}  # word -> the tag of its first sub-word
            for word, label in zip(encoded.word_ids(), labels):
                first.setdefault(word, reference.config.id2label[label])
            first.pop(None)  # [CLS] and [SEP]
            assert {word: answer["tags"][word] for word in first} == first, request
            compared += len(first)
        assert compared >= WORDS // 2
