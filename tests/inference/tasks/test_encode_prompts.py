"""What reaches the tokenizer: the same text for the same sentence, whatever encodes it."""

import json
from pathlib import Path

import pytest

import ernie_m
from ernie_m.commands import fit, mine_hard_negatives, mine_pairs, run_classifier, run_retrieval
from ernie_m.finetune import evaluate
from ernie_m.inference import encode_vector as vectors
from ernie_m.inference.load import load
from ernie_m.inference.prediction_options import PredictionOptions
from ernie_m.inference.tasks.predictors import make_predictor
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.pipeline_config import NEITHER
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import trainer
from tests.inference.test_load_pipeline import with_pipeline
from tests.launching import as_flags, call_main
from tests.toys import sentences, write_lines

TEXTS = sentences(12, seed=6)
LABELS = ["news", "question"] * 6
PROMPTS = {"query": "kofo: ", "passage": "tan: ", "plain": "bin: "}


class InThisProcess:
    """`PrefetchIterator` without the other process, so that what it does is seen."""

    def __init__(self, make_iterator, ahead=8):
        self.items = make_iterator()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return self.items

    def __next__(self):
        return next(self.items)

    def next_unless_stopped(self, stop):
        return next(self.items)


@pytest.fixture
def seen(monkeypatch):
    """seen() -> the texts whose ids became inputs of a model since the last call."""
    text_of: dict[tuple[int, ...], str] = {}
    inputs = []

    def replace(name, recorded):
        method = getattr(Tokenizer, name)
        monkeypatch.setattr(Tokenizer, name, lambda *arguments: recorded(method, *arguments))

    def encode_batch(method, tokenizer, texts):
        ids = method(tokenizer, texts)
        text_of.update(zip(map(tuple, ids), texts))
        return ids

    def build_from_ids(method, tokenizer, ids, *others):
        inputs.append(ids)
        return method(tokenizer, ids, *others)

    def build_many(method, tokenizer, ids, *others):
        ids = list(ids)
        inputs.extend(ids)
        return method(tokenizer, ids, *others)

    for module in (trainer, evaluate, vectors):
        monkeypatch.setattr(module, "PrefetchIterator", InThisProcess)
    replace("encode_batch", encode_batch)
    replace("build_inputs_from_ids", build_from_ids)
    replace("build_sentence_inputs", build_many)

    def since_the_last_call():
        found = {text_of[tuple(ids)] for ids in inputs}
        inputs.clear()
        return found

    return since_the_last_call


@pytest.fixture
def folder(models, tmp_path):
    """An encoder with prompts, whose default is "plain"."""
    return with_pipeline(models, "encode", tmp_path / "model", prompts=PROMPTS, default_prompt="plain")


def with_prompt(prompt, texts=TEXTS):
    return {f"{prompt}{text}" for text in texts}


@pytest.mark.parametrize(
    ("options", "before"), [({}, "kofo: "), ({"prompt": "plain"}, "bin: "), ({"prompt": ""}, "")]
)
def test_search_takes_the_prompt_that_is_named(folder, tmp_path, seen, ask, options, before):
    """For the text alone; the corpus keeps that of a document."""
    corpus = write_lines(tmp_path / "corpus.txt", TEXTS)
    model = ernie_m.load(folder)
    model.search("bada", TEXTS, **options)
    assert seen() == {f"{before}bada", *with_prompt("tan: ")}
    model.index(TEXTS, **options).search("bada")
    assert seen() == {f"{before}bada", *with_prompt("tan: ")}
    ask([{"text": "bada"}], task="search", model=folder, corpus=corpus, **options)
    assert seen() == {f"{before}bada", *with_prompt("tan: ")}


