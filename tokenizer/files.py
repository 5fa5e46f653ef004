"""
Writing a file whole or not at all.

    write_file('names.json', b'...')

Whatever goes wrong, a full disk, a crash or a lost connection, the file holds either what it held
before or all of the new content.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Write the file through a temporary one beside it."""
    path = Path(path)
    if path.exists() and not path.is_file():
        # a device or a pipe like /dev/stdout cannot be replaced
        path.write_bytes(content)
        return
    # what a symbolic link points to is replaced, not the link
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f'{path.name}.{secrets.token_hex(4)}.tmp')
    try:
        _write_and_rename(temporary, path, content)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_and_rename(temporary: Path, path: Path, content: bytes) -> None:
    with open(temporary, 'xb') as file:
        file.write(content)
        file.flush()
        # or the new name could reach the disk before the content, and a crash leave an empty file
        os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, temporary)
    os.replace(temporary, path)
