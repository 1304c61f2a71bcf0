/* The records of a plain consume response that were not handed out yet: takhin/client/unread.py in C.
 *
 * The bytes of the response are all that there is of a record until it is handed out. Its key and its value are copied
 * then, once, to where those of the record before may just have been given back.
 */
#include "client.h"

#include <stddef.h>

/* from: what is left of the response. after: the position when nothing is left.
 * stamp: the last timestamp as an object: many records in a row have the same. */
typedef struct Unread {
    PyObject_HEAD
    PyObject *at, *response, *stamp;
    Reading from;
    int64_t stamped;
    Py_ssize_t left, size_bytes;
    long long end_offset, after;
} Unread;

PyTypeObject *unread_type;

/* The next record behind the tag of `records`. A broker writes an offset and a timestamp, whatever they are; one
 * without them is not plain, nor is one with headers, or with the largest offset, behind which there is none. */
static bool read_plain(Reading *from, Record *record)
{
    const uint64_t numbers = (uint64_t)1 << TAG_OFFSET | (uint64_t)1 << TAG_TIMESTAMP;
    return read_record(from, record, 0) && (record->numbers & numbers) == numbers && record->offset < INT64_MAX;
}

/* The next record of a response, and its end offset if that stands before it. False at the end, and where something
 * is not plain: `from` is then before the end. */
static bool next_record(Reading *from, Record *record, uint64_t *end_offset)
{
    Span bytes;
    uint64_t number;
    while (from->at < from->end) {
        const byte *begin = from->at;
        bool plain = false;
        switch (*from->at++) {
        case TAG_RESPONSE_RECORDS:
            if (read_plain(from, record))
                return true;
            break;
        case TAG_RESPONSE_END:
            plain = read_varint(from, end_offset);
            break;
        case TAG_RESPONSE_TOPIC:
            plain = read_bytes(from, &bytes);
            break;
        case TAG_RESPONSE_PARTITION:
        case TAG_RESPONSE_THROTTLED:
            plain = read_varint(from, &number);
            break;
        }
        if (!plain) {
            from->at = begin;
            return false;
        }
    }
    return false;
}

/* unread(at, response, end_offset): its records; None if something in it is not plain.
 * end_offset: None: the response's own. */
PyObject *unread(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    char *bytes;
    Py_ssize_t size, records = 0;
    if (count != 3 || !PyTuple_Check(args[0]) || PyTuple_Size(args[0]) != 2 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "unread takes a partition, a response's bytes, and an end offset or None");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[1], &bytes, &size) < 0)
        return NULL;
    Reading all = {(const byte *)bytes, (const byte *)bytes + size};
    Reading from = all;
    Record record = {.offset = -1};
    uint64_t own_end = 0;
    while (next_record(&from, &record, &own_end))
        records++;
    if (from.at < from.end)
        return Py_NewRef(Py_None);
    long long end_offset = args[2] == Py_None ? (long long)own_end : PyLong_AsLongLong(args[2]);
    if (end_offset == -1 && PyErr_Occurred())
        return NULL;
    Unread *self = (Unread *)PyType_GenericAlloc(unread_type, 0);
    if (self == NULL)
        return NULL;
    self->at = Py_NewRef(args[0]);
    self->response = Py_NewRef(args[1]);
    self->from = all;
    self->left = records;
    self->size_bytes = size;
    self->end_offset = end_offset;
    self->after = record.offset + 1;
    return (PyObject *)self;
}

/* Take the next record out. False if there is none. */
static bool take_record(Unread *self, Record *record)
{
    uint64_t unused;
    if (self->left == 0 || !next_record(&self->from, record, &unused))
        return false;
    self->left--;
    return true;
}

/* The offset of the next record, or the position behind the last one. */
static long long position_of(const Unread *self)
{
    Reading from = self->from;
    Record record;
    uint64_t unused;
    return self->left > 0 && next_record(&from, &record, &unused) ? record.offset : self->after;
}

static PyObject *optional_bytes(Span bytes)
{
    if (bytes.at == NULL)
        return Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize((const char *)bytes.at, bytes.size);
}

static PyObject *timestamp_of(Unread *self, const Record *record)
{
    if (self->stamp == NULL || self->stamped != record->timestamp) {
        Py_XDECREF(self->stamp);
        self->stamp = PyLong_FromLongLong(record->timestamp);
        self->stamped = record->timestamp;
    }
    return Py_XNewRef(self->stamp);
}

