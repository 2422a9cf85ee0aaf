"""A small multilingual sample set, made from meanings: no line of it was copied from anywhere.

concepts.py    what there is to speak of, and how it relates (kinds, opposites)
scenes.py      one sentence's meaning: who does what, where and when; seeded random scenes
nli.py         does one scene follow from another? Premises made to order for a hypothesis
texts.py       documents, sentence pairs and inference pairs, each a function of (seed, index)
languages/     one file per language: a lexicon and the grammar that turns a scene into a sentence
write.py       `python -m scripts.sample.write --out data/sample --seed 1`
"""
