"""Pre-train an ERNIE-M: `python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR`.

On several devices: `fleetrun run_pretrain.py --config ...`. The same command continues a stopped run. See
docs/pretraining.md.
"""

import os
import sys
from dataclasses import replace

from utils.environment import run
from pretrain.config import PretrainConfig
from training.guard import StallWatch, StopSignal
from utils import logging
from utils.command_line import load_config
from utils.config import save_config, to_yaml
from utils.runtime import prepare, rank


def main() -> None:
    with StopSignal() as stop:
        config = load_config(PretrainConfig, sys.argv[1:], __doc__)
        prepare()
        train(config, stop)
    stop.exit_as_asked()


def train(config: PretrainConfig, stop: StopSignal) -> None:
    """Train from the newest checkpoint to the end of the run, or until it is asked to stop."""
    # Paddle reads its CPU settings when it is imported, and the reader process imports this file again.
    from pretrain.task import SETTINGS, Pretraining, open_run_folder, pace_of
    from training import distributed
    from training.run import Trainer

    distributed.init(sharding_stage=config.run.sharding_stage)
    folder = open_run_folder(config)
    with folder.locked():
        logging.setup(None if logging.LOG_DIR in os.environ else str(folder.path / "log"), rank())
        task = Pretraining(config)
        trainer = Trainer(task, folder, config.run.seed, pace_of(config))
        if distributed.is_main():
            # The saved configuration must not ask for a new beginning again.
            saved = replace(config, run=replace(config.run, overwrite=False))
            logging.logger.info("configuration:\n%s", to_yaml(saved))
            save_config(saved, folder.path / SETTINGS)
        if not trainer.run(stop):
            return
        if trainer.first_step == task.total_steps and task.is_exported(folder):
            task.report_again(folder)
        else:
            stalls = StallWatch(config.run.stall_seconds, config.run.stall_ends_seconds)
            with stalls, stalls.during("the export of the finished model"):
                task.export(trainer.engine, folder)


if __name__ == "__main__":
    run(main)
