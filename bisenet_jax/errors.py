"""Errors that a user can mend: their text is shown without a traceback, exit code 2.

Each message names the value, the rule it broke and the cure.
"""


class UserError(Exception):
    """Anything wrong with what the user gave: configuration, data, files."""


class ConfigError(UserError):
    """A configuration value that breaks a rule, or a key that does not exist."""


class DataError(UserError):
    """A data set, image or label that cannot be used as it is."""


class PictureFormatError(DataError):
    """Content that is no picture in any format that we read."""


class PictureSizeError(DataError):
    """A picture of more pixels than anybody should hold."""


class CheckpointError(UserError):
    """A checkpoint that is missing or does not fit the configuration."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that was written whole and is no longer what was written."""


class TrainingError(UserError):
    """A run that cannot go on, such as a loss that is no longer a number."""


class OutputError(UserError, OSError):
    """A file that cannot be written to its place."""


class LostProcessError(UserError):
    """One of several processes that work as one has ended or cannot be reached."""


class WeightsError(UserError):
    """A weights file that is damaged, of another kind, or not of the network it describes."""


class ExportError(UserError):
    """A network that cannot be written in a format, or a file that computes something else."""
