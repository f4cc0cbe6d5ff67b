ctypedef const unsigned char* Text

cdef struct Entry:
    long long offset
    long long timestamp
    Text key  # NULL: there is none
    Text value  # NULL: there is none
    Text headers
    Text end
    long long key_size
    long long value_size
    int count_headers


cdef class RecordBatch:
    cdef Entry* entries
    cdef Py_ssize_t size
    cdef list kept  # what the entries point into

    cdef bint make_room(self, Py_ssize_t entries) except -1
    cdef object at(self, Py_ssize_t place)