@pytest.mark.parametrize(("prompt", "added"), [(None, PROMPTS["query"]), ("", ""), ("tan: ", "tan: ")])
def test_a_prompt_replaces_the_default(models, tmp_path, prompt, added):
    """Also an empty one, as for texts that have theirs."""
    folder = with_pipeline(models, "encode", tmp_path / "model", prompts=PROMPTS, default_prompt="query")
    predictor = make_predictor("embedding", load(folder))
    (feature,) = predictor.tokenize_texts(TEXTS[:1], prompt)
    assert feature.ids == predictor.model.tokenizer.build_inputs(added + TEXTS[0])
    odd = with_pipeline(models, "encode", tmp_path / "odd", prompts={"query": "☃ "}, default_prompt="query")
    (prediction,) = make_predictor("embedding", load(odd)).predict(TEXTS[:1])
    assert prediction.keys() == {"embedding"}  # an unknown word of a prompt is none of the text


@pytest.mark.parametrize(
    ("options", "warns"),
    [({}, True), ({"prompt": ""}, False), ({"prompt": "query"}, False), ({"kind": "document"}, False)],
)
def test_warn_about_texts_without_a_prompt(models, tmp_path, caplog, options, warns):
    """If the model has some, but none for such texts, and none is selected."""
    folder = with_pipeline(models, "encode", tmp_path / "model", prompts={"query": "gaga: "})
    make_predictor("embedding", load(folder), PredictionOptions(**options))
    assert (f"{folder}: no prompt is added" in caplog.text) == warns


def test_warn_about_texts_that_begin_with_their_prompt(models, tmp_path, caplog, capsys):
    """Once for each prompt, if most begin so; of a training with the name of its file."""
    folder = with_pipeline(
        models, "encode", tmp_path / "model", prompts={"query": "gaga: ", "passage": "lulu: "}
    )
    prompted = [f"lulu:{text}" for text in TEXTS]
    for query, corpus in (
        ("bada", [*TEXTS, *prompted[1:]]),
        ("gaga: bada", prompted),
        ("gaga: bo", prompted),
    ):
        ernie_m.load(folder).search(query, corpus)
    said = [line.split("'")[1] for line in caplog.messages if "already" in line]
    assert sorted(said) == ["gaga: ", "lulu: "]
    rows = [f"gaga: {text}\t{text[::-1]}" for text in TEXTS]
    table = write_lines(tmp_path / "qa.tsv", ["query\tpositive", *rows])
    flags = {
        "do_train": "true",
        "train_set": table,
        "loss": "in_batch_softmax",
        "max_steps": 1,
        "batch_size": 4,
        "validation_pairs": 0,
        "init_pretraining_params": folder,
        "checkpoints": tmp_path / "out",
        "skip_text_checks": "true",
        "use_cuda": "false",
    }
    call_main(run_retrieval, as_flags(flags))
    assert capsys.readouterr().out.count(f"{table}: most texts already begin with the prompt 'gaga: '") == 1


def test_a_classifier_reads_texts_as_fit_did(folder, tmp_path, seen, ask):
    """After the default prompt, which the folder records, and no other prompt."""
    for name, labels in (("python", LABELS), ("several", [[label] for label in LABELS])):
        ernie_m.load(folder).fit(TEXTS, labels, tmp_path / name)
        assert seen() == with_prompt("bin: ")
    table = write_lines(tmp_path / "table.csv", ["text,label", *map(",".join, zip(TEXTS, LABELS))])
    call_main(fit, [table, *as_flags({"model": folder, "output": tmp_path / "command"})])
    assert seen() == with_prompt("bin: ")
    for name in ("python", "several", "command"):
        predictions = ernie_m.load(tmp_path / name).classify(TEXTS)
        assert seen() == with_prompt("bin: ")
        assert ask([{"text": TEXTS[0]}], model=tmp_path / name) == predictions[:1]
        assert seen() == with_prompt("bin: ", TEXTS[:1])


