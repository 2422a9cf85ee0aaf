"""A run to look at: its records as a log of VisualDL, and its losses as a picture, losses.png.

Both need the extra `pictures`. Neither ends a run: what keeps one of them away is said in one line.
"""

from ernie_m.training.log.metrics_jsonl import Records

VISUALDL = "visualdl"  # the folder of its log, for `visualdl --logdir`
PICTURE = "losses.png"


def follow(records: Records) -> None:
    """Write the records, those so far and those to come, into a log of VisualDL beside their file."""
    from ernie_m.training.log.curves import write_log

    write_log(records, records.path.parent / VISUALDL)


def draw_losses(records: Records) -> None:
    """Write losses.png beside the records."""
    from ernie_m.training.log.curves import draw

    draw(records.read(), records.path.parent / PICTURE)
