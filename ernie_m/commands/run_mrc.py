"""Fine-tune and evaluate question answering, with the official flags. See docs/tasks.md.

python run_mrc.py --train_set ... --dev_set dev.%s.json,test.%s.json --do_test false ...
fleetrun --nproc_per_node 2 run_mrc.py ...
"""

from ernie_m.finetune.check_inputs import check_inputs
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.args import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    """Run the command run_mrc.py: question answering."""
    flags = parse_options(FinetuneFlags, None, __name__)
    check_inputs(flags)
    with ShutdownHandler(is_active=flags.do_train) as stop:
        prepare()
        # Imported here, because Paddle reads its CPU settings at import.
        from ernie_m.finetune.mrc import OfficialAnswering, QuestionAnswering
        from ernie_m.finetune.run_seeds import run_finetuning

        run_finetuning(QuestionAnswering, flags, stop, official_class=OfficialAnswering)
