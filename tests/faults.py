"""
A disk that is watched: every open, write, fsync, rename and unlink below a folder is reported.

Whoever is told of an operation before it is done can count it, note it, or raise an OSError.
`LostPower` makes of the noted operations what a disk may hold after a loss of power.
"""

import builtins
import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock


class Operation(NamedTuple):
    """Something that is about to be done to a file."""

    name: str  # open, create, write, fsync, rename, unlink or mkdir
    path: str
    target: str = ''  # of a rename
    offset: int = 0  # of a write
    data: bytes = b''


class Watcher:
    """Reports what the program does to the files below a folder."""

    def __init__(self, folder: Path, report: Callable[[Operation], None]):
        self.folder = os.path.realpath(folder) + os.sep
        self.report = report

    def tell(self, name, path, target='', **what):
        """Report an operation, unless it is about another folder."""
        path = os.path.realpath(path)
        if path.startswith(self.folder):
            self.report(Operation(name, path, os.path.realpath(target), **what))

    def watch_call(self, name, function):
        """A function of the module os that reports its calls: its first arguments are paths."""

        def call(*args, **how):
            paths = args[:2] if name == 'rename' else args[:1]
            self.tell(name, *paths)
            return function(*args, **how)

        return call

    def watch_os_open(self, function):
        """os.open, which the lock is made with."""

        def call(path, flags, *args, **how):
            is_new = flags & os.O_CREAT and not os.path.exists(path)
            self.tell('create' if is_new else 'open', path)
            return function(path, flags, *args, **how)

        return call

    def watch_fsync(self, function):
        """os.fsync, which is given the number of an open file or folder."""

        def call(number):
            self.tell('fsync', os.readlink(f'/proc/self/fd/{number}'))
            return function(number)

        return call

    def watch_open(self, function):
        """open, which returns a file that reports when it is written to."""
        watcher = self

        class WatchedFile(io.FileIO):
            def write(self, data):
                data = bytes(data)
                watcher.tell('write', self.name, offset=self.tell(), data=data)
                return super().write(data)

        def call(file, mode='r', buffering=-1, encoding=None, *args, **how):
            if not isinstance(file, str | os.PathLike):
                return function(file, mode, buffering, encoding, *args, **how)
            is_new = 'x' in mode or ('r' not in mode and not os.path.exists(file))
            self.tell('create' if is_new else 'open', file)
            if 'r' in mode:
                return function(file, mode, buffering, encoding, *args, **how)
            raw = WatchedFile(os.fspath(file), mode.replace('b', '').replace('t', ''))
            buffered = io.BufferedWriter(raw)
            return buffered if 'b' in mode else io.TextIOWrapper(buffered, encoding, *args, **how)

        return call


@contextlib.contextmanager
def watched(folder: Path, report: Callable[[Operation], None]):
    """Within it every operation on a file below the folder is reported before it is done."""
    watcher = Watcher(folder, report)
    open_file = watcher.watch_open(open)
    with contextlib.ExitStack() as stack:
        for module in (builtins, io):
            stack.enter_context(mock.patch.object(module, 'open', open_file))
        stack.enter_context(mock.patch('os.open', watcher.watch_os_open(os.open)))
        stack.enter_context(mock.patch('os.fsync', watcher.watch_fsync(os.fsync)))
        for function, name in (
            ('replace', 'rename'),
            ('rename', 'rename'),
            ('unlink', 'unlink'),
            ('mkdir', 'mkdir'),
        ):
            call = watcher.watch_call(name, getattr(os, function))
            stack.enter_context(mock.patch.object(os, function, call))
        yield


# -----------------------------------------------------------------------------
# losses of power


class Content:
    """What was written to a file, whatever it is called later, and when it was flushed."""

    def __init__(self):
        self.writes = []  # (number of the operation, offset, data)
        self.flushes = []  # numbers of operations

    def whole(self) -> bytes:
        """All that was written."""
        return self.after_loss(float('inf'), lambda: True)

    def after_loss(self, end: float, is_kept: Callable[[], bool]) -> bytes:
        """What is left if power is lost before an operation.

        What was written after the last fsync is kept or not, each write for itself.
        """
        flushed = max([number for number in self.flushes if number < end], default=-1)
        raw = bytearray()
        for number, offset, data in self.writes:
            if number < end and (number < flushed or is_kept()):
                raw.extend(bytes(max(0, offset + len(data) - len(raw))))
                raw[offset : offset + len(data)] = data
        return bytes(raw)


class Version(NamedTuple):
    """What a file name stands for from an operation on; None: for nothing."""

    begins: int
    content: bytes | None


class LostPower:
    """What may be on a disk after a loss of power, made of the operations before it.

    As the standards allow it: the names in a folder are as safe as its last fsync. Of the later
    changes each may be lost for itself, and of what is written to a file everything since its
    last fsync. (Real file systems keep an order among them.)
    """

    def __init__(self, operations: list[Operation], old_files: dict[str, bytes]):
        self.changes = []  # of names: (number, folder, {name: content or None})
        self.flushes: dict[str, list[int]] = {}  # of folders
        names: dict[str, Content] = {}
        for path, raw in old_files.items():  # they are safe
            names[path] = Content()
            names[path].writes.append((-2, 0, raw))
            names[path].flushes.append(-1)
            self.note(-2, {path: names[path]})
        for number, operation in enumerate(operations):
            name, path = operation.name, operation.path
            if name == 'create':
                names[path] = Content()
                self.note(number, {path: names[path]})
            elif name == 'write':
                content = names.setdefault(path, Content())
                content.writes.append((number, operation.offset, operation.data))
            elif name == 'fsync' and path in names:
                names[path].flushes.append(number)
            elif name == 'fsync':
                self.flushes.setdefault(path, []).append(number)
            elif name == 'rename':
                content = names.pop(path)
                names[operation.target] = content
                self.note(number, {path: None, operation.target: content})
            elif name == 'unlink' and path in names:
                del names[path]
                self.note(number, {path: None})

    def note(self, number: int, names: dict[str, Content | None]):
        """Remember that the meaning of some names changed."""
        self.changes.append((number, names))

    def last_flush(self, path: str, end: float) -> int:
        """The number of the last fsync of the folder of a file before an operation."""
        numbers = self.flushes.get(os.path.dirname(path), [])
        return max([number for number in numbers if number < end], default=-1)

    def files(self, end: int, is_kept: Callable[[], bool]) -> dict[str, bytes]:
        """Names and contents on the disk if power is lost before an operation."""
        names: dict[str, Content | None] = {}
        for number, change in self.changes:
            path = next(iter(change))
            if number < end and (number < self.last_flush(path, end) or is_kept()):
                names |= change
        contents = {path: content for path, content in names.items() if content}
        return {path: content.after_loss(end, is_kept) for path, content in contents.items()}

    def versions(self, path: str) -> list[Version]:
        """All that a file name stands for, one after the other."""
        found = []
        for number, change in self.changes:
            if path in change:
                content = change[path]
                found.append(Version(number, content.whole() if content else None))
        return found
