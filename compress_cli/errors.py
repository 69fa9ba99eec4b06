"""Errors a user can act on. Everything else is a bug and keeps its traceback.

CompressError          exit 1
├── RecipeError        exit 2   the recipe or the command line is wrong: file, line, field, remedy
├── ArtifactError      exit 3   something on disk is missing, damaged or of the wrong kind
│   └── DataError      exit 3   a dataset's files are missing, or are not what they should be
├── StageError         exit 4   a stage or a model failed while running: names it, what is saved, how to resume
│   └── ResourceError  exit 4   disk, memory or a permission was lacking: how much, where
├── GateError          exit 5   a promise about the result is not met, or undecided
├── Interrupted        exit 130 (Ctrl-C) or 143 (SIGTERM): says what is saved
└── ReaderGone         exit 141   the program that reads standard output ended first (`| head`), as other tools end then

With `--json` an error is a JSON document on standard output too: `{"error": {"code": 3, "message": "..."}}`, unless the
document of the result was printed before. With `--junit` it is an error in that file.
"""


class CompressError(Exception):
    """Base of all errors that end in one clear message instead of a traceback."""

    exit_code = 1


class RecipeError(CompressError):
    """The recipe or the command line is wrong."""

    exit_code = 2


class ArtifactError(CompressError):
    """Something on disk is missing, damaged or of the wrong kind."""

    exit_code = 3


class DataError(ArtifactError):
    """A dataset's files are missing, or are not what they should be."""


class StageError(CompressError):
    """A stage or a model failed while running."""

    exit_code = 4


class ResourceError(StageError):
    """The machine lacks disk, memory or a permission that a stage needs."""


class GateError(CompressError):
    """A gate is not met, or undecided."""

    exit_code = 5


class Interrupted(CompressError):
    """Stopped from outside."""

    def __init__(self, message: str, signal: tuple[object, ...] = ()):
        super().__init__(message)
        self.exit_code = 143 if "SIGTERM" in signal else 130


class ReaderGone(CompressError):
    """Whoever read standard output ended; there is nobody to tell."""

    exit_code = 141  # 128 + SIGPIPE
