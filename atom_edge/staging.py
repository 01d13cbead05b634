"""Files and folders that replace others whole: written aside, flushed, renamed.

Whatever fails, and whenever the process is killed, what stood at the destination stands there
still, or the new one does. What a killed process leaves beside it, `.NAME.*.partial` and
`.NAME.*.old`, the next one to write there finds: what is being written is locked by its writer.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from atom_edge.errors import BundleError

if sys.platform != "win32":
    import fcntl

# Of <fcntl.h> and <linux/fs.h>: paths from the working folder; swap the two names.
_HERE, _RENAME_EXCHANGE = -100, 2
_MOMENT = 60  # seconds


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole, or leave the one that is there; see `staged_file`.

    Raises:
        OSError: if it cannot be written, or something is there that is not a regular file.
    """
    with staged_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[BinaryIO]:
    """Give a new file beside `path`; when the block ends well, it takes its place.

    An exception in the block, or a signal to end, removes it and leaves `path` as it was. A link is
    followed; the new file has the mode of the old one.

    Raises:
        OSError: if it cannot be written, or something is there that is not a regular file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    clear_leftovers(target)
    aside = _aside(target, "partial")
    with _signals_unwind():
        try:
            with aside.open("xb") as file, _locked(aside):
                if target.exists():
                    aside.chmod(target.stat().st_mode)
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`; when the block ends well, it takes its place.

    An exception in the block, or a signal to end, removes it and leaves `target` as it was.

    Raises:
        BundleError: if another program makes `target` at the same moment.
    """
    created = _make_parents(target)
    staging = _aside(target, "partial")
    try:
        with _signals_unwind():
            staging.mkdir()
            with _locked(staging):
                yield staging
                _sync(staging)
                _put_in_place(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in created:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Give a new hidden folder beside `path`, named after it, which goes when the block ends.

    Those that killed processes left there go too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    scratch = _aside(path, "partial")
    try:
        with _signals_unwind():
            scratch.mkdir()
            with _locked(scratch):
                yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clear_leftovers(target: Path) -> None:
    """Remove what killed processes left beside `target`; put back what one had moved away."""
    if sys.platform == "win32":  # without locks, a folder that is being written looks the same
        return
    prefix = f".{target.name}."
    with contextlib.suppress(OSError):  # there is no such parent, or it is not ours
        for path in sorted(target.parent.iterdir()):
            if not path.name.startswith(prefix) or path.is_symlink():
                continue
            if path.is_dir():
                _clear_folder(path, target)
            elif path.is_file() and path.suffix == ".partial" and _is_abandoned(path):
                path.unlink()


def _clear_folder(path: Path, target: Path) -> None:
    if path.suffix == ".old" and not target.exists():
        path.rename(target)
    elif path.suffix in (".partial", ".old") and not _in_use(path):
        shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(file: Path) -> bool:
    """Whether nobody writes a file any more: it is locked a moment after it was made."""
    return time.time() - file.stat().st_mtime > _MOMENT and not _in_use(file)


def _aside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{suffix}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a folder or file, wherever it is moved; that ends with the process at the latest."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _in_use(path: Path) -> bool:
    if sys.platform == "win32":
        return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _make_parents(target: Path) -> list[Path]:
    """Create the folders above `target`; return those that are new, the deepest first."""
    new = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return new


def _sync(folder: Path) -> None:
    """Ask the system to have every file on disk, so that no crash leaves half a folder."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; what stood there goes only when the new folder is in place."""
    if not target.exists():
        try:
            staging.rename(target)
        except OSError as error:
            if target.exists():
                raise BundleError(f"{target} was made by another program meanwhile.") from error
            raise
        return
    if _exchange(staging, target):
        shutil.rmtree(staging, ignore_errors=True)
        return
    old = _aside(target, "old")
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException as error:
        if target.exists():
            raise BundleError(
                f"{target} was made by another program meanwhile; the bundle that stood there "
                f"is now {old}."
            ) from error
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders' names in a single step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # only Linux's C libraries have it
        return False
    names = os.fsencode(one), os.fsencode(other)
    done: int = rename(_HERE, names[0], _HERE, names[1], _RENAME_EXCHANGE)
    return done == 0


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    replaced = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)
