"""Fine-tune and evaluate text classification or regression, with the official flags. See docs/finetune.md.

python run_classifier.py --train_set ... --dev_set dev.%s.tsv,test.%s.tsv --do_test false ...
fleetrun --nproc_per_node 2 run_classifier.py ...
"""

from ernie_m.finetune.check_inputs import check_inputs
from ernie_m.finetune.finetune_args import FinetuneFlags
from ernie_m.reader.files.classification_tsv import EXAMPLE_HEADER
from ernie_m.training.stop_requests import ShutdownHandler
from ernie_m.utils.args import parse_options
from ernie_m.utils.paddle_settings import prepare


def main() -> None:
    """Run the command run_classifier.py: classification and regression of texts."""
    flags = parse_options(FinetuneFlags, None, __name__)
    check_inputs(flags, EXAMPLE_HEADER)
    with ShutdownHandler(is_active=flags.do_train) as stop:
        prepare()
        # Imported here, because Paddle reads its CPU settings at import.
        from ernie_m.finetune.classifier import Classification, Regression
        from ernie_m.finetune.run_seeds import run_finetuning

        run_finetuning(Regression if flags.is_regression else Classification, flags, stop)
