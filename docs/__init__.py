"""The documentation: pages, their figures and extensions, and `python -m docs.build`."""
