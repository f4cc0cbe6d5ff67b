"""What Faust needs for this: batches, state table, fences, timers."""
