"""Pre-train an ERNIE-M: `python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR`.

On several devices: `fleetrun run_pretrain.py --config ...`. The same command again goes on where the run
stopped. See docs/pretraining.md.
"""

import os
import signal
import sys
from pathlib import Path

from pretrain.config import PretrainConfig
from utils.errors import run


def main() -> None:
    from utils.config import load_config, save_config, to_yaml
    from utils.runtime import prepare

    config = load_config(PretrainConfig, sys.argv[1:], __doc__)
    prepare()
    # Paddle reads its CPU settings when it is imported, and the reader process, which imports this file,
    # needs none of it: so what uses it is imported here.
    from pretrain.evaluate import Evaluator
    from pretrain.journal import Journal
    from pretrain.masking import Vocabulary
    from pretrain.reader import ReaderPlan
    from pretrain.schedule import total_steps
    from pretrain.streams import open_corpus
    from pretrain.trainer import Trainer
    from reader.prefetch import prefetch
    from utils import distributed, logging
    from utils.stopping import StopSignal

    distributed.init()
    rank, output = distributed.rank(), Path(config.run.output)
    logging.setup(None if logging.LOG_DIR in os.environ else str(output / "log"), rank)
    logger = logging.logger

    corpus, tokenizer = open_corpus(config.data)
    vocabulary = Vocabulary.of(tokenizer)
    steps = total_steps(config, corpus, vocabulary)
    trainer = Trainer(config, corpus, tokenizer, steps)
    evaluator = Evaluator(config, corpus, tokenizer, trainer.pseudo_tokens)

    saved = trainer.resume_or_initialise()
    if distributed.is_main():
        logger.info("configuration:\n%s", to_yaml(config))
        save_config(config, output / "config.yaml")

    engine, reader = trainer.engine, saved.get("reader")
    plan = ReaderPlan(config, tokenizer.digest, vocabulary, steps, rank, distributed.world_size(), reader)
    last = min(steps, config.run.stop_after_steps or steps)
    with (
        StopSignal() as stop,
        Journal(output, engine.steps, steps, saved.get("journal")) as journal,
        prefetch(plan) as batches,
    ):
        while True:
            # Before the step, so that an evaluation that was stopped half way is taken up again.
            if evaluator.due(engine.steps, steps) and journal.evaluated < engine.steps:
                journal.write_evaluation(engine.steps, evaluator.run(engine, stop))
            stopped = stop.anywhere()
            ends = stopped or engine.steps >= last
            if engine.steps > trainer.saved_steps and (ends or engine.steps % config.run.save_steps == 0):
                trainer.save({"reader": reader, "journal": journal.state()})
            if ends:
                break
            work = next(batches)
            line_ends = (engine.steps + 1) % config.run.log_steps == 0 or engine.steps + 1 == steps
            step = trainer.step(work, accuracy=line_ends)
            reader = work.state
            journal.add(step)
            if line_ends:
                journal.write_line(engine.steps, step)
        if engine.steps == steps:
            trainer.export()
            return

    logger.info("stopped at step %d of %d; the same command goes on from there", engine.steps, steps)
    if stop.received == signal.SIGINT:
        raise KeyboardInterrupt


if __name__ == "__main__":
    run(main)