def test_run_classifier_keeps_the_prompt_from_fit(folder, tmp_path, seen):
    ernie_m.load(folder).fit(TEXTS, LABELS, tmp_path / "fitted")
    rows = [f"{text}\t{label}" for text, label in zip(TEXTS, LABELS)]
    flags = {
        "init_checkpoint": tmp_path / "fitted",
        "dev_set": write_lines(tmp_path / "dev.tsv", ["text_a\tlabel", *rows]),
        "train_set": tmp_path / "dev.tsv",
        "checkpoints": tmp_path / "run",
        "max_seq_len": 32,
        "max_steps": 1,
        "do_test": "false",
        "use_cuda": "false",
    }
    seen()
    call_main(run_classifier, as_flags(flags))
    assert seen() == with_prompt("bin: ")
    assert open_checkpoint(tmp_path / "run/best").pipeline_config.get_prompt(NEITHER) == "bin: "
    flags |= {"do_train": "false", "init_checkpoint": tmp_path / "run/best"}
    call_main(run_classifier, as_flags(flags))
    assert seen() == with_prompt("bin: ")
    (tmp_path / "labels.json").write_text(json.dumps({"news": 0, "question": 1}))
    flags |= {
        "do_train": "true",
        "init_pretraining_params": tmp_path / "fitted",
        "init_checkpoint": None,
        "label_map_config": tmp_path / "labels.json",
        "num_labels": 2,
        "checkpoints": tmp_path / "new",
    }
    call_main(run_classifier, as_flags(flags))  # a new head, whose texts have none
    assert seen() == set(TEXTS)
    assert open_checkpoint(tmp_path / "new/best").pipeline_config.get_prompt(NEITHER) == ""


@pytest.mark.parametrize(
    ("name", "default"), [("en-de.tsv", "plain"), ("en-de.tsv", None), ("questions.tsv", "plain")]
)
def test_training_scoring_mining_and_search_read_a_sentence_alike(
    models, tmp_path, in_tmp_path, seen, name, default
):
    """The same text in a training, its held-out scores, a search of pairs, mining, and the search afterwards.

    Translations have the default prompt or none, and queries and documents have theirs.
    """
    folder = with_pipeline(models, "encode", tmp_path / "model", prompts=PROMPTS, default_prompt=default)
    lines = list(dict.fromkeys(sentences(200, seed=7)))[:90]
    left, right = lines[:45], lines[45:]
    for part, rows in (("train", range(30)), ("scored", range(30, 45))):
        pairs = [f"{left[row]}\t{right[row]}" for row in rows]
        write_lines(tmp_path / part / name, ["query\tpositive", *pairs])
    before = {"en-de.tsv": [PROMPTS.get(default, "")] * 2, "questions.tsv": ["kofo: ", "tan: "]}[name]

    def read_as(rows):
        return with_prompt(before[0], left[rows]) | with_prompt(before[1], right[rows])

    flags = {"train_set": f"train/{name}", "use_cuda": "false", "max_seq_len": 32, "checkpoints": "out"}
    start = {"init_pretraining_params": folder}
    training = {"do_train": "true", "max_steps": 6, "batch_size": 9, "loss": "in_batch_softmax"}
    call_main(run_retrieval, as_flags({**flags, **start, **training}))  # holds 3 rows out
    assert seen() == read_as(slice(30))
    scoring = {"pairs": "scored", "use_cuda": "false", "untrained": "false"}
    write_lines(tmp_path / "corpus.txt", right)
    for model in (folder, tmp_path / "out/best"):
        start = {"init_pretraining_params": model, "checkpoints": f"scored-by-{model.name}"}
        call_main(run_retrieval, as_flags({**scoring, **start}))
        assert seen() == read_as(slice(30, None))
        mined = {"train_set": f"train/{name}", "corpus": "corpus.txt", "output": f"mined-by-{model.name}"}
        call_main(mine_hard_negatives, as_flags({**mined, "model": model, "max_seq_len": 32}))
        assert seen() == read_as(slice(30)) | with_prompt(before[1], right)
    ernie_m.load("out/best").search(left[0], right)
    assert seen() == with_prompt(before[0], left[:1]) | with_prompt(before[1], right)
    if name == "en-de.tsv":  # `mine_pairs` is for translations
        write_lines(tmp_path / "source.txt", left)
        for model in (folder, "out/best"):
            mining = {"source": "source.txt", "target": "corpus.txt", "output": f"pairs-{Path(model).name}"}
            call_main(mine_pairs, as_flags({"model": model, **mining}))
            assert seen() == read_as(slice(None))
