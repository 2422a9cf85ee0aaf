"""A small multilingual sample set, made from meanings: no line of it was copied from anywhere.

scenes.py                     the meaning of a sentence, and seeded random meanings
nli.py                        does one scene follow from another? Premises for a given hypothesis
texts.py                      documents, sentence pairs and inference pairs, each a function of (seed, index)
languages.py, lexicons.yaml   the grammar and the words of ten languages, which turn a scene into a sentence
write.py                      `python -m scripts.sample.write --out data/sample --seed 1`
"""
