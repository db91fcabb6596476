"""The command line `rawgan`: a module per command, listed in main.py."""
