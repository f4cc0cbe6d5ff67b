"""Reading: bytes of telemetry become samples, or a reason why not."""
