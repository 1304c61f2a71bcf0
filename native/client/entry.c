/* A record's place in a batch, and its outcome: takhin/client/producing/per_record.py. */
#include "client.h"

#include <stddef.h>

typedef struct Entry {
    PyObject_HEAD
    PyObject *batch;
    Py_ssize_t position;
} Entry;

PyTypeObject *entry_type, *outcome_type;

bool is_entry_type(PyObject *object)
{
    return PyType_Check(object) && PyType_IsSubtype((PyTypeObject *)object, entry_type);
}

/* type: one of entries. The new one has no place yet. */
PyObject *new_entry(PyTypeObject *type)
{
    return PyType_GenericAlloc(type, 0);
}

/* Give a new entry its place. */
void place_entry(PyObject *entry, PyObject *batch, Py_ssize_t position)
{
    Entry *self = (Entry *)entry;
    self->batch = Py_NewRef(batch);
    self->position = position;
}

/* The batch; NULL, with an exception, if it has none. */
static Batch *batch_of(PyObject *object)
{
    PyObject *batch = ((Entry *)object)->batch;
    if (is_a(batch, batch_type))
        return (Batch *)batch;
    PyErr_SetString(PyExc_AttributeError, "_batch");
    return NULL;
}

static PyObject *compare(PyObject *self, PyObject *other, int how)
{
    if (!is_a(other, entry_type) || (how != Py_EQ && how != Py_NE))
        return Py_NewRef(Py_NotImplemented);
    Entry *one = (Entry *)self, *two = (Entry *)other;
    bool same = one->batch == two->batch && one->position == two->position;
    return PyBool_FromLong(same == (how == Py_EQ));
}

static Py_hash_t hash(PyObject *object)
{
    Entry *self = (Entry *)object;
    size_t mixed = (size_t)self->batch / sizeof(Batch) * 1000003u ^ (size_t)self->position;
    return (Py_hash_t)(mixed & PY_SSIZE_T_MAX);
}

static PyObject *result(PyObject *object, PyObject *unused)
{
    (void)unused;
    Batch *batch = batch_of(object);
    if (batch == NULL)
        return NULL;
    if (!batch->done) {
        PyErr_SetString(known.invalid_state, "the record has no outcome yet");
        return NULL;
    }
    return metadata_of((PyObject *)batch, ((Entry *)object)->position);
}

/* The only argument, by its position or its name; NULL, with an exception, for any others. */
static PyObject *callback_in(PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_Size(names);
    if (count + named == 1 &&
        (named == 0 || PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "callback") == 0))
        return args[0];
    PyErr_SetString(PyExc_TypeError, "add_done_callback() takes one argument: 'callback'");
    return NULL;
}

static PyObject *add_done_callback(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *callback = callback_in(args, count, names);
    Batch *batch = callback == NULL ? NULL : batch_of(object);
    if (batch == NULL)
        return NULL;
    PyObject *position = PyLong_FromSsize_t(((Entry *)object)->position);
    bool added = position != NULL && batch->callbacks != NULL && PyList_Append(batch->callbacks, callback) == 0 &&
                 PyList_Append(batch->callbacks, position) == 0;
    Py_XDECREF(position);
    if (!added && !PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "callbacks");
    if (!added)
        return NULL;
    if (batch->done) /* looked at after it was added, so that `settle` cannot miss it */
        return PyObject_CallMethodObjArgs((PyObject *)batch, known.call_back_soon, NULL);
    return Py_NewRef(Py_None);
}

static int traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Entry *)self)->batch);
    return 0;
}

static int clear(PyObject *self)
{
    Py_CLEAR(((Entry *)self)->batch);
    return 0;
}

static void dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear(self);
    free_object(self);
}

static PyMemberDef members[] = {
    {"_batch", T_OBJECT_EX, offsetof(Entry, batch), 0, NULL},
    {"_position", T_PYSSIZET, offsetof(Entry, position), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(result_doc, "result($self)\n--\n\n"
                         "Where the record was stored; raises why it was not. Raises InvalidStateError before it is "
                         "done.");
PyDoc_STRVAR(add_done_callback_doc,
             "add_done_callback($self, callback)\n--\n\n"
             "Have the loop call `callback(delivery)` soon after it is done; `result` says how it ended.\n\n"
             "What the callback gets is equal to this delivery, and may be another object.");

/* What `copy` and `pickle` ask for: as of an object with slots. */
static PyObject *state(PyObject *object, PyObject *unused)
{
    (void)unused;
    Entry *self = (Entry *)object;
    if (self->batch == NULL)
        return Py_BuildValue("(O{sn})", Py_None, "_position", self->position);
    return Py_BuildValue("(O{sOsn})", Py_None, "_batch", self->batch, "_position", self->position);
}

static PyMethodDef entry_methods[] = {
    {"__getstate__", state, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef methods[] = {
    {"result", result, METH_NOARGS, result_doc},
    {"add_done_callback", (PyCFunction)(void (*)(void))add_done_callback, METH_FASTCALL | METH_KEYWORDS,
     add_done_callback_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot entry_slots[] = {
    {Py_tp_traverse, traverse}, {Py_tp_clear, clear},         {Py_tp_dealloc, dealloc}, {Py_tp_hash, hash},
    {Py_tp_members, members},   {Py_tp_methods, entry_methods}, {Py_tp_richcompare, compare}, {0, NULL},
};

PyType_Spec entry_spec = {"takhin.client._compiled.Entry", sizeof(Entry), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, entry_slots};

static PyType_Slot outcome_slots[] = {
    {Py_tp_traverse, traverse}, {Py_tp_clear, clear}, {Py_tp_dealloc, dealloc}, {Py_tp_methods, methods}, {0, NULL}};

PyType_Spec outcome_spec = {"takhin.client._compiled.Outcome", sizeof(Entry), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, outcome_slots};
