"""A store within the process, and what is copied into one."""

import fsspec

from dglrec.places import contents


def clear_memory():
    """Remove all that `memory://` holds, folders without a file among it."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def copied(folder, place):
    """A folder of this machine, copied to a place."""
    for name, is_file in contents(folder):
        if is_file:
            (place / name).put(folder / name)
    return place
