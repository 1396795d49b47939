"""Errors that a user can mend, a class for each exit code of the command line."""


class DglrecError(Exception):
    """Something failed. The message is for the user: what, where, and how to mend it."""

    exit_code = 1
    told = False
    """Whether another process of the same job reports it already."""


class DivergedError(DglrecError):
    """A training's values are no longer finite: its settings do not suit the data."""


class UsageError(DglrecError):
    """A command, an option or a configuration value is wrong."""

    exit_code = 2


class DataError(DglrecError):
    """A data file, a prepared data set, a run or a checkpoint is missing or bad."""

    exit_code = 3


class EmptyFileError(DataError):
    """A table has a header and no rows. That may be fine: some nights bring no new users."""


class UnknownIdsError(DataError):
    """Users or items are named that the data set does not have."""


class UnreadableError(DataError):
    """A file exists but cannot be read now. Its content may be intact."""


class UnusableEnvironmentError(DglrecError):
    """The machine or the installation lacks what the job needs."""

    exit_code = 4
