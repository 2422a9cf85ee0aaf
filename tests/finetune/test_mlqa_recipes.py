"""The MLQA recipes hand on the official values (paper, Tables 12 and 13; the official scripts)."""

import pytest

from tests.finetune.test_scripts import arguments, copied  # noqa: F401
from utils.args import parse_args


@pytest.mark.parametrize(
    ("size", "rate", "decay"), [("small", 3e-4, 0.8), ("base", 3e-4, 0.8), ("large", 8e-5, 0.9)]
)
def test_official_values(copied, size, rate, decay):  # noqa: F811
    line = arguments(copied, f"{size}/mlqa_cross_lingual_transfer.sh")
    assert line[:3] == ["--recipe_devices", "2", "run_mrc.py"]
    args = parse_args(line[3:])
    assert (args.batch_size, args.epoch, args.learning_rate, args.layerwise_lr_decay) == (16, 2, rate, decay)
    assert (args.weight_decay, args.warmup_proportion, args.lr_scheduler) == (0, 0.1, "linear_warmup_decay")
    assert (args.max_seq_len, args.doc_stride, args.max_query_length) == (384, 128, 64)
    assert (args.max_answer_length, args.n_best_size, args.validation_steps) == (100, 20, 100)
    assert (args.do_train, args.do_val, args.do_test, args.random_seed) == (True, True, False, (1,))
    assert (args.save_steps, args.skip_steps, args.official_compat) == (10000, 10, False)
    assert args.train_set == "./data/mlqa/train/train.en.json"
    assert args.dev_set == "./data/mlqa/dev/dev.%s.json,./data/mlqa/test/test.%s.json"
    assert args.test_set == "./data/mlqa/test/test.%s.json"
    assert args.lang_map_config == "./data/mlqa/lang_map.json" and args.label_map_config is None
    assert args.ernie_config_path == f"./configs/{size}/ernie_config.json"
    assert args.init_pretraining_params == (None if size == "small" else f"./configs/{size}/params")
