"""What train.py uses: losses, a run and its folder, validation."""
