/* The module takhin.client._compiled, and what it looks up once: whoever imports it again gets the same classes. */
#include "client.h"

Known known;

static newfunc new_tuple;

/* A NamedTuple of a tuple of its fields, as tuple.__new__ makes it. */
PyObject *new_named_tuple(PyObject *type, PyObject *fields)
{
    PyObject *args = PyTuple_Pack(1, fields);
    if (args == NULL)
        return NULL;
    PyObject *made = new_tuple((PyTypeObject *)type, args, NULL);
    Py_DECREF(args);
    return made;
}

/* The end of an object that refers to nothing any more. */
void free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc give_back = (freefunc)PyType_GetSlot(type, Py_tp_free);
    give_back(self);
    Py_DECREF(type);
}

static PyObject *from_module(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return found;
}

static bool know_all(void)
{
    const struct {
        PyObject **object;
        const char *module, *name; /* module: NULL for the name itself */
    } wanted[] = {
        {&known.record, "takhin.client.model", "Record"},
        {&known.record_metadata, "takhin.client.model", "RecordMetadata"},
        {&known.record_columns, "takhin.client.record_batch", "RecordColumns"},
        {&known.copy_context, "contextvars", "copy_context"},
        {&known.invalid_state, "asyncio", "InvalidStateError"},
        {&known.processed, NULL, "processed"},
        {&known.paused, NULL, "paused"},
        {&known.records, NULL, "records"},
        {&known.begin_growing, NULL, "_begin_growing"},
        {&known.end_growing, NULL, "_end_growing"},
        {&known.wake, NULL, "_wake"},
        {&known.queue, NULL, "queue"},
        {&known.outcome, NULL, "outcome"},
        {&known.call_back_soon, NULL, "call_back_soon"},
        {&known.run, NULL, "run"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const char *module = wanted[i].module, *name = wanted[i].name;
        *wanted[i].object = module == NULL ? PyUnicode_InternFromString(name) : from_module(module, name);
        if (*wanted[i].object == NULL)
            return false;
    }
    new_tuple = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    known.no_headers = PyTuple_New(0);
    return known.no_headers != NULL;
}

/* base: NULL for none. */
static bool add_type(PyObject *module, PyTypeObject **type, PyType_Spec *spec, PyTypeObject *base)
{
    *type = (PyTypeObject *)PyType_FromSpecWithBases(spec, (PyObject *)base);
    return *type != NULL && PyModule_AddType(module, *type) == 0;
}

static bool add_types(PyObject *module)
{
    return add_type(module, &unread_type, &unread_spec, NULL) && add_type(module, &steps_type, &steps_spec, NULL) &&
           add_type(module, &step_type, &step_spec, NULL) && add_type(module, &counted_type, &counted_spec, NULL) &&
           add_type(module, &batch_type, &batch_spec, NULL) && add_type(module, &entry_type, &entry_spec, NULL) &&
           PyObject_SetAttrString((PyObject *)entry_type, "may_end_loop", Py_True) == 0 &&
           add_type(module, &outcome_type, &outcome_spec, entry_type) &&
           add_type(module, &queue_type, &queue_spec, NULL) && add_type(module, &router_type, &router_spec, NULL);
}

static PyMethodDef functions[] = {
    {"unread", (PyCFunction)(void (*)(void))unread, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "takhin.client._compiled", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit__compiled(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && know_all() && add_types(module) &&
        PyModule_AddIntConstant(module, "VERSION", VERSION) == 0 &&
        PyModule_AddObjectRef(module, "Record", known.record) == 0)
        return module;
    Py_XDECREF(module);
    return NULL;
}
