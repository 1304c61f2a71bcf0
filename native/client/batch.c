/* The part of a batch that each of its records needs: takhin/client/producing/per_record.py. */
#include "client.h"

#include <stddef.h>

PyTypeObject *batch_type;

/* What Python makes of it. */
static PyObject *outcome(PyObject *object, Py_ssize_t position)
{
    PyObject *number = PyLong_FromSsize_t(position);
    PyObject *found = number == NULL ? NULL : PyObject_CallMethodObjArgs(object, known.outcome, number, NULL);
    Py_XDECREF(number);
    return found;
}

/* Where the record at `position` was stored, or why it was not. If the batch was not stored together, Python knows. */
PyObject *metadata_of(PyObject *object, Py_ssize_t position)
{
    Batch *self = (Batch *)object;
    PyObject *first = self->first_offset, *at = self->at;
    if (first == NULL || !PyLong_CheckExact(first) || at == NULL || !PyTuple_Check(at) || PyTuple_Size(at) != 2)
        return outcome(object, position);
    long long offset = PyLong_AsLongLong(first);
    if (offset == -1 && PyErr_Occurred())
        return NULL;
    if (__builtin_add_overflow(offset, position, &offset)) /* no broker counts so far, whatever it said */
        return outcome(object, position);
    PyObject *number = PyLong_FromLongLong(offset), *made = NULL;
    if (number == NULL)
        return NULL;
    PyObject *fields = PyTuple_Pack(3, PyTuple_GetItem(at, 0), PyTuple_GetItem(at, 1), number);
    if (fields != NULL)
        made = new_named_tuple(known.record_metadata, fields);
    Py_XDECREF(fields);
    Py_DECREF(number);
    return made;
}

static PyObject *metadata(PyObject *self, PyObject *position)
{
    Py_ssize_t number = PyLong_AsSsize_t(position);
    return number == -1 && PyErr_Occurred() ? NULL : metadata_of(self, number);
}

/* Call a callback, in a context of its own, with an entry that is made for it. */
static bool call(PyObject *batch, PyTypeObject *type, PyObject *callback, PyObject *position)
{
    Py_ssize_t number = PyLong_AsSsize_t(position);
    PyObject *entry = number == -1 && PyErr_Occurred() ? NULL : new_entry(type);
    if (entry == NULL)
        return false;
    place_entry(entry, batch, number);
    PyObject *context = PyObject_CallNoArgs(known.copy_context), *result = NULL;
    if (context != NULL)
        result = PyObject_CallMethodObjArgs(context, known.run, callback, entry, NULL);
    Py_XDECREF(result);
    Py_XDECREF(context);
    Py_DECREF(entry);
    return result != NULL;
}

/* call_each(type of entries, iterator): of a callback, a position, and so on. */
static PyObject *call_each(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !is_entry_type(args[0]) || !PyIter_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "call_each takes a type of entries and an iterator");
        return NULL;
    }
    PyObject *callback;
    while ((callback = PyIter_Next(args[1])) != NULL) {
        PyObject *position = PyIter_Next(args[1]);
        bool called = position != NULL && call(self, (PyTypeObject *)args[0], callback, position);
        Py_XDECREF(position);
        Py_DECREF(callback);
        if (!called)
            break;
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Batch *self = (Batch *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->at);
    Py_VISIT(self->records);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->first_offset);
    return 0;
}

static int clear(PyObject *object)
{
    Batch *self = (Batch *)object;
    Py_CLEAR(self->at);
    Py_CLEAR(self->records);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->first_offset);
    return 0;
}

static void dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    free_object(self);
}

static PyMethodDef methods[] = {
    {"call_each", (PyCFunction)(void (*)(void))call_each, METH_FASTCALL, NULL},
    {"metadata", metadata, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"at", T_OBJECT_EX, offsetof(Batch, at), 0, NULL},
    {"records", T_OBJECT_EX, offsetof(Batch, records), 0, NULL},
    {"callbacks", T_OBJECT_EX, offsetof(Batch, callbacks), 0, NULL},
    {"first_offset", T_OBJECT_EX, offsetof(Batch, first_offset), 0, NULL},
    {"size_bytes", T_PYSSIZET, offsetof(Batch, size_bytes), 0, NULL},
    {"done", T_BOOL, offsetof(Batch, done), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_traverse, traverse}, {Py_tp_clear, clear},     {Py_tp_dealloc, dealloc},
    {Py_tp_methods, methods},   {Py_tp_members, members}, {0, NULL},
};

PyType_Spec batch_spec = {"takhin.client._compiled.Batch", sizeof(Batch), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};
