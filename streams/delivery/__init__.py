"""Delivery: what a partition puts out as Kafka records, and the transaction that publishes them with its state."""
