"""What trains, or compares trainings: transfer, the supervised yardstick, ablations, disentanglement, composition."""
