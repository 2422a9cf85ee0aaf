"""A checkpoint folder that several processes write, at once or while training goes on.

    all      agree on a temporary folder; arrays are copied to host memory (in the background form)
    all      each its part: files, checksums, fsync; in the background form in a thread
    all      tell each other that they are done, between two steps
    main     gives the folder its name

The thread runs no collective: those of training and its own would cross. A process that is killed leaves a
temporary folder, which `model.steps.keep_last` clears away; the checkpoints that have their names are whole.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.checkpoint import STATE, ModelFiles
from model.training_state import copy_arrays, write_part
from training import distributed
from utils.errors import UserError
from utils.files import StagedFolder, sync_files, unwritable_is_a_user_error


class CheckpointWriter:
    """Writes checkpoint folders, one at a time.

    Args:
        background: copy the arrays and return; the files are written while training goes on.
        written: called with a folder, on every process, as soon as it has its name.

    Every method but the first is to be called on every process, and may raise UserError: a part could not be
    written. The folder then does not come into being, and what was there before is untouched.
    """

    def __init__(self, background: bool, written: Callable[[Path], None]):
        self.background, self.written = background, written
        self._writing: _Writing | None = None

    def start(
        self, folder: Path, files: ModelFiles, state: Mapping[str, Any], part: int = 0, parts: int = 1
    ) -> None:
        """Write a checkpoint; in the background form return when the arrays are copied.

        Args:
            folder: its name, the same on all processes.
            files: of the model; process 0's are written.
            state: this process's part of the training state.
            part, parts: which it is; a process whose part is not below `parts` writes nothing.
        """
        self.finish()
        self._writing = _Writing(folder)
        if part < parts:
            if self.background:
                files, state = files.copied() if part == 0 else files, copy_arrays(state)
            self._writing.run(lambda place: _write(place, files, state, part, parts), self.background)
        if not self.background:
            self.finish()

    def poll(self) -> None:
        """Between two steps: take note of what has been written. Costs nothing where nothing is."""
        if self._writing is not None and self._writing.is_done():
            self._end()

    def finish(self) -> None:
        """Wait until the folder that is being written has its name."""
        if self._writing is not None:
            self._writing.wait()
            self._writing.is_done()  # all have waited: what can come out here is an error
            self._end()

    def _end(self) -> None:
        writing, self._writing = self._writing, None
        writing.commit()
        self.written(writing.folder)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self.finish()


class _Writing:
    """One folder under way."""

    def __init__(self, folder: Path):
        self.folder, self.staged, self.error = folder, None, None
        self.thread: threading.Thread | None = None
        try:
            if distributed.is_main():
                self.staged = StagedFolder(folder)
                with unwritable_is_a_user_error(folder):
                    (self.staged.temporary / STATE).mkdir()
        except UserError as error:
            self.error = error
        self._agree(done=True)
        self.place = distributed.gather(self.staged and self.staged.temporary)[0]

    def run(self, write: Callable[[Path], None], background: bool) -> None:
        if background:
            self.thread = threading.Thread(
                target=self._caught, args=(write, Exception), name="checkpoint-writer", daemon=True
            )
            self.thread.start()
            return
        try:
            self._caught(write, UserError)
        except BaseException:
            self.discard()
            raise

    def _caught(self, write: Callable[[Path], None], kind: type[Exception]) -> None:
        """Write; an error of this kind is kept until the processes agree."""
        try:
            with unwritable_is_a_user_error(self.folder):
                write(self.place)
        except kind as error:
            self.error = error

    def wait(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def is_done(self) -> bool:
        """Whether every process is; a collective."""
        return self._agree(done=self.thread is None or not self.thread.is_alive())

    def commit(self) -> None:
        if self.staged is not None:
            self.staged.commit()
        distributed.barrier()

    def discard(self) -> None:
        if self.staged is not None:
            self.staged.discard()

    def _agree(self, done: bool) -> bool:
        failed, finished = distributed.all_sum([float(self.error is not None and done), float(done)])
        if not failed:
            return finished == distributed.world_size()
        self.wait()
        distributed.barrier()  # nobody writes any more
        self.discard()
        if self.error is not None:
            raise self.error
        raise UserError(f"{self.folder}: another process could not write its part; its log says why")


def _write(place: Path, files: ModelFiles, state: Mapping[str, Any], part: int, parts: int) -> None:
    names = files.write(place) if part == 0 else ()
    write_part(place / STATE, state, part, parts, beside=names)
    sync_files(place)
