# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Rows in the order of time, as they are packed: an optional part of the timeline and the machine.

While a trip is simply on, its rows are only added up. :class:`Rows` does that without unpacking them. What a row means is
the machine's to know; here is what :meth:`streams.trips.trip.Ride.add` does with row after row of one kind, number for
number. Where it is not compiled, nothing is missing but speed.
"""

import sys

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.limits cimport LLONG_MIN
from libc.math cimport asin, cos, floor, sin, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from streams.trips.geo import DIAMETER_MM, STEP
from streams.trips.samples import FLOW_ID_BIT, Property
from streams.trips.timeline import FORMATS, SAME_UNIT, unpack
from streams.trips.trip import IDLE_PAUSE_MS, IDLE_SPEED

cdef enum:
    BITS = 16

if sys.byteorder != "little":
    raise ImportError("stored numbers are little-endian, and so are to be those of the machine")
if set(FORMATS.values()) != {"B", "H", "i", "ii", "q"}:
    raise AssertionError("rows are packed in another way")

cdef int[BITS] SIZES
for _bit in range(BITS):
    SIZES[_bit] = 0
for _bit, _format in FORMATS.items():
    SIZES[_bit] = {"B": 1, "H": 2, "i": 4, "ii": 8, "q": 8}[_format]

cdef int _UNIT = 1 << Property.UNIT
cdef int _FLOW_ID = 1 << FLOW_ID_BIT
cdef int _SAME_UNIT = SAME_UNIT
cdef int _POSITION = Property.POSITION
cdef int _SPEED = Property.SPEED
cdef int _MILEAGE = Property.MILEAGE
cdef double _STEP = STEP
cdef double _DIAMETER_MM = DIAMETER_MM
cdef long long _IDLE_SPEED = IDLE_SPEED
cdef long long _IDLE_PAUSE_MS = IDLE_PAUSE_MS
cdef long long _NONE = LLONG_MIN
cdef enum:
    FIXED_START = 10  # mask and instant


cdef inline int mask_at(const char* at) noexcept nogil:
    cdef uint16_t mask
    memcpy(&mask, at, 2)
    return mask


cdef inline long long long_at(const char* at) noexcept nogil:
    cdef int64_t value
    memcpy(&value, at, 8)
    return value


cdef inline long long int_at(const char* at) noexcept nogil:
    cdef int32_t value
    memcpy(&value, at, 4)
    return value


cdef inline long long short_at(const char* at) noexcept nogil:
    return mask_at(at)


cdef int column_at(int mask, int bit) noexcept nogil:
    """Where a property stands in a packed row, which has it."""
    cdef int at = FIXED_START
    cdef int before
    for before in range(bit):
        if mask >> before & 1:
            at += SIZES[before]
    return at


@cython.final
@cython.no_gc
cdef class Rows:
    """Rows in the order of time, each of another instant.

    A sequence of rows, as :data:`streams.trips.samples.Row`; made by :func:`in_order`.
    """

    cdef bytes packed
    cdef const char* start
    cdef Py_ssize_t* places  # of each row, and where the last one ends
    cdef Py_ssize_t count
    cdef Py_ssize_t unit_place, unit_end  # of the last row before them that names a unit

    def __dealloc__(self):
        free(self.places)

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        cdef Py_ssize_t place = self.places[index]
        cdef Py_ssize_t end = self.places[index + 1]
        cdef int mask = mask_at(self.start + place)
        if not mask & _SAME_UNIT:
            return unpack(self.packed[place:end])[0]
        # The unit is that of a row before.
        cdef Py_ssize_t unit_place = self.unit_place
        cdef Py_ssize_t unit_end = self.unit_end
        while index:
            index -= 1
            if mask_at(self.start + self.places[index]) & (_SAME_UNIT | _UNIT) == _UNIT:
                unit_place, unit_end = self.places[index], self.places[index + 1]
                break
        unit = None
        for value in unpack(self.packed[unit_place:unit_end])[0][2]:
            if isinstance(value, tuple):
                unit = value
        return unpack(self.packed[place:end], unit)[0]

    def alike(self, Py_ssize_t begin, long long last, long long longest, int trigger):
        """Where a run of rows ends that have one mask, no gap between them, and no trigger that is off.

        Args:
            begin: index of its first row.
            last: the instant before it.
            longest: what is not a gap yet, in ms.
            trigger: the number of the property that starts and ends trips.
        """
        cdef int mask = mask_at(self.start + self.places[begin])
        cdef int column = column_at(mask, trigger) if mask >> trigger & 1 else 0
        cdef Py_ssize_t end = begin
        cdef const char* at
        cdef long long instant
        cdef int own
        while end < self.count:
            at = self.start + self.places[end]
            own = mask_at(at)
            # The same unit, or another one: it is one mask.
            if (own ^ mask) & ~_SAME_UNIT:
                break
            instant = long_at(at + 2)
            if instant - last > longest or (column and not at[column]):
                break
            last = instant
            end += 1
        return end

    def add_up(
        self,
        Py_ssize_t begin,
        Py_ssize_t end,
        long long last,
        long long longest_gap,
        object max_speed,
        long long idle_ms,
        object slow_at,
        object path_end,
    ):
        """Add up rows of one mask that are inside of a trip, with at least two positions before if there are any.

        Args:
            begin: index of the first one.
            end: index behind the last one.
            last: the instant before the first.
            longest_gap: of the trip so far, in ms; ``max_speed``, ``idle_ms``, ``slow_at`` and ``path_end`` likewise, as
                those of :class:`streams.trips.trip.Ride`.

        Returns:
            The newest instant, and the same as they are now; what is added to the path in mm, and how many legs; whether
            there was a jump; the newest odometer reading or None.
        """
        cdef int mask = mask_at(self.start + self.places[begin])
        cdef int position = column_at(mask, _POSITION) if mask >> _POSITION & 1 else 0
        cdef int speed_at = column_at(mask, _SPEED) if mask >> _SPEED & 1 else 0
        cdef int mileage = column_at(mask, _MILEAGE) if mask >> _MILEAGE & 1 else 0
        cdef long long fastest = -1 if max_speed is None else max_speed
        cdef long long slow = _NONE if slow_at is None else slow_at
        cdef long long since = 0, latitude = 0, longitude = 0, to_latitude, to_longitude
        cdef long long instant, speed, leg
        cdef long long path = 0, legs = 0
        cdef double here = 0, there, half, across, root
        cdef bint jumped = False
        cdef Py_ssize_t index
        cdef const char* at
        if position:
            since, latitude, longitude = path_end
            here = cos(latitude * _STEP)
        for index in range(begin, end):
            at = self.start + self.places[index]
            instant = long_at(at + 2)
            if instant - last > longest_gap:
                longest_gap = instant - last
            last = instant
            if speed_at:
                speed = short_at(at + speed_at)
                if speed > fastest:
                    fastest = speed
                if speed < _IDLE_SPEED:
                    if slow != _NONE and instant - slow <= _IDLE_PAUSE_MS:
                        idle_ms += instant - slow
                    slow = instant
                else:
                    slow = _NONE
            if position:
                # As streams.trips.geo.leg_and_cosine, operation for operation.
                to_latitude = int_at(at + position)
                to_longitude = int_at(at + position + 4)
                half = sin((to_latitude - latitude) * _STEP / 2)
                across = sin((to_longitude - longitude) * _STEP / 2)
                there = cos(to_latitude * _STEP)
                root = sqrt(half * half + here * there * across * across)
                leg = <long long>floor(_DIAMETER_MM * asin(root if root < 1.0 else 1.0) + 0.5)
                if leg * 3 > (instant - since) * 250:
                    jumped = True
                else:
                    path += leg
                    legs += 1
                    since, latitude, longitude, here = instant, to_latitude, to_longitude, there
        return (
            last,
            longest_gap,
            None if fastest < 0 else fastest,
            idle_ms,
            None if slow == _NONE else slow,
            (since, latitude, longitude) if position else path_end,
            path,
            legs,
            jumped,
            long_at(self.start + self.places[end - 1] + mileage) if mileage else None,
        )


def in_order(list parts, double after, double to):
    """The rows with ``after`` < instant <= ``to``; None: they are not in the order of time, each of another instant.

    Args:
        parts: packed rows, part behind part.
        after: epoch ms, or an infinity.
        to: the same.
    """
    cdef bytes packed = <bytes>parts[0] if len(parts) == 1 else b"".join(parts)
    cdef const char* start = PyBytes_AS_STRING(packed)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(packed)
    cdef Py_ssize_t place = 0, following, room = 64
    cdef Rows rows = Rows.__new__(Rows)
    cdef long long newest = LLONG_MIN, instant
    cdef int mask, fixed, text, before = -1, width = 0
    cdef Py_ssize_t* more
    cdef bint left_out = False
    rows.packed = packed
    rows.start = start
    rows.places = <Py_ssize_t*>malloc(room * sizeof(Py_ssize_t))
    if rows.places == NULL:
        raise MemoryError
    while place < size:
        mask = mask_at(start + place)
        instant = long_at(start + place + 2)
        fixed = mask & (_UNIT - 1)
        if fixed != before:
            before, width = fixed, column_at(fixed, BITS)
        following = place + width
        text = 0
        if mask & _UNIT and not mask & _SAME_UNIT:
            text = 2
        if mask & _FLOW_ID:
            text += 1
        while text:
            following += 2 + mask_at(start + following)
            text -= 1
        if instant > after and instant <= to:
            if instant <= newest or left_out:
                return None
            newest = instant
            if rows.count + 2 > room:
                room *= 2
                more = <Py_ssize_t*>realloc(rows.places, room * sizeof(Py_ssize_t))
                if more == NULL:
                    raise MemoryError
                rows.places = more
            rows.places[rows.count] = place
            rows.count += 1
            rows.places[rows.count] = following
        elif rows.count:
            left_out = True
        elif mask & _UNIT and not mask & _SAME_UNIT:
            rows.unit_place, rows.unit_end = place, following
        place = following
    return rows
