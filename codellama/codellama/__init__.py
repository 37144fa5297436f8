"""codellama: a code assistant that runs entirely on its user's own machine."""

__version__ = "0.1.0"
