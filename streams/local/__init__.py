"""A Kafka on this machine, the replay of recordings, the demo."""
