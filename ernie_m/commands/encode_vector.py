"""Write the embeddings of texts to .npy files, with the official flags. See docs/retrieval.md.

python encode_vector.py --data_set texts.tsv --output_dir vectors --init_pretraining_params ...
python encode_vector.py --data_set sentences.txt --data_format text --vectors mean --layer middle ...
python encode_vector.py --init_pretraining_params exported --engine onnx ...
"""

from ernie_m.inference.encode_vector_args import EncodeVectorFlags
from ernie_m.utils.args import parse_options


def main() -> None:
    """Run the command encode_vector.py: embeddings of texts in .npy files."""
    flags = parse_options(EncodeVectorFlags, None, __name__)
    # Imported here, because Paddle reads its CPU settings at import.
    from ernie_m.inference.encode_vector import write_vectors

    write_vectors(flags)
