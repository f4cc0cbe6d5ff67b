"""The contract: what goes in, what comes out, as models.

For producers and consumers, and for the JSON Schemas and the AsyncAPI document beside it, which are generated from
them. Nothing here is on the path that a message takes through the stream.
"""

from schemas.announcements import (
    Announcement,
    TripDataReady,
    TripDeleted,
    TripDiscarded,
    TripEnded,
    TripMetricsReady,
    TripStarted,
    read_announcement,
)
from schemas.commands import DeleteTrip
from schemas.headers import AnnouncementHeaders, DeadLetterHeaders, LateHeaders, StatusHeaders
from schemas.push import PushDeadLetter
from schemas.status import (
    StatusEvent,
    TripLinkCorrected,
    TripLinked,
    TripPlanExpired,
    TripPlanned,
    TripStatusUpdated,
    TripUnlinked,
    read_status_event,
)
from schemas.telemetry import Telemetry, TelemetryEnvelope

__all__ = [
    "Announcement",
    "AnnouncementHeaders",
    "DeadLetterHeaders",
    "DeleteTrip",
    "LateHeaders",
    "PushDeadLetter",
    "StatusEvent",
    "StatusHeaders",
    "Telemetry",
    "TelemetryEnvelope",
    "TripDataReady",
    "TripDeleted",
    "TripDiscarded",
    "TripEnded",
    "TripLinkCorrected",
    "TripLinked",
    "TripMetricsReady",
    "TripPlanExpired",
    "TripPlanned",
    "TripStarted",
    "TripStatusUpdated",
    "TripUnlinked",
    "read_announcement",
    "read_status_event",
]
