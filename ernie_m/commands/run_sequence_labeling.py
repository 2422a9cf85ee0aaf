"""Fine-tune and evaluate token classification, with the official flags. See docs/tasks.md.

python run_sequence_labeling.py --train_set ... --dev_set dev.%s.tsv,test.%s.tsv --do_test false ...
fleetrun --nproc_per_node 2 run_sequence_labeling.py ...
"""

from ernie_m.finetune.check_inputs import check_inputs
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.reader.files.official_tags import SENTENCE_HEADER
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.args import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    """Run the command run_sequence_labeling.py: token classification."""
    flags = parse_options(FinetuneFlags, None, __name__)
    check_inputs(flags, SENTENCE_HEADER)
    with ShutdownHandler(is_active=flags.do_train) as stop:
        prepare()
        # Imported here, because Paddle reads its CPU settings at import.
        from ernie_m.finetune.run_seeds import run_finetuning
        from ernie_m.finetune.sequence_label import OfficialTagging, Tagging

        run_finetuning(Tagging, flags, stop, official_class=OfficialTagging)
