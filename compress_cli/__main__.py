"""`python -m compress_cli` works like `compress`."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the folder one happens to be in: no code is loaded merely because a file lies there

from compress_cli.cli import main

if __name__ == "__main__":
    main()
