"""Time question answering on a CPU beside transformers' pipeline (torch).

    python benchmarks/answer_questions.py                    100 questions at base size
    python benchmarks/answer_questions.py --layers 2 --questions 20 --rounds 1

From a file of made-up questions, two on each text of 40 to 400 words, to the 20 best answers of each, with
one tokenizer and one shape of random weights (12 x 768, 250,002 words, float32). Inputs of at most 384
tokens, answers of at most 30; longer texts are cut into windows: ours begin every 240 tokens, those of the
pipeline overlap by 128, which comes to the same within a few tokens. Ours is what run_mrc.py does when it
predicts; the pipeline's best batch size is looked for. Loading the model is not timed. transformers 5 has
no such pipeline.

How contenders are run: benchmarks/side_by_side.py. The last line is JSON (benchmarks/figures.py).
"""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import made_up
from benchmarks.side_by_side import VOCABULARY, Contender, compare, tell
from benchmarks.training import torch_device, xlm_r_config
from utils.runtime import prepare

MAX_SEQ_LEN, MAX_QUERY_LENGTH, MAX_ANSWER_LENGTH, N_BEST = 384, 64, 30, 20
STRIDE, OVERLAP, BATCH = 240, 128, 32
CONTENDERS = {
    "ours": Contender("ours", "ours", True),
    "hf_installed": Contender("transformers' pipeline, as installed", "pipeline", False, {"batch": 1}),
    "hf_best_1": Contender("transformers' pipeline, batches of 1", "pipeline", True, {"batch": 1}),
    "hf_best_8": Contender("transformers' pipeline, batches of 8", "pipeline", True, {"batch": 8}),
    "hf_best_32": Contender("transformers' pipeline, batches of 32", "pipeline", True, {"batch": 32}),
}


def make_files(folder: Path, args) -> None:
    words = made_up.write_tokenizers(folder)
    made_up.write_questions(folder, words, args.questions)


def ours(folder: Path, args) -> None:
    prepare(quiet=True)
    from finetune.datasets import EvalFile
    from finetune.evaluation import predict_files
    from finetune.question_answering import QuestionAnswering
    from model.ernie_m import ErnieMConfig
    from reader.question_answering import Cut
    from reader.tokenization import Tokenizer
    from training.engine import Engine
    from training.optimizer import build_optimizer

    cut, tokenizer = Cut(MAX_SEQ_LEN, MAX_QUERY_LENGTH, STRIDE), Tokenizer(None, folder / made_up.OURS)
    task = QuestionAnswering(tokenizer, cut, MAX_ANSWER_LENGTH, N_BEST)
    model = task.make_model(ErnieMConfig(args.vocab, 768, args.layers, 12))
    engine = Engine(model, build_optimizer(model, 5e-5))
    path = folder / made_up.QUESTIONS
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        data = task.read(path, "test")
        file = EvalFile(str(path), "en", path, data)
        (done,) = predict_files(task, engine, [file], BATCH, in_tokens=False, labelled=False)
        task.write(Path(output, "answers.json"), data, done.predictions)
        seconds = time.perf_counter() - start
        answered = json.loads(Path(output, "answers.json").read_text(encoding="utf-8"))
    tell(seconds, check=len(answered), windows=len(data))


def pipeline(folder: Path, args, batch: int) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.XLMRobertaForQuestionAnswering(xlm_r_config(args.layers, args.vocab)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / made_up.XLM_R)
    answer = transformers.pipeline(
        "question-answering", model=model, tokenizer=tokenizer, device=torch_device()
    )
    start = time.perf_counter()
    content = json.loads((folder / made_up.QUESTIONS).read_text(encoding="utf-8"))
    asked = [
        (question["question"], paragraph["context"])
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    questions, contexts = (list(column) for column in zip(*asked))
    answers = answer(
        question=questions, context=contexts, batch_size=batch, top_k=N_BEST, max_seq_len=MAX_SEQ_LEN,
        max_question_len=MAX_QUERY_LENGTH, doc_stride=OVERLAP, max_answer_len=MAX_ANSWER_LENGTH,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    windows = tokenizer(
        questions, contexts, truncation="only_second", max_length=MAX_SEQ_LEN, stride=OVERLAP,
        return_overflowing_tokens=True,
    )  # fmt: skip
    tell(seconds, check=len(answers), windows=len(windows["input_ids"]))


WORKERS = {"ours": ours, "pipeline": pipeline}

if __name__ == "__main__":
    compare(
        __doc__,
        CONTENDERS,
        WORKERS,
        {"layers": 12, "vocab": VOCABULARY, "questions": 100},
        "questions/s",
        lambda args: args.questions,
        prepare=make_files,
    )
