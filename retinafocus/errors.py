"""Every error RetinaFocus raises on purpose.

RetinaFocusError
├── PhotoError      one photo cannot be looked at: it becomes a row with its status, the job goes on
├── WeightsError    a weights file does not fit: the job stops before the first photo
├── SettingsError   a setting is out of range or contradicts another: the job stops before the first photo
├── LabelError      a file of labels is malformed: nothing is trained, scored or written with it
└── RunError        an output folder cannot be written, resumed or read as a run
    └── BudgetError     more photos failed than the job was to put up with

Each message says which file or setting, what is wrong, and what to do, in one line.
"""

from __future__ import annotations

# What can become of a photo. `ok` means it was looked at; every other status means it was not, and why.
STATUSES = {
    "ok": "looked at; faces = 0 means there is none",
    "truncated": "the file ends before the picture does",
    "corrupt": "the decoder reported damaged data",
    "unsupported_format": "not a picture, or of a kind the decoders here cannot read",
    "too_large": "needs more memory than the settings admit, also when it is read in strips",
    "not_found": "no file of that name",
    "permission": "the file may not be read",
    "read_error": "the storage failed while the file was read",
    "changed": "the file is not the one the inventory listed",
    "vanished": "was listed, and was not there any more when the archive was listed again",
    "timeout": "took longer than the settings admit",
    "out_of_memory": "did not fit into memory",
    "crashed": "ended the process that looked at it",
    "model_error": "the network failed on it",
}

# What `--retry failed` tries again and what counts against an error budget. That a photo is gone is no failure.
FAILURES = tuple(status for status in STATUSES if status not in ("ok", "vanished"))


class RetinaFocusError(Exception):
    """Base of all errors of RetinaFocus."""


class PhotoError(RetinaFocusError):
    """One photo cannot be looked at.

    Args:
        status: one of `STATUSES`, not "ok".
        reason: what is wrong and what to do, without the photo's name, so that two runs record the same text.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type[PhotoError], tuple[str, str]]:
        return type(self), (self.status, self.reason)


class WeightsError(RetinaFocusError):
    """A weights file is missing, damaged, or does not fit the preset."""


class SettingsError(RetinaFocusError, ValueError):
    """A setting is out of range, unknown, or contradicts another."""


class LabelError(RetinaFocusError):
    """A file of labels is missing, incomplete or contradicts itself; the message names the file and the row or line."""


class RunError(RetinaFocusError):
    """An output folder cannot be written, resumed or read as a run."""


class BudgetError(RunError):
    """More photos failed than the job was to put up with; finished shards are kept."""
