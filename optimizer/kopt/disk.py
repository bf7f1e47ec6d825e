"""What a full disk, or a limit on files, says: kopt's own trouble, never a kernel's."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kopt.errors import HarnessError

EXHAUSTED = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""No room, a file or a user at its limit, a process or a machine at its limit of open files."""


_TEMPORARY = "the folder of temporary files (TMPDIR)"


@contextmanager
def writing(folder: Path | None = None) -> Iterator[None]:
    """HarnessError, with the folder's name, for what the operating system refuses within. None: temporary files."""
    try:
        yield
    except OSError as error:
        where = folder or tempfile.tempdir or _TEMPORARY
        raise HarnessError(f"{where}: cannot be written: {error.strerror or error}") from error
