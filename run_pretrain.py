"""Pre-train an ERNIE-M: `python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR`.

On several devices: `fleetrun run_pretrain.py --config ...`. The same command again goes on where the run
stopped. See docs/pretraining.md.
"""

import gc
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import PretrainConfig
from utils.errors import run

if TYPE_CHECKING:
    from pretrain.spikes import Spike
    from training.guard import StopSignal


def main() -> None:
    from training.guard import StopSignal, only_run_in
    from utils.config import load_config
    from utils.runtime import prepare

    config = load_config(PretrainConfig, sys.argv[1:], __doc__)
    prepare()
    with only_run_in(config.run.output):
        stop, spike = StopSignal(), None
        while (spike := train(config, stop, spike)) is not None:
            gc.collect()  # the model and its moments, before those of the checkpoint are made


def train(config: PretrainConfig, stop: "StopSignal", spike: "Spike | None") -> "Spike | None":
    """From the newest checkpoint to the end of the run, or to a spike of the loss.

    Args:
        stop: noted while the run can save.
        spike: that ended the last call: its batches are left out.

    Raises:
        KeyboardInterrupt: after a Ctrl-C, saved.
    """
    # Paddle reads its CPU settings when it is imported, and the reader process, which imports this file,
    # needs none of it: so what uses it is imported here.
    from pretrain.evaluate import Evaluator
    from pretrain.journal import Journal
    from pretrain.masking import Vocabulary
    from pretrain.reader import ReaderPlan
    from pretrain.schedule import total_steps
    from pretrain.spikes import SpikeWatch
    from pretrain.streams import open_corpus
    from pretrain.trainer import Trainer
    from training import distributed
    from training.guard import StallWatch
    from training.prefetch import prefetch
    from utils import logging
    from utils.config import save_config, to_yaml

    rank, output = distributed.rank(), Path(config.run.output)
    if spike is None:
        distributed.init(sharding_stage=config.run.sharding_stage)
        logging.setup(None if logging.LOG_DIR in os.environ else str(output / "log"), rank)
    logger = logging.logger

    corpus, tokenizer = open_corpus(config.data)
    vocabulary = Vocabulary.of(tokenizer)
    steps = total_steps(config, corpus, vocabulary)
    trainer = Trainer(config, corpus, tokenizer, steps)
    evaluator = Evaluator(config, corpus, tokenizer, trainer.pseudo_tokens)

    saved = trainer.resume_or_initialise()
    if distributed.is_main() and spike is None:
        logger.info("configuration:\n%s", to_yaml(config))
        save_config(config, output / "config.yaml")

    engine, reader = trainer.engine, saved.get("reader")
    spikes = SpikeWatch(config.run, saved.get("spikes"), spike)
    plan = ReaderPlan(
        config, tokenizer.digest, vocabulary, steps, rank, distributed.world_size(), reader, spikes.left_out
    )
    last = min(steps, config.run.stop_after_steps or steps)
    with (
        stop,
        StallWatch(config.run.stall_seconds) as stalls,
        Journal(output, engine.steps, steps, saved.get("journal"), spikes.rollbacks) as journal,
        prefetch(plan, slow_seconds=config.run.stall_seconds) as batches,
        trainer.writer,
    ):
        if spike is not None:
            journal.write_rollback(engine.steps, spike)
        while True:
            # Before the step, so that an evaluation that was stopped half way is taken up again.
            if evaluator.due(engine.steps, steps) and journal.evaluated < engine.steps:
                with stalls.during(f"the evaluation after step {engine.steps}"):
                    journal.write_evaluation(engine.steps, evaluator.run(engine, stop))
            with stalls.during(f"step {engine.steps}: asking the other processes whether to stop"):
                stopped = stop.anywhere()
            ends = stopped or engine.steps >= last
            if engine.steps > trainer.saved_steps and (ends or engine.steps % config.run.save_steps == 0):
                with stalls.during(f"the checkpoint of step {engine.steps}"):
                    trainer.save({"reader": reader, "journal": journal.state(), "spikes": spikes.state()})
            if ends:
                break
            work = next(batches)
            line_ends = (engine.steps + 1) % config.run.log_steps == 0 or engine.steps + 1 == steps
            with stalls.during(f"step {engine.steps + 1}"):
                step = trainer.step(work, accuracy=line_ends)
                if config.run.trace:
                    journal.write_trace(engine.steps, work)
                if spike := spikes.check(engine.steps, step, work):
                    return spike
            reader = work.state
            journal.add(step)
            if line_ends:
                journal.write_line(engine.steps, step)
        if engine.steps == steps:
            with stalls.during("the export of the finished model"):
                trainer.export()
            return None

    logger.info("stopped at step %d of %d; the same command goes on from there", engine.steps, steps)
    if stop.received == signal.SIGINT:
        raise KeyboardInterrupt
    return None


if __name__ == "__main__":
    run(main)
