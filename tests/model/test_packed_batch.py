"""Token batches, and the one copy that brings them to the device."""

import numpy as np
import paddle

from ernie_m.model.attention import FlashMask
from ernie_m.model.device_transfer import to_array, upload
from ernie_m.model.packed_batch import PackedBatch
from ernie_m.model.packed_layout import PackedLayout
from tests.helpers.batches import compute_as_on_a_gpu, padded_batch


def test_pack_padded_batch():
    """[CLS] is 0, [SEP] 2, and the pad 1. Positions count from 2."""
    batch = padded_batch([[0, 7, 8, 2], [0, 2, 1, 1], [0, 9, 2, 1]])
    arrays = {
        "input_ids": [0, 7, 8, 2, 0, 2, 0, 9, 2],
        "position_ids": [2, 3, 4, 5, 2, 3, 2, 3, 4],
        "first_tokens": [0, 4, 6],
        "cell_to_token": [[0, 1, 2, 3], [4, 5, 9, 9], [6, 7, 8, 9]],  # 9: a pad
    }
    assert {name: getattr(batch, name).tolist() for name in arrays} == arrays
    assert (batch.tokens, batch.last_position, batch.language_ids) == (9, 5, None)
    assert batch.get_padding_mask().tolist() == [
        [False] * 4,
        [False, False, True, True],
        [False] * 3 + [True],
    ]
    assert batch.to_padded(paddle.arange(18.0).reshape([9, 2])).tolist()[1:] == [
        [[8, 9], [10, 11], [0, 0], [0, 0]],
        [[12, 13], [14, 15], [16, 17], [0, 0]],
    ]


def test_flash_mask_pads_to_128_tokens(monkeypatch):
    """Three tokens are filled up to the rows of a block."""
    multiple = 128
    compute_as_on_a_gpu(monkeypatch, FlashMask)
    batch = upload(
        PackedBatch.from_packed(np.array([7, 8, 9]), PackedLayout([2, 1]), language_ids=np.array([3, 4, 5]))
    )
    assert batch.input_ids.shape == batch.position_ids.shape == [multiple]
    assert batch.language_ids.tolist() == [3, 4, 5] + [-1] * (multiple - 3)  # -1: no language
    assert batch.tokens == 3 and batch.first_tokens.tolist() == [0, 2]
    assert batch.remove_filler(paddle.ones([multiple, 2])).shape == [3, 2]


def test_uploaded_arrays_have_their_shapes_and_values():
    """Also empty ones; what is no array stays as it is."""
    arrays = [
        np.arange(6).reshape([1, 2, 3]) + (1 << 52),
        np.zeros([0]),
        np.array([0.5]),
        np.array([True, False]),
    ]
    tree = {"some": arrays, "none": None, "others": (1, "a"), "empty": {"pairs": np.zeros([0, 2], np.int64)}}
    uploaded = upload(tree)
    assert (uploaded["none"], uploaded["others"]) == (None, (1, "a"))
    tensors = [*uploaded["some"], uploaded["empty"]["pairs"]]
    for array, tensor in zip([*arrays, tree["empty"]["pairs"]], tensors, strict=True):
        assert tensor.shape == [*array.shape] and tensor.tolist() == array.tolist()
        assert tensor.dtype == (paddle.float64 if array.dtype.kind == "f" else paddle.int64)


def test_half_types_become_float32_on_the_host():
    types = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
    assert {dtype: to_array(paddle.full([1], 0.5, dtype)).dtype.name for dtype in types} == types
