"""
Several processes: joining their group, restarts after a crash, and the lock of a run's folder.

    torchrun --standalone --nproc_per_node=2 --max-restarts=3 makemore.py -i names.txt -o out/two

torchrun starts the processes and tells them about each other through environment variables.
When one dies, it starts all of them again, up to --max-restarts times.
"""

import contextlib
import os
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist

try:
    import fcntl
except ImportError:  # Windows has no fcntl, and runs without a lock
    fcntl = None


def init_process_group(work_dir: str | None):
    """Join the group of processes: gloo between CPUs, NCCL between GPUs."""
    n_nodes = int(os.environ['GROUP_WORLD_SIZE'])
    max_restarts = int(os.environ['TORCHELASTIC_MAX_RESTARTS'])
    shares_store = os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True'
    if max_restarts > 0 and work_dir is None:
        raise ValueError('--max-restarts needs a named folder that a restart can find: -o out/mine')
    if max_restarts > 0 and n_nodes > 1 and shares_store:
        raise ValueError(
            'restarts on several nodes need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun'
        )
    if max_restarts > 0 and get_launch_id() == 'none':
        raise ValueError('--max-restarts needs --standalone, or a --rdzv-id of its own')
    store, rank, world_size = next(dist.rendezvous('env://'))
    if n_nodes == 1:
        # torchrun keeps one store for all restarts, in which the addresses of dead processes
        # still stand, so each restart uses a part of its own. (With several nodes each node
        # counts its restarts for itself, so the counts can not name a common part.)
        store = dist.PrefixStore(os.environ['TORCHELASTIC_RESTART_COUNT'], store)
    dist.init_process_group(store=store, rank=rank, world_size=world_size)


def get_launch_id() -> str:
    """The name of this launch of torchrun, the same in all of its restarts; '' without torchrun."""
    return os.environ.get('TORCHELASTIC_RUN_ID', '')


def was_restarted() -> bool:
    """Whether torchrun has started this group again after one of its processes died."""
    n_restarts = torch.tensor(int(os.environ['TORCHELASTIC_RESTART_COUNT']))
    if dist.is_initialized():  # a node that joined anew may not know of the restarts of others
        dist.all_reduce(n_restarts)
    return int(n_restarts) > 0


def lock_folder(folder: Path) -> TextIO:
    """An open file that locks the folder until the process ends, however it ends.

    Raises BlockingIOError if another process has locked it.
    """
    # not through a link that somebody put there
    no_links = os.O_RDWR | os.O_CREAT | getattr(os, 'O_NOFOLLOW', 0)
    file = os.fdopen(os.open(folder / 'lock', no_links, 0o666), 'w', encoding='utf-8')
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def sign_lock(lock: TextIO):
    """Write into the lock file of a folder which launch of torchrun has begun the run in it."""
    lock.truncate(0)
    lock.write(get_launch_id())
    lock.flush()


def has_begun_run(folder: Path) -> bool:
    """Whether this launch of torchrun has begun the run in the folder: it may be an older one."""
    with contextlib.suppress(OSError, UnicodeError):
        return (folder / 'lock').read_text(encoding='utf-8') == get_launch_id()
    return False
