/* A record as bytes of a request: takhin/wire/requests.py, for one with a value, perhaps a key, and nothing else. */
#include "client.h"

#include <string.h>

static Py_ssize_t varint_size(size_t number)
{
    Py_ssize_t size = 1;
    while (number > 0x7f) {
        number >>= 7;
        size++;
    }
    return size;
}

static byte *put_head(byte *at, byte tag, size_t number)
{
    *at++ = tag;
    while (number > 0x7f) {
        *at++ = (byte)(number | 0x80);
        number >>= 7;
    }
    *at++ = (byte)number;
    return at;
}

static byte *put_field(byte *at, byte tag, PyObject *bytes)
{
    size_t size = (size_t)PyBytes_Size(bytes);
    at = put_head(at, tag, size);
    memcpy(at, PyBytes_AsString(bytes), size);
    return at + size;
}

/* key: NULL for none. Their sizes together are far below what a size can count. */
PyObject *encode_plain(PyObject *value, PyObject *key)
{
    Py_ssize_t size = 1 + varint_size((size_t)PyBytes_Size(value)) + PyBytes_Size(value);
    if (key != NULL)
        size += 1 + varint_size((size_t)PyBytes_Size(key)) + PyBytes_Size(key);
    PyObject *record = PyBytes_FromStringAndSize(NULL, 1 + varint_size((size_t)size) + size);
    if (record == NULL)
        return NULL;
    byte *at = put_head((byte *)PyBytes_AsString(record), TAG_RECORDS, (size_t)size);
    if (key != NULL)
        at = put_field(at, TAG_KEY, key);
    put_field(at, TAG_VALUE, value);
    return record;
}
