"""What every other folder uses. The version of the project is here, and nowhere else."""

__version__ = "2.0.0.dev0"
