"""`python -m compress_cli` works like `compress`."""

from compress_cli.cli import main

if __name__ == "__main__":
    main()