/* The next one as an object. */
static PyObject *next_object(PyObject *object)
{
    Unread *self = (Unread *)object;
    Record record;
    if (!take_record(self, &record))
        return NULL;
    PyObject *offset = PyLong_FromLongLong(record.offset), *timestamp = timestamp_of(self, &record);
    PyObject *key = optional_bytes(record.key), *value = optional_bytes(record.value);
    PyObject *made = NULL;
    if (offset != NULL && timestamp != NULL && key != NULL && value != NULL) {
        PyObject *topic = PyTuple_GetItem(self->at, 0), *partition = PyTuple_GetItem(self->at, 1);
        PyObject *fields = PyTuple_Pack(7, topic, partition, offset, timestamp, key, value, known.no_headers);
        if (fields != NULL)
            made = new_named_tuple(known.record, fields);
        Py_XDECREF(fields);
    }
    Py_XDECREF(offset);
    Py_XDECREF(timestamp);
    Py_XDECREF(key);
    Py_XDECREF(value);
    return made;
}

/* Takes the item over. False, with an exception, if there is none. */
static bool set(PyObject *list, Py_ssize_t position, PyObject *item)
{
    return item != NULL && PyList_SetItem(list, position, item) == 0;
}

enum { OFFSETS, TIMESTAMPS, KEYS, VALUES, HEADERS, COLUMNS };

/* Fill them with so many records, or with what is left. False with an exception. */
static bool fill(Unread *self, PyObject *const *columns, Py_ssize_t count)
{
    Record record;
    Py_ssize_t i = 0;
    for (; i < count && take_record(self, &record); i++)
        if (!set(columns[OFFSETS], i, PyLong_FromLongLong(record.offset)) ||
            !set(columns[TIMESTAMPS], i, timestamp_of(self, &record)) ||
            !set(columns[KEYS], i, optional_bytes(record.key)) ||
            !set(columns[VALUES], i, optional_bytes(record.value)) ||
            !set(columns[HEADERS], i, Py_NewRef(known.no_headers)))
            return false;
    for (int column = 0; column < COLUMNS && i < count; column++)
        if (PyList_SetSlice(columns[column], i, count, NULL) < 0)
            return false;
    return true;
}

/* take(records_max): so many of them at once, or all. There may be fewer when the lists are made: Python's garbage
 * collector may run then, and with it any code, and the loop's thread, which may clear what is left. */
static PyObject *take(PyObject *object, PyObject *records_max)
{
    Unread *self = (Unread *)object;
    PyObject *columns[COLUMNS] = {NULL}, *result = NULL;
    Py_ssize_t count = self->left;
    bool whole = true;
    if (records_max != Py_None) {
        Py_ssize_t most = PyNumber_AsSsize_t(records_max, NULL); /* a larger number than there can be is as good */
        if (most < 0) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "records_max is None or at least 0");
            return NULL;
        }
        count = most < count ? most : count;
    }
    for (int i = 0; i < COLUMNS; i++)
        whole = (columns[i] = PyList_New(count)) != NULL && whole;
    if (whole && fill(self, columns, count))
        result = PyObject_CallFunctionObjArgs(known.record_columns, self->at, columns[OFFSETS], columns[TIMESTAMPS],
                                              columns[KEYS], columns[VALUES], columns[HEADERS], NULL);
    for (int i = 0; i < COLUMNS; i++)
        Py_XDECREF(columns[i]);
    return result;
}

static PyObject *position(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLongLong(position_of((Unread *)self));
}

/* clear(): leave nothing. The position stays. */
static PyObject *clear_all(PyObject *object, PyObject *unused)
{
    (void)unused;
    Unread *self = (Unread *)object;
    self->after = position_of(self);
    self->left = 0;
    return Py_NewRef(Py_None);
}

static PyObject *records(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(self);
}

static PyObject *headers(PyObject *self, void *closure)
{
    (void)self, (void)closure;
    return PyDict_New();
}

static Py_ssize_t length(PyObject *self)
{
    return ((Unread *)self)->left;
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Unread *self = (Unread *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->at);
    Py_VISIT(self->response);
    Py_VISIT(self->stamp);
    return 0;
}

static int clear_references(PyObject *object)
{
    Unread *self = (Unread *)object;
    self->left = 0; /* they are in the response */
    Py_CLEAR(self->at);
    Py_CLEAR(self->response);
    Py_CLEAR(self->stamp);
    return 0;
}

static void dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear_references(self);
    free_object(self);
}

static PyMethodDef methods[] = {
    {"take", take, METH_O, NULL},
    {"clear", clear_all, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"after", T_LONGLONG, offsetof(Unread, after), READONLY, NULL},
    {"end_offset", T_LONGLONG, offsetof(Unread, end_offset), READONLY, NULL},
    {"size_bytes", T_PYSSIZET, offsetof(Unread, size_bytes), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"position", position, NULL, NULL, NULL},
    {"records", records, NULL, NULL, NULL},
    {"headers", headers, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, traverse},   {Py_tp_clear, clear_references},
    {Py_tp_dealloc, dealloc},     {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, next_object},
    {Py_sq_length, length},       {Py_tp_methods, methods},        {Py_tp_members, members},
    {Py_tp_getset, properties},   {0, NULL},
};

PyType_Spec unread_spec = {"takhin.client._compiled.Unread", sizeof(Unread), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
