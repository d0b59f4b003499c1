"""Studies: readers of data sets, the phantom generator, the prepared store, batches."""
