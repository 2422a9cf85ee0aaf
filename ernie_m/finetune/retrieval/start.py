"""Entry point of run_retrieval.py and `ernie-m train`, which configures Paddle before importing it."""

from ernie_m.finetune.retrieval.retrieval_args import RetrievalFlags
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.paddle_settings import prepare


def run(flags: RetrievalFlags) -> None:
    """Evaluate bitext retrieval; with --do_train, train first."""
    with ShutdownHandler(is_active=flags.do_train) as stop:
        prepare()
        from ernie_m.finetune.retrieval.run import run_retrieval

        run_retrieval(flags, stop)
