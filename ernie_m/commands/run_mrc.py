"""Fine-tune and evaluate on question answering: MLQA, XQuAD, SQuAD. Official name and flags (docs/tasks.md).

python run_mrc.py --train_set ... --dev_set dev.%s.json,test.%s.json --do_test false ...
fleetrun --nproc_per_node 2 run_mrc.py ...
"""

from ernie_m.finetune.flags import FinetuneFlags
from ernie_m.training.stop_requests import StopSignal
from ernie_m.utils.options import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    flags = parse_options(FinetuneFlags, None, __name__)
    with StopSignal(active=flags.do_train) as stop:
        prepare()
        # Not at the top, because Paddle reads its CPU settings when it is imported.
        from ernie_m.finetune.labelled_task import fine_tune
        from ernie_m.finetune.tasks.question_answering import OfficialAnswering, QuestionAnswering

        fine_tune(QuestionAnswering, flags, stop, official_class=OfficialAnswering)
