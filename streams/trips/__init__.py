"""The core: timeline, trips, announcements. Pure: no I/O, no clock, no Kafka, no settings object."""
