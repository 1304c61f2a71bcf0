/* What the files of the client's compiled part share.
 *
 * It does in C what Python does for each record, as far as the record is an ordinary one: takhin/client/compiled.py
 * says what is done where. Whatever is not ordinary it leaves to Python, so that there is no case that both judge
 * differently. It keeps to Python's limited API: what was built once serves every later Python. It holds the
 * interpreter's lock all the time.
 *
 * The objects of Python that it looks into have their types checked first, so that no mistake of ours is a crash.
 */
#ifndef TAKHIN_CLIENT_H
#define TAKHIN_CLIENT_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "../wire.h"

/* That of takhin/client/compiled.py: a module of another one is left over from another version of the package. */
enum { VERSION = 2 };

/* What is looked up once, when the module is imported. */
typedef struct Known {
    PyObject *record, *record_columns, *record_metadata, *no_headers, *copy_context, *invalid_state;
    PyObject *processed, *paused, *records; /* names of attributes */
    PyObject *begin_growing, *end_growing, *wake, *queue, *outcome, *call_back_soon, *run; /* of methods */
} Known;

/* module.c */
extern Known known;
PyObject *new_named_tuple(PyObject *type, PyObject *fields);
void free_object(PyObject *self);

static inline bool is_a(PyObject *object, PyTypeObject *type)
{
    return object != NULL && PyObject_TypeCheck(object, type);
}

/* unread.c */
extern PyTypeObject *unread_type;
extern PyType_Spec unread_spec;
PyObject *unread(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* steps.c */
extern PyTypeObject *steps_type, *step_type;
extern PyType_Spec steps_spec, step_spec;

/* encode.c, murmur2.c */
PyObject *encode_plain(PyObject *value, PyObject *key);
uint32_t positive_hash(PyObject *key);

/* batch.c: the part of a batch that changes with each record. */
typedef struct Batch {
    PyObject_HEAD
    PyObject *at, *records, *callbacks, *first_offset;
    Py_ssize_t size_bytes;
    char done;
} Batch;

extern PyTypeObject *batch_type;
extern PyType_Spec batch_spec;
PyObject *metadata_of(PyObject *batch, Py_ssize_t position);

/* entry.c */
extern PyTypeObject *entry_type, *outcome_type;
extern PyType_Spec entry_spec, outcome_spec;
bool is_entry_type(PyObject *object);
PyObject *new_entry(PyTypeObject *type);
void place_entry(PyObject *entry, PyObject *batch, Py_ssize_t position);

/* queue.c */
extern PyTypeObject *counted_type, *queue_type;
extern PyType_Spec counted_spec, queue_spec;
PyObject *put(PyObject *queue, PyObject *record, PyTypeObject *type);

/* router.c */
extern PyTypeObject *router_type;
extern PyType_Spec router_spec;

#endif
