"""Find each sentence's translation among all: Tatoeba, or any bitext. See docs/retrieval.md.

python run_retrieval.py --pairs data/tatoeba --init_pretraining_params checkpoints/best
python run_retrieval.py --src_file a.de --tgt_file a.en --score margin --layer sweep ...
python run_retrieval.py --do_train true --train_set data/corpus ...
"""

import shlex
import sys
from pathlib import Path

from finetune.retrieval.flags import RetrievalFlags
from utils.errors import run


def main() -> None:
    from utils.config import load_config, save_config
    from utils.runtime import prepare

    flags = load_config(RetrievalFlags, sys.argv[1:], __doc__)
    prepare()
    # Paddle reads its CPU settings when it is imported, and the reader process imports this file again and
    # needs no paddle: so what uses it is imported here.
    from evaluation.encode import layer_number
    from finetune.encoder import open_encoder
    from finetune.retrieval.report import rows_by_layer, rows_of, write_predictions, write_report
    from finetune.retrieval.search import Searcher
    from finetune.retrieval.trainer import RetrievalTrainer
    from model.checkpoint import load_from
    from reader.sentences import read_bitext, read_bitexts
    from utils import distributed, logging

    device = distributed.init(flags.use_cuda)
    logging.setup(rank=distributed.rank())
    logging.logger.info("command: %s", shlex.join(sys.argv))
    logging.logger.info("device: %s, processes: %d", device, distributed.world_size())
    folder, main_process = Path(flags.checkpoints), distributed.is_main()

    languages = flags.languages.split(",") if flags.languages else []
    bitexts = read_bitexts(flags.pairs, languages) if flags.pairs else []
    if flags.src_file:
        bitexts = [read_bitext("bitext", flags.src_file, flags.tgt_file)]
    dev_bitexts = read_bitexts(flags.dev_pairs) if flags.layer == "dev" else []
    model, tokenizer = open_encoder(flags, flags.dtype, flags.random_seed)
    num_layers = model.config.num_hidden_layers
    layer = None if flags.layer in ("dev", "sweep") else layer_number(flags.layer, num_layers)

    if flags.do_train:
        if main_process:
            save_config(flags, folder / "flags.yaml")
        weights = RetrievalTrainer(flags, model, tokenizer, layer).train()
        load_from(model, weights)
    if not bitexts:
        return

    searcher = Searcher(flags, model, tokenizer)
    how = f"{flags.score}, {flags.pooling}"
    if flags.layer == "sweep":
        rows, title = rows_by_layer(searcher.by_layer(bitexts)), f"retrieval by layer: {how}, both directions"
    else:
        layer = searcher.choose_layer(dev_bitexts) if flags.layer == "dev" else layer
        found = searcher.at(layer, bitexts)
        rows, title = rows_of(found), f"retrieval: {how}, layer {layer} of {num_layers}"
        if main_process:
            write_predictions(folder, bitexts, found)
    if main_process:
        write_report(folder, title, rows, {"layer": layer, "pooling": flags.pooling, "score": flags.score})


if __name__ == "__main__":
    run(main)
