"""An event-stream processor: vehicle telemetry in, trips out."""
