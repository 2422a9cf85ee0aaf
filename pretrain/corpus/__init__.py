"""The stages of a corpus build, behind `python -m pretrain.build_corpus`."""
