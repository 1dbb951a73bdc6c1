"""effvit tells which attention mechanism to ship, measured on the deployed artifact.

Importing this package imports no torch: the command line starts fast, and measuring workers stay small.
"""

__version__ = "0.1.0"
