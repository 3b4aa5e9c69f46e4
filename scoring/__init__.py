"""Figures of a checkpoint: metrics, the scores of a test split, reports, sweeps."""
