/* What the files of the client's compiled part share.
 *
 * It does in C what Python does for each record, as far as the record is an ordinary one: takhin/client/compiled.py says what
 * is done where. Whatever is not ordinary it leaves to Python, so that there is no case that both judge differently.
 * It keeps to Python's limited API: what was built once serves every later Python. It holds the interpreter's lock.
 */
#ifndef TAKHIN_CLIENT_H
#define TAKHIN_CLIENT_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "../wire.h"

/* What is looked up once, when the module is imported. */
typedef struct Known {
    PyObject *record, *record_columns, *no_headers;
    PyObject *processed, *paused, *records; /* names of attributes */
} Known;

/* module.c */
extern Known known;
PyObject *new_named_tuple(PyObject *type, PyObject *fields);
void free_object(PyObject *self);

/* unread.c */
extern PyTypeObject *unread_type;
extern PyType_Spec unread_spec;
PyObject *unread(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* steps.c */
extern PyTypeObject *steps_type, *step_type;
extern PyType_Spec steps_spec, step_spec;

#endif
