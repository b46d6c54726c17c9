"""Models that run inside of Triton's Python backend. ``model.py`` files of a model repository import them and hold nothing else."""
