/* The module takhin.client._compiled, and what it looks up once. */
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
    new_tuple = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    return (known.record = from_module("takhin.client.model", "Record")) != NULL &&
           (known.record_columns = from_module("takhin.client.record_batch", "RecordColumns")) != NULL &&
           (known.no_headers = PyTuple_New(0)) != NULL &&
           (known.processed = PyUnicode_InternFromString("processed")) != NULL &&
           (known.paused = PyUnicode_InternFromString("paused")) != NULL &&
           (known.records = PyUnicode_InternFromString("records")) != NULL;
}

static bool add_type(PyObject *module, PyTypeObject **type, PyType_Spec *spec)
{
    *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type != NULL && PyModule_AddType(module, *type) == 0;
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
    if (module != NULL && know_all() && add_type(module, &unread_type, &unread_spec) &&
        add_type(module, &steps_type, &steps_spec) && add_type(module, &step_type, &step_spec))
        return module;
    Py_XDECREF(module);
    return NULL;
}
