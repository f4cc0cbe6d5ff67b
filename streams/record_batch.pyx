# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The records of Kafka's batches, found by machine code: an optional part of :mod:`streams.runtime.decoding`.

Of a record there is only where it is, until somebody asks for it: :mod:`streams.intake` reads most of them where they
are. The format is that of Kafka's `record batches <https://kafka.apache.org/documentation/#recordbatch>`_, version 2.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from streams.records import FetchedRecord


cdef class RecordBatch:
    """Records of a partition, in order: a sequence of :class:`streams.records.FetchedRecord`."""

    def __dealloc__(self):
        free(self.entries)

    @staticmethod
    def find(bytes raw, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t count, long long base_offset,
             long long first_timestamp, append_time):
        """The records of a batch. None: it is damaged, which aiokafka's decoder tells better.

        Args:
            raw: holds them, not compressed.
            begin: where, behind the batch's header.
            end: behind the last one.
            count: how many there are, by the header.
            base_offset: what their offsets are relative to.
            first_timestamp: what their timestamps are relative to, epoch ms.
            append_time: epoch ms; the timestamp of all of them, if the broker gives it; or None.
        """
        if count < 0 or not 0 <= begin <= end <= PyBytes_GET_SIZE(raw) or count > end - begin:
            return None
        cdef RecordBatch batch = RecordBatch()
        batch.make_room(count)
        batch.kept = [raw]
        cdef Text at = <Text>PyBytes_AS_STRING(raw) + begin
        cdef Text last = <Text>PyBytes_AS_STRING(raw) + end
        cdef Py_ssize_t place
        for place in range(count):
            at = record(at, last, &batch.entries[place], base_offset, first_timestamp)
            if at == NULL:
                return None
        if at != last:
            return None
        if append_time is not None:
            for place in range(count):
                batch.entries[place].timestamp = append_time
        batch.size = count
        return batch

    @staticmethod
    def joined(batches):
        """All records of several."""
        cdef RecordBatch one
        cdef RecordBatch joined = RecordBatch()
        joined.make_room(sum([len(one) for one in batches]))
        joined.kept = []
        for one in batches:
            memcpy(joined.entries + joined.size, one.entries, one.size * sizeof(Entry))
            joined.size += one.size
            joined.kept += one.kept
        return joined

    def __len__(self):
        return self.size

    def __getitem__(self, Py_ssize_t place):
        if place < 0:
            place += self.size
        if not 0 <= place < self.size:
            raise IndexError(place)
        return self.at(place)

    def __iter__(self):
        cdef Py_ssize_t place
        for place in range(self.size):
            yield self.at(place)

    cdef bint make_room(self, Py_ssize_t entries) except -1:
        self.entries = <Entry*>malloc(max(entries, 1) * sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError
        return True

    cdef object at(self, Py_ssize_t place):
        cdef Entry* entry = &self.entries[place]
        return FetchedRecord(
            entry.offset,
            entry.timestamp,
            content(entry.key, entry.key_size),
            content(entry.value, entry.value_size),
            headers(entry) if entry.count_headers else (),
        )


cdef object content(Text at, Py_ssize_t size):
    return None if at == NULL else PyBytes_FromStringAndSize(<const char*>at, size)


cdef tuple headers(Entry* entry):
    """What :func:`record` has found to be whole. Any name is taken: see :mod:`streams.runtime.decoding`."""
    cdef Text at = entry.headers
    cdef Text name = NULL
    cdef Text value = NULL
    cdef long long name_size = 0
    cdef long long value_size = 0
    cdef int _
    cdef list found = []
    for _ in range(entry.count_headers):
        at = part(at, entry.end, &name, &name_size)
        at = part(at, entry.end, &value, &value_size)
        found.append((content(name, name_size).decode("utf-8", "backslashreplace"), content(value, value_size)))
    return tuple(found)


cdef Text record(Text at, Text end, Entry* entry, long long base_offset, long long first_timestamp) noexcept nogil:
    """Behind a record; NULL: it is damaged."""
    cdef long long size, timestamp, offset, count
    cdef Text name
    cdef Text value
    at = varint(at, end, &size)
    if at == NULL or size < 1 or size > end - at or at[0]:  # it has attributes, and no Kafka knows any
        return NULL
    end = at + size
    at = varint(at + 1, end, &timestamp)
    if at != NULL:
        at = varint(at, end, &offset)
    if at != NULL:
        at = part(at, end, &entry.key, &entry.key_size)
    if at != NULL:
        at = part(at, end, &entry.value, &entry.value_size)
    if at != NULL:
        at = varint(at, end, &count)
    if at == NULL or not 0 <= count <= end - at:
        return NULL
    entry.offset = base_offset + offset
    entry.timestamp = first_timestamp + timestamp
    entry.count_headers = <int>count
    entry.headers = at
    entry.end = end
    while count:
        at = part(at, end, &name, &size)
        if at == NULL or name == NULL:
            return NULL
        at = part(at, end, &value, &size)
        if at == NULL:
            return NULL
        count -= 1
    return at if at == end else NULL


cdef inline Text part(Text at, Text end, Text* content, long long* size) noexcept nogil:
    """Behind a part of a record and its length; NULL: it is damaged."""
    at = varint(at, end, size)
    if at == NULL or size[0] > end - at:
        return NULL
    if size[0] < 0:
        content[0] = NULL
        return at
    content[0] = at
    return at + size[0]


cdef inline Text varint(Text at, Text end, long long* number) noexcept nogil:
    """Behind a number; NULL: it is damaged."""
    cdef unsigned long long bits = 0
    cdef int shift = 0
    while at != end and shift < 64:
        bits |= <unsigned long long>(at[0] & 0x7F) << shift
        if not at[0] & 0x80:
            number[0] = <long long>(bits >> 1) ^ -<long long>(bits & 1)
            return at + 1
        shift += 7
        at += 1
    return NULL
