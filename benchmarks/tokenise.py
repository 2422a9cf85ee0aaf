"""Time texts to token ids beside Hugging Face's tokenizers (Rust) and PaddleNLP.

    python benchmarks/tokenise.py                            50,000 sentences
    python benchmarks/tokenise.py --sentences 500 --rounds 1

All contenders get the same made-up sentences of 1 to 120 words, the same unigram model of 4,000 pieces, and
all cores. Ours is `Tokenizer.encode_batch`. Hugging Face's is the library below the fast tokenizer of
transformers. PaddleNLP has the tokenizer of its ErnieM, which uses one core. The program ends if their ids
are not the same.
"""

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import made_up
from benchmarks.side_by_side import LATEST, OURS, Benchmark, Contender, tell
from utils.runtime import read_cpu

REPEATS = 3
CONTENDERS = {
    "ours": Contender("ours", OURS),
    "hf_rust": Contender("tokenizers", "tokenizers"),
    "hf_latest_rust": Contender("newest tokenizers", "tokenizers", environment=LATEST),
    "paddlenlp": Contender("PaddleNLP ErnieM", "paddlenlp"),
}


def ours(folder: Path, _) -> None:
    from reader.tokenization import Tokenizer

    tokenizer, cores = Tokenizer(None, folder / made_up.OURS), read_cpu().cores
    time_tokenizer(folder, lambda texts: tokenizer.encode_batch(texts, cores))


def tokenizers_rust(folder: Path, _) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / made_up.XLM_R).backend_tokenizer

    def encode(texts: list[str]) -> list[list[int]]:
        return [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    time_tokenizer(folder, encode)


def paddlenlp_ernie_m(folder: Path, _) -> None:
    from paddlenlp.transformers import ErnieMTokenizer

    tokenizer = ErnieMTokenizer.from_pretrained(str(folder / made_up.ERNIE_M))

    def encode(texts: list[str]) -> list[list[int]]:
        return [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in texts]

    time_tokenizer(folder, encode)


def time_tokenizer(folder: Path, encode: Callable[[list[str]], list[list[int]]]) -> None:
    """Encode all texts several times, after a few of them to warm up, and tell the seconds."""
    texts = made_up.read_texts(folder)
    encode(texts[:100])
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ids = encode(texts)
        seconds.append(time.perf_counter() - start)
    digest = hashlib.sha256("\n".join(" ".join(map(str, row)) for row in ids).encode())
    tell(seconds, check=[sum(map(len, ids)), digest.hexdigest()])


if __name__ == "__main__":
    Benchmark(
        __doc__,
        CONTENDERS,
        {"ours": ours, "tokenizers": tokenizers_rust, "paddlenlp": paddlenlp_ernie_m},
        {"sentences": 50_000},
        "sentences/s",
        lambda args, _: args.sentences,
        prepare=made_up.write_files,
    ).main()
