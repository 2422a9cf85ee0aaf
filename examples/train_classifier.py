"""Fine-tune a classifier in a custom training loop, with Paddle's optimizer or this project's (ours).

    python examples/train_classifier.py configs/e5-small train.tsv label_map.json ours 5e-5
    fleetrun --nproc_per_node 2 --backend gloo examples/train_classifier.py ...    # two processes on a CPU

The losses are those of run_classifier.py with --warmup_proportion 0 --layerwise_lr_decay 1, except for the
random numbers of dropout.
"""

import sys

import paddle
import paddle.nn.functional as F
from paddle.distributed import fleet

from ernie_m.model.checkpoint.load import load_weights
from ernie_m.model.checkpoint.open import open_checkpoint
from ernie_m.model.device_transfer import upload
from ernie_m.model.heads import SequenceClassifier
from ernie_m.model.optimization import build_optimizer, is_decayed
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.reader.batching import Batches
from ernie_m.reader.files.classification_tsv import read_classification
from ernie_m.reader.labels import read_label_map
from ernie_m.reader.text_featurizer import TextFeaturizer
from ernie_m.reader.tokenization import Tokenizer
from ernie_m.training import distributed
from ernie_m.utils.errors import run


def train(
    model_path: str,
    train_set: str,
    label_map: str,
    optimizer_kind: str,
    learning_rate: float,
    epochs=3,
    batch_size=32,
):
    """Train on a training file of run_classifier.py; yield the loss of each step, summed over processes."""
    rank = distributed.rank()
    processes = distributed.world_size()  # as fleetrun says
    if processes > 1:
        fleet.init(is_collective=True)
    labels = read_label_map(label_map)
    tokenizer = Tokenizer.from_folder(model_path)
    checkpoint = open_checkpoint(model_path)
    paddle.seed(1)
    model = SequenceClassifier(checkpoint.required_config, len(labels))
    load_weights(model, checkpoint, ignore=("classifier.",))  # the classifier is new
    if optimizer_kind == "ours":
        optimizer = build_optimizer(model, learning_rate)
    else:
        decayed = {parameter.name for name, parameter in model.named_parameters() if is_decayed(name)}
        optimizer = paddle.optimizer.AdamW(
            learning_rate,
            epsilon=1e-6,
            parameters=model.parameters(),
            apply_decay_param_fun=decayed.__contains__,
        )
    parallel = fleet.distributed_model(model) if processes > 1 else model
    rows = read_classification(train_set, labels, len(labels))
    encode = TextFeaturizer(tokenizer, max_seq_len=256)
    batches = Batches(rows, encode, batch_size, seed=1, rank=rank, world_size=processes)
    for step in batches.stream(epochs):
        for part in step.micro_batches:  # one, if the step has a row for each process
            batch = upload(PackedBatch.from_padded(part.input_ids, tokenizer.pad_id))
            labels_of_part = paddle.to_tensor(part.labels)
            loss = F.cross_entropy(parallel(batch), labels_of_part, reduction="sum") / step.count
            (loss * processes).backward()  # fleet averages the gradients over the processes
        paddle.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.clear_grad()
        yield distributed.all_reduce_sum([loss.item()])[0]


def main():
    for number, loss in enumerate(train(*sys.argv[1:5], learning_rate=float(sys.argv[5])), 1):
        print(f"step {number}: loss {loss:.6f}")


if __name__ == "__main__":
    run(main)
