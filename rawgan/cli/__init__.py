"""Command line `rawgan`: a module per command, listed in main.py."""
