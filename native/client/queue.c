/* The part of a queue by which records are put into it: takhin/client/producing/per_record.py. */
#include "client.h"

#include <stddef.h>

/* A count of bytes, which all queues of a producer share. */
typedef struct Counted {
    PyObject_HEAD
    Py_ssize_t bytes;
} Counted;

typedef struct Queue {
    PyObject_HEAD
    PyObject *growing, *buffer;
    Py_ssize_t batch_bytes_max, batch_records_max;
    char awake;
} Queue;

PyTypeObject *queue_type, *counted_type;

/* takhin/client/producing/per_record.py */
enum { WAITING_RECORD_BYTES = 64 };

static bool call(Queue *self, PyObject *method, PyObject *arg)
{
    PyObject *result = PyObject_CallMethodObjArgs((PyObject *)self, method, arg, NULL);
    Py_XDECREF(result);
    return result != NULL;
}

/* The batch that has room for so many bytes; NULL with an exception. */
static Batch *batch_for(Queue *self, Py_ssize_t size, PyTypeObject *type)
{
    Batch *growing = is_a(self->growing, batch_type) ? (Batch *)self->growing : NULL;
    if (growing == NULL || growing->size_bytes > self->batch_bytes_max - size) {
        if (!call(self, known.begin_growing, (PyObject *)type))
            return NULL;
        growing = (Batch *)self->growing;
    }
    if (is_a((PyObject *)growing, batch_type) && is_a(self->buffer, counted_type) && growing->records != NULL)
        return growing;
    PyErr_SetString(PyExc_TypeError, "a queue has a growing batch and a buffer");
    return NULL;
}

/* Add a record to the growing batch. The entry that stands for it, of the type; NULL with an exception.
 *
 * The entry is made first: whenever something is made, Python's garbage collector may run, and with it any code. None
 * runs between the look at the batch and the record in it. */
PyObject *put(PyObject *object, PyObject *record, PyTypeObject *type)
{
    Queue *self = (Queue *)object;
    Py_ssize_t size = PyBytes_Size(record) + WAITING_RECORD_BYTES;
    PyObject *entry = new_entry(type);
    Batch *batch = entry == NULL ? NULL : batch_for(self, size, type);
    Py_ssize_t position = batch == NULL ? -1 : PyList_Size(batch->records);
    bool failed = position < 0 || PyList_Append(batch->records, record) < 0;
    if (!failed) {
        place_entry(entry, (PyObject *)batch, position);
        batch->size_bytes += size;
        ((Counted *)self->buffer)->bytes += size;
        failed = position + 1 >= self->batch_records_max && !call(self, known.end_growing, NULL);
    }
    if (!failed && !self->awake) {
        self->awake = 1;
        failed = !call(self, known.wake, NULL);
    }
    if (failed)
        Py_CLEAR(entry);
    return entry;
}

/* put(record, type of entries) */
static PyObject *queue_put(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count == 2 && PyBytes_Check(args[0]) && is_entry_type(args[1]))
        return put(self, args[0], (PyTypeObject *)args[1]);
    PyErr_SetString(PyExc_TypeError, "put takes the bytes of a record and a type of entries");
    return NULL;
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Queue *)self)->growing);
    Py_VISIT(((Queue *)self)->buffer);
    return 0;
}

static int clear(PyObject *self)
{
    Py_CLEAR(((Queue *)self)->growing);
    Py_CLEAR(((Queue *)self)->buffer);
    return 0;
}

static void dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    free_object(self);
}

static PyMemberDef counted_members[] = {
    {"bytes", T_PYSSIZET, offsetof(Counted, bytes), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot counted_slots[] = {
    {Py_tp_dealloc, free_object}, {Py_tp_members, counted_members}, {0, NULL}};

PyType_Spec counted_spec = {"takhin.client._compiled.Counted", sizeof(Counted), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, counted_slots};

static PyMethodDef methods[] = {
    {"put", (PyCFunction)(void (*)(void))queue_put, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_growing", T_OBJECT, offsetof(Queue, growing), 0, NULL},
    {"_buffer", T_OBJECT_EX, offsetof(Queue, buffer), 0, NULL},
    {"_batch_bytes_max", T_PYSSIZET, offsetof(Queue, batch_bytes_max), 0, NULL},
    {"_batch_records_max", T_PYSSIZET, offsetof(Queue, batch_records_max), 0, NULL},
    {"_awake", T_BOOL, offsetof(Queue, awake), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, traverse}, {Py_tp_clear, clear},     {Py_tp_dealloc, dealloc},
    {Py_tp_methods, methods},   {Py_tp_members, members}, {0, NULL},
};

PyType_Spec queue_spec = {"takhin.client._compiled.Queue", sizeof(Queue), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};
