"""What every other folder uses. The version of the project is here, and nowhere else."""

__version__ = "1.1.0.dev0"
