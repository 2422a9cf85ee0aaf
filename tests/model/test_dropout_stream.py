"""The seeds of dropout masks follow from the key of a stream, and from the number of the mask."""

from ernie_m.model.dropout_stream import DropoutStream, get_dropout_stream, repeat_dropout


def draw() -> list[int] | None:
    """The next seed of this thread's stream, if there is one."""
    stream = get_dropout_stream()
    return None if stream is None else stream.draw_seed()


def test_an_inner_stream_leaves_the_outer_one_as_it_was():
    """After a stream, that of the block around it continues."""
    with DropoutStream((1, 7)):
        assert draw() == [1, 7, 1]
        with DropoutStream((2,)):
            assert draw() == [2, 1]
        assert draw() == [1, 7, 2]
    assert draw() is None


def test_recomputation_draws_the_same_masks():
    with DropoutStream((1,)):
        draw()
        layer = repeat_dropout(lambda: [draw(), draw()])
        assert layer() == [[1, 2], [1, 3]]
        draw()
        assert layer() == [[1, 2], [1, 3]]
    assert repeat_dropout(draw)() is None
