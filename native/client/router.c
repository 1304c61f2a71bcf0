/* The part of a router that puts a record into a queue: takhin/client/producing/per_record.py. */
#include "client.h"

#include <stddef.h>

typedef struct Router {
    PyObject_HEAD
    PyObject *queues, *encode;
    Py_ssize_t plain_bytes_max;
} Router;

PyTypeObject *router_type;

/* The record as bytes of a request. Whatever is not ordinary is encoded, or refused, in Python. */
static PyObject *encoded(Router *self, PyObject *value, PyObject *key, PyObject *headers, PyObject *timestamp)
{
    if (PyBytes_CheckExact(value) && timestamp == Py_None && headers == known.no_headers) {
        Py_ssize_t left = self->plain_bytes_max - PyBytes_Size(value);
        if (key == Py_None && left >= 0)
            return encode_plain(value, NULL);
        if (PyBytes_CheckExact(key) && left >= PyBytes_Size(key))
            return encode_plain(value, key);
    }
    PyObject *encode = Py_XNewRef(self->encode);
    if (encode == NULL) {
        PyErr_SetString(PyExc_AttributeError, "encode");
        return NULL;
    }
    PyObject *record = PyObject_CallFunctionObjArgs(encode, value, key, headers, timestamp, NULL);
    Py_DECREF(encode);
    if (record != NULL && !PyBytes_Check(record)) {
        PyErr_SetString(PyExc_TypeError, "a record is encoded as bytes");
        Py_CLEAR(record);
    }
    return record;
}

/* The queue of the only partition, or of a key; Python knows all others. */
static PyObject *queue_of(Router *self, PyObject *key, PyObject *partition)
{
    Py_ssize_t count = self->queues != NULL && PyTuple_CheckExact(self->queues) ? PyTuple_Size(self->queues) : 0;
    PyObject *found;
    if (partition == Py_None && count == 1)
        found = Py_XNewRef(PyTuple_GetItem(self->queues, 0));
    else if (partition == Py_None && count > 1 && PyBytes_CheckExact(key))
        found = Py_XNewRef(PyTuple_GetItem(self->queues, positive_hash(key) % count));
    else
        found = PyObject_CallMethodObjArgs((PyObject *)self, known.queue, key, partition, NULL);
    if (found != NULL && !is_a(found, queue_type)) {
        PyErr_SetString(PyExc_TypeError, "a router has queues");
        Py_CLEAR(found);
    }
    return found;
}

/* put(type of entries, value, key, headers, timestamp, partition) */
static PyObject *router_put(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Router *self = (Router *)object;
    if (count != 6 || !is_entry_type(args[0])) {
        PyErr_SetString(PyExc_TypeError, "put takes a type of entries and the arguments of send");
        return NULL;
    }
    PyObject *record = encoded(self, args[1], args[2], args[3], args[4]);
    PyObject *queue = record == NULL ? NULL : queue_of(self, args[2], args[5]);
    PyObject *entry = queue == NULL ? NULL : put(queue, record, (PyTypeObject *)args[0]);
    Py_XDECREF(queue);
    Py_XDECREF(record);
    return entry;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Router *)self)->queues);
    Py_VISIT(((Router *)self)->encode);
    return 0;
}

static int clear(PyObject *self)
{
    Py_CLEAR(((Router *)self)->queues);
    Py_CLEAR(((Router *)self)->encode);
    return 0;
}

static void dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    free_object(self);
}

static PyMethodDef methods[] = {
    {"put", (PyCFunction)(void (*)(void))router_put, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_queues", T_OBJECT_EX, offsetof(Router, queues), 0, NULL},
    {"encode", T_OBJECT_EX, offsetof(Router, encode), 0, NULL},
    {"_plain_bytes_max", T_PYSSIZET, offsetof(Router, plain_bytes_max), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, traverse}, {Py_tp_clear, clear},     {Py_tp_dealloc, dealloc},
    {Py_tp_methods, methods},   {Py_tp_members, members}, {0, NULL},
};

PyType_Spec router_spec = {"takhin.client._compiled.Router", sizeof(Router), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};
