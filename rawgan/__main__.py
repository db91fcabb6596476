"""Entry point of `python -m rawgan`."""

from rawgan.cli.main import main

if __name__ == "__main__":
    main()
