"""The summary of a CI job on GitHub."""

import os
from pathlib import Path

from compress_cli.store.disk import unwritable

SUMMARY = "GITHUB_STEP_SUMMARY"  # names a file whose Markdown the job's page shows


def write_summary(text: str) -> None:
    """Append to the job's summary where there is one; ArtifactError or ResourceError where it can't be written."""
    path = os.environ.get(SUMMARY)
    if not path:
        return
    try:
        with Path(path).open("a") as out:
            out.write(text)
    except OSError as error:
        raise unwritable(error, Path(path), f"; {SUMMARY} names it") from None
