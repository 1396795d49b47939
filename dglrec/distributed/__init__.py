"""The processes of a job, and the device of each."""

from dglrec.distributed.device import choose_device
from dglrec.distributed.join import DEFAULT_TIMEOUT, check_one_process, joined, own_address
from dglrec.distributed.world import ALONE, LostRankError, PeerError, World

__all__ = [
    "ALONE",
    "DEFAULT_TIMEOUT",
    "LostRankError",
    "PeerError",
    "World",
    "check_one_process",
    "choose_device",
    "joined",
    "own_address",
]
