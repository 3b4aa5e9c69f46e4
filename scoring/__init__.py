"""Figures of a checkpoint: metrics, the test split, reports, sweeps."""
