"""What all commands share: the command line, files, processes, workers, plots."""
