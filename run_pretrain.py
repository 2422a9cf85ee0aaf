"""Pre-train an ERNIE-M: `python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR`.

On several devices: `fleetrun run_pretrain.py --config ...`. The same command continues a stopped run. See
docs/pretraining.md.
"""

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.environment import run
from pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from training.guard import StopSignal


def main() -> None:
    from training.guard import StopSignal, only_run_in

    with StopSignal() as stop:
        from utils import logging
        from utils.command_line import load_config
        from utils.runtime import prepare, rank

        config = load_config(PretrainConfig, sys.argv[1:], __doc__)
        with only_run_in(config.run.output):
            log_dir = None if logging.LOG_DIR in os.environ else os.path.join(config.run.output, "log")
            logging.setup(log_dir, rank())
            prepare()
            train(config, stop)
    stop.exit_as_asked()


def train(config: PretrainConfig, stop: "StopSignal") -> None:
    """Train from the newest checkpoint to the end of the run, or until it is asked to stop."""
    # Some of these modules import Paddle, which reads its CPU settings at import. The reader process imports
    # this file, too, and does not need Paddle.
    from pretrain.evaluate import Evaluator
    from pretrain.masking import Vocabulary
    from pretrain.reader import NOTHING, TrainingText, open_corpus, read_steps, total_steps
    from pretrain.run_folder import SETTINGS, Journal, clear_run_folder, remove_old_run
    from pretrain.trainer import Trainer
    from training import distributed
    from training.guard import StallWatch
    from training.prefetch import prefetch
    from utils.config import save_config, to_yaml
    from utils.logging import logger

    distributed.init(sharding_stage=config.run.sharding_stage)
    rank, world_size, output = distributed.rank(), distributed.world_size(), Path(config.run.output)
    corpus, tokenizer = open_corpus(config.data)
    text = TrainingText.of(corpus, Vocabulary.of(tokenizer), config)
    steps = total_steps(config, text)
    trainer = Trainer(config, text, tokenizer, steps)
    evaluator = Evaluator(config, text, tokenizer, trainer.pseudo_tokens)

    clear_run_folder(output)
    saved = trainer.resume_or_initialise()
    # The old run is not removed earlier, because a command that cannot begin must leave it alone.
    remove_old_run(config)
    # The saved configuration must not ask for it again.
    config = replace(config, run=replace(config.run, overwrite=False))
    if distributed.is_main():
        logger.info("configuration:\n%s", to_yaml(config))
        save_config(config, output / SETTINGS)

    engine, reader = trainer.engine, saved.get("reader")
    last = min(steps, config.run.stop_after_steps or steps)
    plan = partial(read_steps, config, tokenizer.digest, text.vocabulary, steps, rank, world_size, reader)
    with (
        StallWatch(config.run.stall_seconds, config.run.stall_ends_seconds) as stalls,
        Journal(output, engine.steps, steps, saved.get("journal")) as journal,
        prefetch(plan) as batches,
    ):
        saved_at, stopped = (engine.steps, journal.evaluated), False
        while True:
            # The evaluation comes before the step, so that an interrupted evaluation is repeated.
            if not stopped and evaluator.due(engine.steps, steps) and journal.evaluated < engine.steps:
                with stalls.during(f"the evaluation after step {engine.steps}"), journal.bar.evaluation():
                    journal.write_evaluation(engine.steps, evaluator.run(engine, stop))
            ends, now = stopped or engine.steps >= last, (engine.steps, journal.evaluated)
            if (ends or engine.steps % config.run.save_steps == 0) and saved_at != now:
                with stalls.during(f"the checkpoint of step {engine.steps}"):
                    trainer.save({"reader": reader, "journal": journal.state()})
                saved_at = now
            if ends:
                break
            with stalls.during(f"reading for step {engine.steps + 1}"):
                work = batches.next_unless(stop) or NOTHING
            with stalls.during(f"step {engine.steps + 1}"):
                step = trainer.step(work, stop=stop)
            if step is None:  # a process was asked to stop during the step
                stopped = True
                continue
            reader = work.state
            journal.add(step)
            if engine.steps % config.run.log_steps == 0 or engine.steps == steps:
                journal.write_line(engine.steps, step.lr, evaluator.to_come(engine.steps, steps))
        if engine.steps < steps or (evaluator.due(steps, steps) and journal.evaluated < steps):
            logger.info("stopped at step %d of %d; the same command goes on from there", engine.steps, steps)
        elif journal.bar.initial == steps and trainer.is_exported():
            journal.write_finished()
        else:
            with stalls.during("the export of the finished model"):
                trainer.export()


if __name__ == "__main__":
    run(main)
