"""Pre-train an ERNIE-M: `python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR`.

On several devices: `fleetrun run_pretrain.py --config ...`. The same command continues a stopped run. See
docs/pretraining.md.
"""

from ernie_m.pretrain.config import PretrainConfig
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.options import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    with StopSignal() as stop:
        config = parse_options(PretrainConfig, None, __name__)
        prepare()  # the CPU settings, which Paddle reads when it is imported
        train(config, stop)
    stop.exit_as_asked()


def train(config: PretrainConfig, stop: StopSignal) -> None:
    """Train from the newest checkpoint to the end of the run, or until it is asked to stop."""
    # Not at the top, because Paddle reads its CPU settings when it is imported.
    from ernie_m.model.kernels import use_kernels
    from ernie_m.pretrain.command import (
        check_checkpoints,
        finish,
        open_log,
        open_run_folder,
        pace_of,
        save_settings,
    )
    from ernie_m.pretrain.task import Pretraining
    from ernie_m.training import distributed
    from ernie_m.training.run import Trainer

    distributed.init()
    use_kernels(config.run.kernels)
    with open_run_folder(config).locked() as folder:
        open_log(folder)
        check_checkpoints(folder)
        task = Pretraining(config)
        trainer = Trainer(task, folder, config.run.seed, pace_of(config))
        save_settings(task.config, folder)  # without the objectives for which the corpus has no text
        if trainer.run(stop):  # the run is finished
            finish(task, trainer, folder)
