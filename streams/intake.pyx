# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Records that come in order, taken in by machine code: an optional part of :mod:`streams.processor`.

Nearly every record is a clean message whose row is newer than all before, and changes nothing that is told. All that
becomes of it is a packed row behind others. An :class:`Intake` does that, without an object of Python's for it, and
hands on every other record: to the reader what is not a clean message, to the vehicle what is not in order.

- It reads less than the reader does: no escapes, nothing but ASCII, no envelope, no property with a time of its own,
  no field twice, nothing nested but a position and a unit. At the first thing that it does not know it gives
  up, and the reader begins anew. So what it does say has to be what the reader would say.
- What it needs to know of a vehicle is lent to it, as a :class:`Front`. It takes a row exactly where
  :meth:`streams.trips.vehicle.Vehicle.go_on` would. Before anybody else looks at the vehicle, it gives back what came.

Where it is not compiled, nothing is missing but speed.
"""

import sys

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.limits cimport LLONG_MAX
from libc.math cimport NAN, floor, isinf, isnan
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from streams.record_batch cimport Entry, RecordBatch, Text

from streams.telemetry.explain import MAX_BYTES
from streams.telemetry.properties import (
    ALTITUDE_STEPS,
    DEGREE_STEPS,
    MAX_ALTITUDE,
    MAX_LATITUDE,
    MAX_LONGITUDE,
    MAX_TEXT,
    NUMBERS,
    PROPERTIES,
    WORDS,
)
from streams.telemetry.timestamps import EARLIEST, LATEST
from streams.trips.samples import FLOW_ID_BIT, Property
from streams.trips.timeline import FORMATS, SAME_UNIT

cdef extern from "Python.h":
    double PyOS_string_to_double(const char* written, char** end, PyObject* overflow) except? -1.0

cdef enum:
    FIELDS = 32
    MOST_WORDS = 8
    BITS = 14
    WORD = 0
    NUMBER = 1
    POSITION = 2
    UNIT = 3
    VEHICLE = 4
    TIMESTAMP = 5
    ENVELOPE = 6

cdef enum:  # what becomes of a record
    TAKEN = 0
    CLEAN = 1  # read, and not in order
    OTHER = 2

cdef unsigned long long EXACT = 1ULL << 53  # integers up to this are doubles

cdef struct Word:
    Text token
    Py_ssize_t size
    int value

cdef struct Field:
    Text name
    Py_ssize_t size
    int kind
    int bit
    double highest
    double steps
    int words
    Word[MOST_WORDS] word

cdef struct Row:
    long long time
    int mask
    long long[BITS] values  # by bit; of a position the latitude
    long long longitude
    Text vehicle
    Py_ssize_t vehicle_size
    Text[2] unit  # id and brand
    Py_ssize_t[2] unit_size

cdef double[23] POWERS = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
]
cdef int[13] DAYS_BEFORE = [0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334]
cdef int[13] DAYS_IN = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

cdef int _MAX_BYTES = MAX_BYTES
cdef int _MAX_TEXT = MAX_TEXT
cdef double _MAX_LATITUDE = MAX_LATITUDE
cdef double _MAX_LONGITUDE = MAX_LONGITUDE
cdef double _MAX_ALTITUDE = MAX_ALTITUDE
cdef double _DEGREE_STEPS = DEGREE_STEPS
cdef double _ALTITUDE_STEPS = ALTITUDE_STEPS
cdef long long _EARLIEST = EARLIEST
cdef long long _LATEST = LATEST
cdef int _POSITION_BIT = Property.POSITION
cdef int _ALTITUDE_BIT = Property.ALTITUDE
cdef int _UNIT_BIT = Property.UNIT
cdef int _SAME_UNIT = SAME_UNIT
cdef int _ALTITUDE_MASK = 1 << Property.ALTITUDE
cdef long long _NEVER = LLONG_MAX

cdef enum:
    LONGEST_ROW = 96  # of fixed fields; text comes on top
    MOST_ROWS = 8192  # bytes of rows that a front keeps; then the vehicle has to take them
    KEPT_ROWS = 512  # bytes that a front keeps room for
    MOST_UNITS = 16384

if sys.byteorder != "little":
    raise ImportError("stored numbers are little-endian, and so are to be those of the machine")
if FLOW_ID_BIT != BITS or set(FORMATS.values()) != {"B", "H", "i", "ii", "q"}:
    raise AssertionError("rows are packed in another way")

cdef char[BITS] WIDTHS
for _bit, _format in FORMATS.items():
    WIDTHS[_bit] = ord(_format[0])


@cython.final
@cython.no_gc
cdef class Front:
    """What the intake knows of a vehicle, and what has come of it since.

    Attributes:
        lent: the vehicle has nothing to say to the next row that is in order.
        newest: the instant of the newest row; ``before``: of the one before it.
        due: a row later than this is the vehicle's to take.
        on: of the trigger: 1 on, 0 off, -1 not known.
        gap: there is a data gap that the next trigger sample decides.
        trigger_at: the newest trigger sample that has come.
        unit: of the newest row with one in what the vehicle has and has not stored yet.
    """

    cdef str vehicle_id
    cdef bint lent, gap
    cdef long long newest, before, due, trigger_at, offset, time_ms, arrival, oldest
    cdef int on
    cdef object unit
    cdef char* rows
    cdef Py_ssize_t size, room, most

    def __cinit__(self, str vehicle_id):
        self.vehicle_id = vehicle_id

    def __dealloc__(self):
        free(self.rows)

    def lend(self, long long newest, long long due, int on, bint gap, unit, Py_ssize_t most):
        """The vehicle as it is; it has nothing of the intake's any more.

        Args:
            newest: instant of its newest row, epoch ms.
            due: the last instant of a row that is not the vehicle's to take, or -1: there is none.
            on: of the trigger: 1 on, 0 off, -1 not known.
            gap: there is a data gap that the next trigger sample decides.
            unit: of the newest row with one in its timeline's tail, or None.
            most: bytes of packed rows that its tail has room for.
        """
        if self.size:
            raise AssertionError(self.vehicle_id)
        self.newest = newest
        self.due = _NEVER if due < 0 else due
        self.on = on
        self.gap = gap
        self.unit = unit
        self.most = min(most, MOST_ROWS)
        self.trigger_at = -1
        self.lent = True

    def give_back(self):
        """What has come: the vehicle goes on by itself. None: nothing has.

        Returns:
            The packed rows; instants of the oldest, of the newest and of what was the newest before it; of the newest
            trigger sample, or -1; offset, timestamp and arrival of the last record; the newest unit.
        """
        self.lent = False
        if not self.size:
            return None
        packed = PyBytes_FromStringAndSize(self.rows, self.size)
        self.size = 0
        if self.room > KEPT_ROWS:  # of a backlog
            free(self.rows)
            self.rows = NULL
            self.room = 0
        return (
            packed, self.oldest, self.newest, self.before, self.trigger_at, self.offset, self.time_ms, self.arrival,
            self.unit,
        )

    cdef bint make_room(self, Py_ssize_t more) noexcept:
        cdef Py_ssize_t room = self.room
        cdef char* rows
        if self.size + more > self.most:
            return False
        if self.size + more <= room:
            return True
        while room < self.size + more:
            room = 128 if room == 0 else room * 2
        rows = <char*>realloc(self.rows, room)
        if rows == NULL:
            return False
        self.rows = rows
        self.room = room
        return True


@cython.final
cdef class Intake:
    """Takes in what comes in order, of one partition.

    Args:
        skew: how much later than its Kafka record a sample may be, in ms.
        silence: ``silence_timeout`` in ms.
        trigger: the number of the property that starts and ends trips.
        offline: there is no Kafka: a record's time is that of its row.

    Attributes:
        clock: the newest Kafka timestamp so far, or as set.
        messages: how many records were taken in since the last :meth:`count`.
        samples: how many samples they had.
    """

    cdef Field[FIELDS] fields
    cdef int count_fields
    cdef int[FIELDS] order  # of the fields in the last messages
    cdef long long skew, silence
    cdef int trigger
    cdef bint offline
    cdef list kept  # what the names and words point into
    cdef dict fronts
    cdef dict units
    cdef list changed
    cdef object records
    cdef RecordBatch batch
    cdef Py_ssize_t place  # in the batch
    cdef public long long clock
    cdef long long messages, samples

    def __init__(self, *, long long skew, long long silence, int trigger, bint offline):
        self.skew = skew
        self.silence = silence
        self.trigger = trigger
        self.offline = offline
        self.kept = []
        self.fronts = {}
        self.units = {}
        self.changed = []
        self.records = iter(())
        for name, bit in PROPERTIES.items():
            if bit in NUMBERS:
                self.add(name, NUMBER, bit)
                self.fields[self.count_fields - 1].highest = NUMBERS[bit].highest
                self.fields[self.count_fields - 1].steps = NUMBERS[bit].steps
            elif bit in WORDS:
                self.add(name, WORD, bit)
                for word, value in WORDS[bit].items():
                    self.add_word(("true" if word else "false") if isinstance(word, bool) else f'"{word}"', value)
            else:
                self.add(name, POSITION if bit == Property.POSITION else UNIT, bit)
        self.add("vehicle_id", VEHICLE, -1)
        self.add("timestamp", TIMESTAMP, -1)
        self.add("metadata", ENVELOPE, -1)
        self.add("data", ENVELOPE, -1)

    cdef int add(self, str name, int kind, int bit) except -1:
        if self.count_fields == FIELDS or bit >= BITS:
            raise AssertionError(name)
        cdef bytes text = name.encode()
        cdef Field* field = &self.fields[self.count_fields]
        self.kept.append(text)
        field.name = <Text>PyBytes_AS_STRING(text)
        field.size = PyBytes_GET_SIZE(text)
        field.kind = kind
        field.bit = bit
        field.words = 0
        self.count_fields += 1
        return 0

    cdef int add_word(self, str token, int value) except -1:
        cdef Field* field = &self.fields[self.count_fields - 1]
        if field.words == MOST_WORDS:
            raise AssertionError(token)
        cdef bytes text = token.encode()
        self.kept.append(text)
        field.word[field.words].token = <Text>PyBytes_AS_STRING(text)
        field.word[field.words].size = PyBytes_GET_SIZE(text)
        field.word[field.words].value = value
        field.words += 1
        return 0

    # -- vehicles --------------------------------------------------------------------------------------------------

    def front(self, str vehicle_id):
        """The front of a vehicle that has none yet."""
        front = Front(vehicle_id)
        self.fronts[vehicle_id.encode()] = front
        return front

    def forget(self, str vehicle_id):
        """The vehicle is not at hand any more; it has been given back what came."""
        self.fronts.pop(vehicle_id.encode(), None)

    def take_changed(self):
        """The ids of the vehicles of which something has come, since the last time or since it was given back."""
        changed, self.changed = self.changed, []
        return changed

    def count(self):
        """How many records were taken in, and how many samples they had; from now on they count from 0."""
        counted = self.messages, self.samples
        self.messages = self.samples = 0
        return counted

    # -- records ---------------------------------------------------------------------------------------------------

    def through(self, records):
        """Take in what can be; iterate over the rest, in order, each with what could be read of it or None."""
        if type(records) is RecordBatch:
            self.batch = records
            self.place = 0
        else:
            self.batch = None
            self.records = iter(records)
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef Row row
        cdef Entry entry
        cdef int became
        if self.batch is not None:
            while self.place < self.batch.size:
                self.place += 1
                became = self.take_in(&self.batch.entries[self.place - 1], &row)
                if became != TAKEN:
                    return self.batch.at(self.place - 1), self.found(&row) if became == CLEAN else None
            self.batch = None
            raise StopIteration
        for record in self.records:
            entry.offset = record.offset
            entry.timestamp = record.timestamp
            content, name = record.value, record.key
            if type(content) is not bytes or not (name is None or type(name) is bytes):
                self.look_at_clock(entry.timestamp)
                return record, None
            entry.value = <Text>PyBytes_AS_STRING(content)
            entry.value_size = PyBytes_GET_SIZE(content)
            entry.key = NULL if name is None else <Text>PyBytes_AS_STRING(name)
            entry.key_size = 0 if name is None else PyBytes_GET_SIZE(name)
            entry.count_headers = 1 if record.headers else 0
            became = self.take_in(&entry, &row)
            if became != TAKEN:
                return record, self.found(&row) if became == CLEAN else None
        raise StopIteration

    cdef bint look_at_clock(self, long long timestamp) noexcept:
        """Whether it is a time at all; if so, the clock has come to it."""
        if not 0 <= timestamp <= _LATEST:
            return False
        if timestamp > self.clock:
            self.clock = timestamp
        return True

    cdef int take_in(self, Entry* entry, Row* row) except -1:
        cdef object found
        cdef Front front
        if not self.look_at_clock(entry.timestamp) or entry.value == NULL or not self.read(entry, row):
            return OTHER
        found = self.fronts.get(PyBytes_FromStringAndSize(<const char*>row.vehicle, row.vehicle_size))
        if found is None:
            return CLEAN
        front = <Front>found
        if not front.lent or entry.count_headers or not self.go_on(front, row):
            return CLEAN
        front.offset = entry.offset
        front.time_ms = row.time if self.offline else entry.timestamp
        front.arrival = self.clock
        self.messages += 1
        self.samples += samples_in(row.mask)
        return TAKEN

    cdef tuple found(self, Row* row):
        """The vehicle and its row, as they are everywhere else."""
        return string(row.vehicle, row.vehicle_size), (self.as_python(row),)

    cdef bint go_on(self, Front front, Row* row) except -1:
        """Take a row, if it comes in order and changes nothing that is told."""
        cdef int mask = row.mask
        cdef int bit
        cdef char[LONGEST_ROW] packed
        cdef char* at = packed
        cdef Py_ssize_t size
        cdef object unit = None
        cdef bint same = False
        if row.time <= front.newest or row.time > front.due:
            return False
        if front.on == 1 and self.silence and row.time - front.newest > self.silence:
            return False
        if mask >> self.trigger & 1 and (front.gap or row.values[self.trigger] != front.on):
            return False
        if mask >> _UNIT_BIT & 1:
            unit = self.unit(row)
            same = unit is front.unit or unit == front.unit
        at = pack16(at, mask | _SAME_UNIT if same else mask)
        at = pack64(at, row.time)
        for bit in range(_UNIT_BIT):
            if not mask >> bit & 1:
                continue
            if WIDTHS[bit] == c"B":
                at[0] = <char>row.values[bit]
                at += 1
            elif WIDTHS[bit] == c"H":
                at = pack16(at, row.values[bit])
            elif WIDTHS[bit] == c"q":
                at = pack64(at, row.values[bit])
            else:
                at = pack32(at, row.values[bit])
                if bit == _POSITION_BIT:
                    at = pack32(at, row.longitude)
        size = at - packed
        if not front.make_room(size + (0 if unit is None or same else row.unit_size[0] + row.unit_size[1] + 4)):
            return False
        if front.size == 0:
            self.changed.append(front.vehicle_id)
            front.oldest = row.time
        at = front.rows + front.size
        memcpy(at, packed, size)
        at += size
        if unit is not None and not same:
            at = pack_text(at, row.unit[0], row.unit_size[0])
            at = pack_text(at, row.unit[1], row.unit_size[1])
            front.unit = unit
        front.size = at - front.rows
        if mask >> self.trigger & 1:
            front.trigger_at = row.time
        front.before = front.newest
        front.newest = row.time
        return True

    cdef object unit(self, Row* row):
        """Id and brand; vehicles repeat theirs."""
        cdef object key = (
            PyBytes_FromStringAndSize(<const char*>row.unit[0], row.unit_size[0]),
            PyBytes_FromStringAndSize(<const char*>row.unit[1], row.unit_size[1]),
        )
        found = self.units.get(key)
        if found is None:
            if len(self.units) >= MOST_UNITS:
                self.units.clear()
            found = self.units[key] = (string(row.unit[0], row.unit_size[0]), string(row.unit[1], row.unit_size[1]))
        return found

    cdef tuple as_python(self, Row* row):
        """The row as it is everywhere else."""
        cdef int bit
        cdef list values = []
        for bit in range(BITS):
            if not row.mask >> bit & 1:
                continue
            values.append(self.unit(row) if bit == _UNIT_BIT else row.values[bit])
            if bit == _POSITION_BIT:
                values.append(row.longitude)
        return row.time, row.mask, tuple(values)

    cdef inline Field* field(self, int place, Text name, Py_ssize_t size) noexcept:
        """The field of that name; NULL: there is none. Messages name theirs in the same order, one like the other."""
        cdef int index = self.order[place]
        if self.fields[index].size == size and memcmp(self.fields[index].name, name, size) == 0:
            return &self.fields[index]
        for index in range(self.count_fields):
            if self.fields[index].size == size and memcmp(self.fields[index].name, name, size) == 0:
                self.order[place] = index
                return &self.fields[index]
        return NULL

    cdef bint read(self, Entry* entry, Row* row):
        """Read a clean message. False: the reader has to look."""
        if entry.value_size > _MAX_BYTES:
            return False
        cdef Text at = entry.value
        cdef Text end = at + entry.value_size
        cdef Text name
        cdef Py_ssize_t name_size
        cdef double number
        cdef int mask = 0
        cdef int index, bit
        cdef int count = 0
        cdef bint more = True
        cdef Field* field

        row.time = -1
        row.vehicle = NULL
        row.vehicle_size = 0
        at = opened(blank(at, end), end)
        while more:
            if at != NULL:
                at = value_of(at, end, &name, &name_size)
            if at == NULL:
                return False
            field = self.field(count, name, name_size)
            count = count + 1 if count + 1 < FIELDS else 0
            if field == NULL:
                at = ignored(at, end)
                if at == NULL:
                    return False
            elif field.kind == TIMESTAMP:
                if row.time >= 0:
                    return False
                at = instant(at, end, &row.time)
                if at == NULL or row.time > entry.timestamp + self.skew:
                    return False
            elif field.kind == VEHICLE:
                if row.vehicle != NULL:
                    return False
                row.vehicle = at + 1
                at = text(at, end)
                if at == NULL:
                    return False
                row.vehicle_size = at - row.vehicle - 1
            elif field.kind == ENVELOPE:
                return False
            else:
                bit = field.bit
                if mask >> bit & 1:
                    return False
                mask |= 1 << bit
                if field.kind == NUMBER:
                    at = decimal(at, end, &number)
                    if at == NULL or not 0 <= number <= field.highest:
                        return False
                    row.values[bit] = <long long>floor(number * field.steps + 0.5)
                elif field.kind == WORD:
                    for index in range(field.words):
                        if (
                            end - at > field.word[index].size
                            and memcmp(at, field.word[index].token, field.word[index].size) == 0
                        ):
                            break
                    else:
                        return False
                    row.values[bit] = field.word[index].value
                    at += field.word[index].size
                elif field.kind == POSITION:
                    at = place(at, end, &row.values[bit], &row.longitude, &row.values[_ALTITUDE_BIT], &mask)
                    if at == NULL:
                        return False
                else:
                    at = identity(at, end, row.unit, row.unit_size)
                    if at == NULL:
                        return False
            at = behind(at, end, &more)
        if at == NULL or blank(at, end) != end:
            return False
        if not mask or row.time < 0:
            return False
        if row.vehicle == NULL:
            if entry.key == NULL:
                return False
            row.vehicle = entry.key
            row.vehicle_size = entry.key_size
            for index in range(<int>row.vehicle_size if row.vehicle_size <= _MAX_TEXT else 0):
                if row.vehicle[index] >= 0x80:
                    return False
        if not 0 < row.vehicle_size <= _MAX_TEXT:
            return False
        row.mask = mask
        return True


cdef inline int samples_in(int mask) noexcept nogil:
    """How many samples a row has: an altitude is part of its position."""
    cdef int count = 0
    mask &= ~_ALTITUDE_MASK
    while mask:
        mask &= mask - 1
        count += 1
    return count


cdef inline char* pack16(char* at, long long value) noexcept nogil:
    cdef uint16_t narrow = <uint16_t>value
    memcpy(at, &narrow, 2)
    return at + 2


cdef inline char* pack32(char* at, long long value) noexcept nogil:
    cdef int32_t narrow = <int32_t>value
    memcpy(at, &narrow, 4)
    return at + 4


cdef inline char* pack64(char* at, long long value) noexcept nogil:
    cdef int64_t narrow = value
    memcpy(at, &narrow, 8)
    return at + 8


cdef inline char* pack_text(char* at, Text text, Py_ssize_t size) noexcept nogil:
    at = pack16(at, size)
    memcpy(at, text, size)
    return at + size


cdef inline str string(Text start, Py_ssize_t size):
    return PyUnicode_DecodeASCII(<const char*>start, size, NULL)


cdef inline Text blank(Text at, Text end) noexcept nogil:
    """Behind white space."""
    while at < end and (at[0] == c" " or at[0] == c"\n" or at[0] == c"\r" or at[0] == c"\t"):
        at += 1
    return at


cdef inline Text text(Text at, Text end) noexcept nogil:
    """Behind a text of printable ASCII without escapes; NULL: it is none."""
    if at == end or at[0] != c'"':
        return NULL
    at += 1
    while at < end and at[0] != c'"':
        if at[0] < 0x20 or at[0] >= 0x80 or at[0] == c"\\":
            return NULL
        at += 1
    return NULL if at == end else at + 1


cdef inline Text decimal(Text at, Text end, double* number) noexcept:
    """Behind a number; it becomes the double next to it."""
    cdef Text first = at
    cdef bint negative = at < end and at[0] == c"-"
    cdef unsigned long long digits = 0
    cdef Text start
    cdef Py_ssize_t scale = 0
    if negative:
        at += 1
    start = at
    while at < end and c"0" <= at[0] <= c"9":
        digits = digits * 10 + (at[0] - c"0")
        at += 1
        if at - start > 15:
            return NULL
    if at == start or (start[0] == c"0" and at - start > 1):
        return NULL
    if at < end and at[0] == c".":
        at += 1
        start = at
        while at < end and c"0" <= at[0] <= c"9":
            if digits < EXACT:
                digits = digits * 10 + (at[0] - c"0")
            at += 1
        scale = at - start
        if scale == 0:
            return NULL
    if at == end:
        return NULL
    if digits >= EXACT or scale > 22 or at[0] == c"e" or at[0] == c"E":
        return any_decimal(first, at, end, number)
    # Both are exact, so their quotient is rounded once.
    number[0] = <double>digits / POWERS[scale]
    if negative:
        number[0] = -number[0]
    return at


cdef Text any_decimal(Text first, Text at, Text end, double* number) noexcept:
    """The same of one with many digits, or with an exponent, which begins at ``at``."""
    cdef char[64] copy
    cdef Text start
    if at[0] == c"e" or at[0] == c"E":
        at += 1
        if at < end and (at[0] == c"+" or at[0] == c"-"):
            at += 1
        start = at
        while at < end and c"0" <= at[0] <= c"9":
            at += 1
        if at == start or at - start > 3 or at == end:
            return NULL
    if at - first >= 64:
        return NULL
    memcpy(copy, first, at - first)
    copy[at - first] = 0
    number[0] = double_of(copy)
    return NULL if isinf(number[0]) or isnan(number[0]) else at


cdef double double_of(const char* written) noexcept:
    """The double next to a number; not a number where there is none."""
    try:
        return PyOS_string_to_double(written, NULL, NULL)
    except Exception:
        return NAN


cdef Text ignored(Text at, Text end) noexcept:
    """Behind the value of a field that is not known: a text, a number, true, false or null."""
    cdef double number
    if at == end:
        return NULL
    if at[0] == c'"':
        return text(at, end)
    if at[0] == c"-" or c"0" <= at[0] <= c"9":
        return decimal(at, end, &number)
    if end - at > 4 and (memcmp(at, b"true", 4) == 0 or memcmp(at, b"null", 4) == 0):
        return at + 4
    if end - at > 5 and memcmp(at, b"false", 5) == 0:
        return at + 5
    return NULL


cdef inline int digits_of(Text at, int count) noexcept nogil:
    """The number that so many digits are; -1: they are none."""
    cdef int value = 0
    cdef int index
    for index in range(count):
        if not c"0" <= at[index] <= c"9":
            return -1
        value = value * 10 + (at[index] - c"0")
    return value


cdef Text instant(Text at, Text end, long long* time) noexcept:
    """Behind a timestamp in UTC, or epoch milliseconds, of the years that there may be."""
    cdef int year, month, day, hour, minute, second, rest, scale
    cdef long long days
    cdef double number
    cdef Text start = at
    if at < end and at[0] != c'"':
        at = decimal(at, end, &number)
        if at == NULL or not _EARLIEST <= number <= _LATEST:
            return NULL
        while start < at:
            if not c"0" <= start[0] <= c"9":
                return NULL
            start += 1
        time[0] = <long long>number
        return at
    if end - at < 23:
        return NULL
    at += 1
    if at[4] != c"-" or at[7] != c"-" or at[10] != c"T" or at[13] != c":" or at[16] != c":":
        return NULL
    year, month, day = digits_of(at, 4), digits_of(at + 5, 2), digits_of(at + 8, 2)
    hour, minute, second = digits_of(at + 11, 2), digits_of(at + 14, 2), digits_of(at + 17, 2)
    if not 2000 <= year <= 9999 or not 1 <= month <= 12 or not 0 <= hour <= 23:
        return NULL
    if not 0 <= minute <= 59 or not 0 <= second <= 59:
        return NULL
    cdef bint leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= DAYS_IN[month] + (leap and month == 2):
        return NULL
    at += 19
    rest, scale = 0, 100
    if at[0] == c".":
        at += 1
        start = at
        while at < end and c"0" <= at[0] <= c"9":
            rest += (at[0] - c"0") * scale  # what is finer than a millisecond is cut off
            scale //= 10
            at += 1
        if at == start:
            return NULL
    if end - at < 2 or at[0] != c"Z" or at[1] != c'"':
        return NULL
    # Days from 1970-01-01 to the first of the year, then within it.
    days = 365 * (year - 1970) + (year - 1969) // 4 - (year - 1901) // 100 + (year - 1601) // 400
    days += DAYS_BEFORE[month] + (leap and month > 2) + day - 1
    time[0] = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + rest
    return at + 2


cdef inline Text opened(Text at, Text end) noexcept nogil:
    """At what is first in an object; NULL: it is none."""
    if at == end or at[0] != c"{":
        return NULL
    return blank(at + 1, end)


cdef inline Text value_of(Text at, Text end, Text* name, Py_ssize_t* size) noexcept nogil:
    """At the value of a field; NULL: there is no name that is a plain text, or no value."""
    name[0] = at + 1
    at = text(at, end)
    if at == NULL:
        return NULL
    size[0] = at - name[0] - 1
    at = blank(at, end)
    if at == end or at[0] != c":":
        return NULL
    return blank(at + 1, end)


cdef inline Text behind(Text at, Text end, bint* more) noexcept nogil:
    """Behind a field of an object: at the next one, if there are more, or behind the object; NULL: at neither."""
    at = blank(at, end)
    if at == end:
        return NULL
    more[0] = at[0] == c","
    if more[0]:
        return blank(at + 1, end)
    return at + 1 if at[0] == c"}" else NULL


cdef Text place(
    Text at, Text end, long long* latitude, long long* longitude, long long* altitude, int* mask
) noexcept:
    """Behind a position."""
    cdef double[3] numbers
    cdef int seen = 0
    cdef int which
    cdef bint more = True
    cdef Text name
    cdef Py_ssize_t size
    at = opened(at, end)
    while more:
        if at != NULL:
            at = value_of(at, end, &name, &size)
        if at == NULL:
            return NULL
        if size == 3 and memcmp(name, b"lat", 3) == 0:
            which = 0
        elif size == 3 and memcmp(name, b"lon", 3) == 0:
            which = 1
        elif size == 8 and memcmp(name, b"altitude", 8) == 0:
            which = 2
        else:
            return NULL
        if seen >> which & 1:
            return NULL
        seen |= 1 << which
        at = decimal(at, end, &numbers[which])
        if at == NULL:
            return NULL
        at = behind(at, end, &more)
    if (
        at == NULL
        or seen & 3 != 3
        or not -_MAX_LATITUDE <= numbers[0] <= _MAX_LATITUDE
        or not -_MAX_LONGITUDE <= numbers[1] <= _MAX_LONGITUDE
        or (numbers[0] == 0 and numbers[1] == 0)
    ):
        return NULL
    latitude[0] = <long long>floor(numbers[0] * _DEGREE_STEPS + 0.5)
    longitude[0] = <long long>floor(numbers[1] * _DEGREE_STEPS + 0.5)
    if seen >> 2:
        if not -_MAX_ALTITUDE <= numbers[2] <= _MAX_ALTITUDE:
            return NULL
        altitude[0] = <long long>floor(numbers[2] * _ALTITUDE_STEPS + 0.5)
        mask[0] |= 1 << _ALTITUDE_BIT
    return at


cdef Text identity(Text at, Text end, Text* unit, Py_ssize_t* size) noexcept nogil:
    """Behind a telematics unit's id and brand."""
    cdef int seen = 0
    cdef int which
    cdef bint more = True
    cdef Text name
    cdef Py_ssize_t name_size
    at = opened(at, end)
    while more:
        if at != NULL:
            at = value_of(at, end, &name, &name_size)
        if at == NULL:
            return NULL
        if name_size == 2 and memcmp(name, b"id", 2) == 0:
            which = 0
        elif name_size == 5 and memcmp(name, b"brand", 5) == 0:
            which = 1
        else:
            return NULL
        if seen >> which & 1:
            return NULL
        seen |= 1 << which
        unit[which] = at + 1
        at = text(at, end)
        if at == NULL:
            return NULL
        size[which] = at - unit[which] - 1
        if not 0 < size[which] <= _MAX_TEXT:
            return NULL
        at = behind(at, end, &more)
    return at if seen == 3 else NULL
