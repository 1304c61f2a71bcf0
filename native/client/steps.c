/* Iterating over records one by one: takhin/client/consuming/iterating.py, where a generator does it.
 *
 * Each `__anext__` gives a step, which takes the next record when it is awaited, and not before: whoever gives it up
 * loses no record. If no record is at hand, the step awaits what the coroutine function `resume` finds.
 */
#include "client.h"

#include <stddef.h>

/* loaded: the Prefetched whose records are at hand; NULL or None if there is none. records: its iterator.
 * untimed: records until the next look at the clock. turn_ends: of monotonic().
 * owner: whose records they are while it is iterated: it must live as long. */
typedef struct Steps {
    PyObject_HEAD
    PyObject *resume, *monotonic, *loaded, *records, *owner;
    double turn_ends;
    Py_ssize_t untimed;
} Steps;

typedef struct Step {
    PyObject_HEAD
    Steps *of;
    PyObject *waiting; /* the coroutine of `resume` */
    bool over;
} Step;

PyTypeObject *steps_type, *step_type;

/* Records between two looks at the clock, which costs as much as a record. */
enum { UNTIMED_MAX = 8, OFFSET_FIELD = 2 };

static bool is_there(PyObject *object)
{
    return object != NULL && object != Py_None;
}

/* Take a record out; NULL if there is none, or with an exception. All before it are processed: it was asked for.
 * Both are held on to: whatever Python runs meanwhile may begin with others. */
static PyObject *take_next(Steps *self)
{
    if (!is_there(self->loaded) || self->records == NULL)
        return NULL;
    PyObject *loaded = Py_NewRef(self->loaded), *records = Py_NewRef(self->records);
    PyObject *record = PyIter_Next(records);
    PyObject *offset = record == NULL ? NULL : PyTuple_GetItem(record, OFFSET_FIELD);
    if (offset == NULL || PyObject_SetAttr(loaded, known.processed, offset) < 0)
        Py_CLEAR(record);
    Py_DECREF(records);
    Py_DECREF(loaded);
    return record;
}

/* True if the turn is not over yet. An exception may be set if it is False. */
static bool in_time(Steps *self)
{
    if (--self->untimed > 0)
        return true;
    PyObject *now = PyObject_CallNoArgs(self->monotonic);
    double seconds = now == NULL ? -1 : PyFloat_AsDouble(now);
    Py_XDECREF(now);
    self->untimed = UNTIMED_MAX;
    return !PyErr_Occurred() && seconds <= self->turn_ends;
}

/* The next record that is at hand; NULL if there is none, or with an exception. */
static PyObject *at_hand(Steps *self)
{
    if (!is_there(self->loaded) || self->monotonic == NULL)
        return NULL;
    PyObject *paused = PyObject_GetAttr(self->loaded, known.paused);
    int is_paused = paused == NULL ? -1 : PyObject_IsTrue(paused);
    Py_XDECREF(paused);
    return is_paused == 0 && in_time(self) ? take_next(self) : NULL;
}

/* begin(loaded, turn_ends): hand out the records of a Prefetched until then. The first one, or None. */
static PyObject *begin(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    Steps *self = (Steps *)object;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "begin takes what is loaded and when the turn ends");
        return NULL;
    }
    double turn_ends = PyFloat_AsDouble(args[1]);
    if (turn_ends == -1 && PyErr_Occurred())
        return NULL;
    PyObject *records = PyObject_GetAttr(args[0], known.records);
    if (records == NULL || !PyIter_Check(records)) {
        if (records != NULL)
            PyErr_SetString(PyExc_TypeError, "records is an iterator");
        Py_XDECREF(records);
        return NULL;
    }
    PyObject *loaded_before = self->loaded, *records_before = self->records;
    self->loaded = Py_NewRef(args[0]);
    self->records = records;
    self->turn_ends = turn_ends;
    self->untimed = 1;
    Py_XDECREF(loaded_before);
    Py_XDECREF(records_before);
    PyObject *record = take_next(self);
    return record == NULL && !PyErr_Occurred() ? Py_NewRef(Py_None) : record;
}

static PyObject *next_step(PyObject *self)
{
    Step *step = (Step *)PyType_GenericAlloc(step_type, 0);
    if (step != NULL)
        step->of = (Steps *)Py_NewRef(self);
    return (PyObject *)step;
}

static PyObject *same(PyObject *self)
{
    return Py_NewRef(self);
}

static PyObject *new_steps(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *resume, *monotonic;
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Steps takes no keywords");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "OO", &resume, &monotonic))
        return NULL;
    Steps *self = (Steps *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->resume = Py_NewRef(resume);
        self->monotonic = Py_NewRef(monotonic);
    }
    return (PyObject *)self;
}

static int traverse_steps(PyObject *object, visitproc visit, void *arg)
{
    Steps *self = (Steps *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->resume);
    Py_VISIT(self->monotonic);
    Py_VISIT(self->loaded);
    Py_VISIT(self->records);
    Py_VISIT(self->owner);
    return 0;
}

