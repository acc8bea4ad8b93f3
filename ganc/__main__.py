"""``python -m ganc``."""

from ganc.cli import main

if __name__ == "__main__":
    main()
