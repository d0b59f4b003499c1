"""One file a data set: its own layout to studies."""