static int clear_steps(PyObject *object)
{
    Steps *self = (Steps *)object;
    Py_CLEAR(self->resume);
    Py_CLEAR(self->monotonic);
    Py_CLEAR(self->loaded);
    Py_CLEAR(self->records);
    Py_CLEAR(self->owner);
    return 0;
}

static void dealloc_steps(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear_steps(self);
    free_object(self);
}

/* Begin to wait. False, with an exception, if that cannot be: also of a step that was cleared as garbage. */
static bool begin_to_wait(Step *self)
{
    if (self->waiting == NULL && self->of != NULL && self->of->resume != NULL)
        self->waiting = PyObject_CallNoArgs(self->of->resume);
    else if (self->waiting == NULL)
        PyErr_SetString(PyExc_RuntimeError, "iterating is over");
    return self->waiting != NULL;
}

/* Go on with the step: with the record at hand, or with what `resume` finds. */
static PySendResult go_on(PyObject *object, PyObject *sent, PyObject **result)
{
    Step *self = (Step *)object;
    *result = NULL;
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited __anext__()/asend()");
        return PYGEN_ERROR;
    }
    if (self->waiting == NULL) {
        *result = self->of == NULL ? NULL : at_hand(self->of);
        if (*result != NULL || PyErr_Occurred()) {
            self->over = true;
            return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
        }
        if (!begin_to_wait(self))
            return PYGEN_ERROR;
    }
    PyObject *waiting = Py_NewRef(self->waiting);
    PySendResult how = PyIter_Send(waiting, sent, result);
    Py_DECREF(waiting);
    self->over = how != PYGEN_NEXT;
    return how;
}

/* What a generator's method returns. A StopIteration is made by a call: a record is a tuple. */
static PyObject *sent_on(PyObject *self, PyObject *sent)
{
    PyObject *result;
    if (go_on(self, sent, &result) == PYGEN_RETURN) {
        PyObject *stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
        Py_DECREF(result);
        if (stop != NULL)
            PyErr_SetObject(PyExc_StopIteration, stop);
        Py_XDECREF(stop);
        return NULL;
    }
    return result;
}

static PyObject *next_of_step(PyObject *self)
{
    return sent_on(self, Py_None);
}

/* throw(…): into the coroutine that waits. A step that has not begun has one that has not begun either. */
static PyObject *throw(PyObject *object, PyObject *args)
{
    Step *self = (Step *)object;
    if (self->over) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited __anext__()/asend()");
        return NULL;
    }
    if (!begin_to_wait(self))
        return NULL;
    PyObject *waiting = Py_NewRef(self->waiting);
    PyObject *method = PyObject_GetAttrString(waiting, "throw");
    PyObject *result = method == NULL ? NULL : PyObject_Call(method, args, NULL);
    Py_XDECREF(method);
    Py_DECREF(waiting);
    self->over = result == NULL;
    return result;
}

static PyObject *close_step(PyObject *object, PyObject *unused)
{
    (void)unused;
    Step *self = (Step *)object;
    bool waits = self->waiting != NULL && !self->over;
    self->over = true;
    if (!waits)
        return Py_NewRef(Py_None);
    PyObject *waiting = Py_NewRef(self->waiting);
    PyObject *result = PyObject_CallMethod(waiting, "close", NULL);
    Py_DECREF(waiting);
    return result;
}

static int traverse_step(PyObject *object, visitproc visit, void *arg)
{
    Step *self = (Step *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT((PyObject *)self->of);
    Py_VISIT(self->waiting);
    return 0;
}

static int clear_step(PyObject *object)
{
    Step *self = (Step *)object;
    Py_CLEAR(self->of);
    Py_CLEAR(self->waiting);
    return 0;
}

static void dealloc_step(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    clear_step(self);
    free_object(self);
}

static PyMethodDef steps_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))begin, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef steps_members[] = {
    {"loaded", T_OBJECT, offsetof(Steps, loaded), 0, NULL},
    {"owner", T_OBJECT, offsetof(Steps, owner), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot steps_slots[] = {
    {Py_tp_new, new_steps},         {Py_tp_traverse, traverse_steps}, {Py_tp_clear, clear_steps},
    {Py_tp_dealloc, dealloc_steps}, {Py_am_aiter, same},              {Py_am_anext, next_step},
    {Py_tp_methods, steps_methods}, {Py_tp_members, steps_members},   {0, NULL},
};

PyType_Spec steps_spec = {"takhin.client._compiled.Steps", sizeof(Steps), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                          steps_slots};

static PyMethodDef step_methods[] = {
    {"send", sent_on, METH_O, NULL},
    {"throw", throw, METH_VARARGS, NULL},
    {"close", close_step, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot step_slots[] = {
    {Py_tp_traverse, traverse_step}, {Py_tp_clear, clear_step}, {Py_tp_dealloc, dealloc_step},
    {Py_am_await, same},             {Py_am_send, go_on},       {Py_tp_iter, same},
    {Py_tp_iternext, next_of_step},  {Py_tp_methods, step_methods}, {0, NULL},
};

PyType_Spec step_spec = {"takhin.client._compiled.Step", sizeof(Step), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, step_slots};
