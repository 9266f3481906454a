"""Executors: run the tasks of a stage in this process, in local processes, or on Slurm."""
