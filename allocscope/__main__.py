"""``python -m allocscope`` is the command."""

from allocscope.cli import main

if __name__ == "__main__":
    main()
