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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sqlite3ext.h>

#define TAKHIN_VERSION 4
#define EXPORTED __attribute__((visibility("default")))

typedef unsigned char byte;

/* Some bytes of a message. at is NULL where the field is absent. */
typedef struct Span {
    const byte *at;
    int64_t size;
} Span;

/* What is left to read of some bytes. */
typedef struct Reading {
    const byte *at;
    const byte *end;
} Reading;

/* Tags of the fields, one byte each: the number of the field and how it is encoded. */
enum {
    TAG_RECORDS = 0x32,           /* ProduceMessageRequest.records */
    TAG_KEY = 0x0a,               /* Record.key */
    TAG_VALUE = 0x12,             /* Record.value */
    TAG_HEADERS = 0x1a,           /* Record.headers */
    TAG_TIMESTAMP = 0x20,         /* Record.timestamp */
    TAG_OFFSET = 0x28,            /* Record.offset */
    TAG_PARTITION = 0x30,         /* Record.partition */
    TAG_HEADER_KEY = 0x0a,        /* RecordHeader.key */
    TAG_HEADER_VALUE = 0x12,      /* RecordHeader.value */
    TAG_RESPONSE_RECORDS = 0x22,  /* ConsumeMessagesResponse.records */
};

/* A record of a request. fields: all of it, in which headers_of begins to read. */
typedef struct Record {
    Span key, value;
    int64_t timestamp; /* 0 where it has none */
    bool has_headers;
    Span fields;
} Record;

typedef struct Header {
    Span key, value;
} Header;

/* The next number and the one before, also where that overflows. */
static inline int64_t after(int64_t number)
{
    return (int64_t)((uint64_t)number + 1);
}

static inline int64_t before(int64_t number)
{
    return (int64_t)((uint64_t)number - 1);
}

/* wire.c */
bool read_varint(Reading *from, uint64_t *number);
bool read_bytes(Reading *from, Span *bytes);
bool skip_field(Reading *from, byte tag);
bool read_record(Reading *from, Record *record, int64_t headers_max);
Reading headers_of(const Record *record);
bool read_header(Reading *from, Header *header);
bool is_utf8(Span text);
bool ends_in_zeros(Span key, Span value, int64_t zeros);

/* How much a header takes besides its key and value, and a record: takhin/sizes.py, rounded up. */
enum { HEADER_OVERHEAD_BYTES = 16, RECORD_OVERHEAD_BYTES = 32 };

/* records.c, headers.c, read.c: each table function is registered with a connection. */
int register_records(sqlite3 *db);
int register_headers(sqlite3 *db);
int register_read(sqlite3 *db);

#endif
