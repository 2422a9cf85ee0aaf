"""The rows of the suite: what each compares, the benchmark that it runs, and in which form.

A benchmark prints as its last line JSON in the form of benchmarks/figures.py.
"""

from dataclasses import dataclass

TINY = ("--layers=1", "--rounds=1")
TINY_STEP = (*TINY, "--vocab=1000", "--batch=2", "--length=16", "--steps=1")
TINY_TEXT = (*TINY, "--vocab=5000")

# Of the default three: the whole suite is to end within two hours.
ONCE, TWICE = "--rounds=1", "--rounds=2"

# The longer row has the same number of tokens, and of the contenders those that matter.
LONG = ("--batch=8", "--length=256")
LONG_CONTENDERS = (
    "--contenders=ours,hf_installed_sdpa,hf_best_sdpa,hf_best_latest_sdpa,hf_best_latest_compiled,"
    "hf_bfloat16,paddlenlp_best"
)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        title: on the page.
        what: one or two sentences for the page.
        script: in benchmarks/.
        flags: of a real run.
        quick: instead, the least that shows that it runs.
        why: for the page, where a peer is faster: the reason.
        asked: runs only where --rows names it.
        data: needs real data: DATA.
    """

    title: str
    what: str
    script: str
    flags: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    why: str = ""
    asked: bool = False
    data: bool = False


ROWS = {
    "products": Row(
        "Matrix products",
        "Paddle's and torch's own, in the shapes of a step: what the rows below owe to the library.",
        "products.py",
        quick=("--rounds=1",),
    ),
    "finetune": Row(
        "Fine-tuning step, 16 x 128 tokens",
        "Sequence classification, base shape (12 x 768, 250,002 words), float32, dropout 0.1, AdamW, "
        "clipping; all tokens are real.",
        "finetune_step.py",
        flags=("--steps=5", ONCE),
        quick=TINY_STEP,
    ),
    "finetune_256": Row(
        "Fine-tuning step, 8 x 256 tokens",
        "As many tokens in longer sequences.",
        "finetune_step.py",
        flags=(*LONG, ONCE, LONG_CONTENDERS),
        quick=(*TINY_STEP[:-2], "--length=32", "--steps=1", LONG_CONTENDERS),
    ),
    "mlm": Row(
        "Masked-LM step, 16 x 128 tokens",
        "304 of the tokens are to be predicted; otherwise as above. transformers makes logits over all words "
        "at all positions; ours are for the masked positions.",
        "mlm_step.py",
        flags=(ONCE,),
        quick=TINY_STEP,
    ),
    "mlm_gathered": Row(
        "The same, the peer's head at the masked positions",
        "With three lines of a user's own in the peer (gathered): what is left of the row above where it, "
        "too, makes only the logits that are needed.",
        "mlm_step.py",
        flags=(ONCE, "--contenders=ours,hf_gathered_sdpa,hf_gathered_latest_sdpa"),
        quick=(*TINY_STEP, "--contenders=ours,hf_gathered_sdpa"),
    ),
    "strategy": Row(
        "Full-strategy step",
        "What MMLM, BTMLM, TLM and CAMLM in their shares cost beside MMLM and TLM alone, for each trained "
        "token. Ours alone: no peer trains this.",
        "pretrain_cost.py",
        quick=("--layers=1", "--vocab=300", "--length=32", "--sequences=4", "--micro=1", "--alternations=2"),
    ),
    "evaluation": Row(
        "Evaluation of a classifier",
        "From a file of pairs of mixed length to loss and accuracy.",
        "evaluate.py",
        flags=("--pairs=500", ONCE),
        quick=(*TINY_TEXT, "--pairs=40"),
    ),
    "encoding": Row(
        "Sentences to vectors",
        "From a file of sentences of 1 to 120 words to a file of mean vectors of the top layer.",
        "encode.py",
        flags=("--sentences=1000", TWICE),
        quick=(*TINY_TEXT, "--sentences=40"),
    ),
    "inference": Row(
        "Engines",
        "Rows of ids of mixed length to the states of the top layer, in batches of at most 4,096 or 1,024 "
        "padded tokens, whichever suits a contender better.",
        "inference.py",
        flags=("--sentences=256", ONCE),
        quick=(*TINY_TEXT, "--sentences=16"),
    ),
    "answers": Row(
        "Question answering",
        "From a file of questions on texts of 40 to 400 words to the 20 best answers of each.",
        "answer_questions.py",
        flags=("--questions=50", ONCE),
        quick=(*TINY_TEXT, "--questions=4"),
    ),
    "tokenisation": Row(
        "Tokenisation",
        "50,000 sentences to ids on all cores, by one unigram model of 4,000 pieces; all get the same ids.",
        "tokenise.py",
        quick=("--rounds=1", "--sentences=300"),
    ),
    "corpus": Row(
        "Text to shards",
        "300 MB of real text to a corpus on disk, on all cores; the peers write ids alone. Memory is that of "
        "all processes.",
        "corpus.py",
        flags=("--gigabytes=0.3", ONCE),
        quick=("--gigabytes=0.0005", "--rounds=1"),
        data=True,
    ),
    "search": Row(
        "Exact search",
        "The 10 nearest of 1,000,000 vectors of width 768 for each of 1,000 queries, from arrays in memory.",
        "search_vectors.py",
        flags=(TWICE,),
        quick=("--rounds=1", "--vectors=2000", "--queries=20", "--width=32"),
    ),
    "start": Row(
        "Start to first step",
        "From the start of a process to the end of its first fine-tuning step, 16 x 128 tokens at base size.",
        "first_step.py",
        flags=(TWICE,),
        quick=(*TINY, "--vocab=1000"),
    ),
    "clone": Row(
        "From `git clone` to the first trained step",
        "Clone, environment, one fine-tuning step at base size; pip's cache as it was.",
        "from_clone.py",
        quick=("--layers=1", "--vocab=1000"),
        asked=True,
    ),
}
