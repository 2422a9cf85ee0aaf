"""The stages of `python -m pretrain.build_corpus`."""
