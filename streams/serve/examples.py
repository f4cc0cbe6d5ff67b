"""Examples for the OpenAPI document: one of the recorded drives, as it is announced and answered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

import orjson

from streams.serve.listing import csv_lines

__all__ = ["EXAMPLES"]

_ID: Final = "01DBV9PR1RCZJY1A9JY81DH3MH"
_START: Final[dict[str, Any]] = {
    "timestamp": "2019-05-27T00:05:39Z",
    "position": {"timestamp": "2019-05-27T00:05:39Z", "value": {"lat": 41.245296, "lon": -96.025787}},
}
_END: Final[dict[str, Any]] = {
    "timestamp": "2019-05-27T00:09:52Z",
    "position": {"timestamp": "2019-05-27T00:09:52Z", "value": {"lat": 41.248524, "lon": -96.029922}},
}
_TRIP: Final[dict[str, Any]] = {
    "id": _ID,
    "key": "TH7GA",
    "revision": 1638,
    "is_flagged": False,
    "flags": [],
    "data_completion_status": "FINISHED",
    "vehicle_id": "omaha-1",
    "telematics_unit": {"id": "NDS-01", "brand": "NDS LOGGER"},
    "start": _START,
    "end": _END,
    "metrics": {
        "duration_in_ms": 253000,
        "time_since_last_trip_in_ms": 7890000,
        "distance_in_km": 1.215,
        "distance_source": "ODOMETER",
        "doors_status_at_trip_end": "CLOSED",
        "windows_status_at_trip_end": "CLOSED",
        "gps_distance_in_km": 1.222,
        "max_speed_in_kmh": 56.8,
        "average_speed_in_kmh": 17.29,
        "idle_time_in_ms": 95000,
        "position_count": 254,
        "longest_gap_in_ms": 1000,
    },
}
_EVENT: Final[dict[str, Any]] = {
    "metadata": {
        "id": "01DBV9YF40FZJ17W56J3KZGQ7S",
        "type": "TripDataReady",
        "schema_major_version": 1,
        "occurred_at": "2019-05-27T00:09:52Z",
        "flow_id": "67e5e0a9-32f2-82d8-8e91-d44f056b190b",
    },
    "data": {"occurred_at": "2019-05-27T00:09:52Z", "trip": _TRIP},
}


EXAMPLES: Final = SimpleNamespace(
    trip_id=_ID,
    vehicle_id="omaha-1",
    page={"items": [_TRIP], "next_cursor": "MWQwMURCVjlQUjFSQ1pKWTFBOUpZODFESDNNSA"},
    detail={
        "trip": _TRIP,
        "plan": {"tripId": 12345, "tmsTripId": "TOUR-4711", "tripStatus": "InProgress"},
        "history": [_EVENT],
    },
    csv=csv_lines([orjson.dumps(_TRIP)], head=True).decode(),
    route={
        "type": "Feature",
        "id": _ID,
        "geometry": {
            "type": "LineString",
            "coordinates": [[-96.025787, 41.245296], [-96.029922, 41.248524]],
        },
        "properties": {"trip_id": _ID, "vehicle_id": "omaha-1", "revision": 1638, "source": "ENDPOINTS"},
    },
    deleted={"trip_id": _ID, "state": "DELETED", "requested_at": "2026-01-30T07:23:22Z"},
    requested={"trip_id": _ID, "state": "REQUESTED", "requested_at": "2026-01-30T07:23:22Z"},
    vehicle={
        "vehicle_id": "omaha-1",
        "on_trip": False,
        "last_end": {"trip_id": _ID, "end": _END},
        "last_announcement": {
            "id": "01DBV9YF40FZJ17W56J3KZGQ7S",
            "type": "TripDataReady",
            "occurred_at": "2019-05-27T00:09:52Z",
            "trip_id": _ID,
            "revision": 1638,
        },
    },
)
