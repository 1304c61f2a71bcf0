/* What the files of Takhin's native library share.
 *
 * The library does two things without a Python object for every record: it brings the records of a produce
 * request into a partition's table, and it makes the bytes of a consume response of the table's rows. It runs
 * inside the SQLite that the broker uses, as an extension (sqlite.org/loadext.html). The functions of scan.c
 * and wal.c need no SQLite: they are called by themselves, through Python's ctypes. It knows no Python.
 *
 * The rule that keeps it small: it reads only what is written in the ordinary form, as every generated encoder
 * writes it. Whatever is not, or is rare, it declines, and Python with its protobuf does that request as it
 * does all requests where there is no such library. So there is no case that both judge differently.
 *
 * Nothing here keeps state between calls but the two statements that each connection has prepared (read.c).
 */
#ifndef TAKHIN_H
#define TAKHIN_H

#include <stddef.h>

#include <sqlite3ext.h>

#include "wire.h"

#define TAKHIN_VERSION 4
#define EXPORTED __attribute__((visibility("default")))

/* The next number and the one before, also where that overflows. */
static inline int64_t after(int64_t number)
{
    return (int64_t)((uint64_t)number + 1);
}

static inline int64_t before(int64_t number)
{
    return (int64_t)((uint64_t)number - 1);
}

/* How much a header takes besides its key and value, and a record: takhin/sizes.py, rounded up. */
enum { HEADER_OVERHEAD_BYTES = 16, RECORD_OVERHEAD_BYTES = 32 };

/* records.c, headers.c, read.c: each table function is registered with a connection. */
int register_records(sqlite3 *db);
int register_headers(sqlite3 *db);
int register_read(sqlite3 *db);

#endif
