"""Pre-train ERNIE-M. See docs/pretraining.md.

python run_pretrain.py --config configs/pretrain/base.yaml --data.corpus DIR
fleetrun run_pretrain.py --config ...

The same command resumes an interrupted run.
"""

from ernie_m.pretrain.config import PretrainConfig
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.args import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    """Run the command run_pretrain.py: pre-training."""
    with ShutdownHandler() as stop:
        config = parse_options(PretrainConfig, None, __name__)
        prepare()
        # Imported here, because Paddle reads its CPU settings at import.
        from ernie_m.pretrain.run import train

        train(config, stop)
