"""The errors that a user can mend, one class for each exit code of the command line."""


class DglrecError(Exception):
    """Something failed while running. The message is for the user: what, where, and the mend."""

    exit_code = 1
    told = False
    """Whether another process of the same job says it already."""


class DivergedError(DglrecError):
    """What a training computes is no longer finite: its settings do not suit the data."""


class UsageError(DglrecError):
    """A command, an option or a configuration value is wrong."""

    exit_code = 2


class DataError(DglrecError):
    """A data file, a prepared data set, a run or a checkpoint is missing or bad."""

    exit_code = 3


class EmptyFileError(DataError):
    """A table has a header and no rows, which may be all right: on some nights nobody is new."""


class UnknownIdsError(DataError):
    """Users or items are named that the data set does not have."""


class UnreadableError(DataError):
    """A file is there and cannot be read today. What is in it may be whole."""


class UnusableEnvironmentError(DglrecError):
    """The machine or the installation lacks what the job needs."""

    exit_code = 4
