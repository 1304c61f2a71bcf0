/* The table function takhin_read(first, below, records_max, bytes_max, headers_max, partition, gaps_below,
 * record_zeros, header_zeros): one row with the records of [first, below) as a consume response has them.
 *
 * The limits are those of Reader.read (takhin/storage/sqlite/reader.py): all but the first record have to
 * fit. It ends before a record that is missing and should be there, as all do from `gaps_below` on. It ends, too,
 * before a record that it does not know: one that ends in many zeros (takhin/disk/zero_tails.py), or has what
 * no broker has written. If that is the first one, or there is none, it has no row, and Python does the read.
 * The bytes of each record are those of takhin/wire/encode.py. */
#include "buffer.h"
#include "tables.h"

#include <string.h>

SQLITE_EXTENSION_INIT3

#define COLUMNS                                                                                               \
    "CREATE TABLE responses (encoded BLOB, records INTEGER, size_bytes INTEGER, first_offset INTEGER, "        \
    "next_offset INTEGER, first HIDDEN, below HIDDEN, records_max HIDDEN, bytes_max HIDDEN, headers_max HIDDEN, partition HIDDEN, " \
    "gaps_below HIDDEN, record_zeros HIDDEN, header_zeros HIDDEN)"

/* Like READ and READ_HEADERS of takhin/disk/statements.py. */
#define RECORDS                                                                                               \
    "SELECT offset, timestamp, key, value FROM main.records WHERE offset >= ? AND offset < ? ORDER BY offset " \
    "LIMIT ?"
#define HEADERS                                                                                               \
    "SELECT offset, key, value FROM main.headers WHERE offset >= ? AND offset < ? ORDER BY offset, position"

enum { ENCODED, RECORD_COUNT, SIZE_BYTES, FIRST_OFFSET, NEXT_OFFSET, FIRST };
enum {
    ARG_FIRST,
    ARG_BELOW,
    ARG_RECORDS_MAX,
    ARG_BYTES_MAX,
    ARG_HEADERS_MAX,
    ARG_PARTITION,
    ARG_GAPS_BELOW,
    ARG_RECORD_ZEROS,
    ARG_HEADER_ZEROS,
    ARGUMENTS
};

/* What a step of the work has come to. ENDS: the response ends before the record at hand. */
typedef enum Outcome { GOES_ON, ENDS, FAILED } Outcome;

/* The statements of a connection, prepared by the first read. */
typedef struct Table {
    sqlite3_vtab base;
    sqlite3 *db;
    sqlite3_stmt *records, *headers;
    bool reading;
} Table;

/* encoded: the response so far. of_record: the headers of the record at hand, encoded.
 * size, header_count: of what is in the response, as Python counts it. */
typedef struct Cursor {
    sqlite3_vtab_cursor base;
    sqlite3_int64 arguments[ARGUMENTS];
    Buffer encoded, of_record;
    sqlite3_int64 count, size, header_count, first_offset, next_offset;
    bool header_waits; /* the headers' statement is at a row of a later record */
    bool has_row;
} Cursor;

static int connect(sqlite3 *db, void *data, int argc, const char *const *argv, sqlite3_vtab **made, char **error)
{
    (void)data, (void)argc, (void)argv, (void)error;
    int rc = declare(db, COLUMNS, sizeof(Table), made);
    if (rc == SQLITE_OK)
        ((Table *)*made)->db = db;
    return rc;
}

static int disconnect(sqlite3_vtab *base)
{
    Table *table = (Table *)base;
    sqlite3_finalize(table->records);
    sqlite3_finalize(table->headers);
    sqlite3_free(table);
    return SQLITE_OK;
}

static int choose(sqlite3_vtab *table, sqlite3_index_info *info)
{
    (void)table;
    info->estimatedRows = 1;
    return best_index(info, FIRST, ARGUMENTS);
}

static int open_cursor(sqlite3_vtab *table, sqlite3_vtab_cursor **opened)
{
    (void)table;
    return new_cursor(sizeof(Cursor), opened);
}

static int close_cursor(sqlite3_vtab_cursor *base)
{
    Cursor *cursor = (Cursor *)base;
    release(&cursor->encoded);
    release(&cursor->of_record);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

/* The bytes of a column's value of this type, absent if it is NULL; false if it is of another type. The value is
 * that of sqlite3_column_value: the statement that reads this table holds the connection's mutex, which
 * sqlite3_column_blob and its like would take once more for each question. */
static bool get_bytes(sqlite3_value *value, int type, Span *bytes)
{
    static const byte NOTHING[1] = {0};
    int found = sqlite3_value_type(value);
    *bytes = (Span){NULL, 0};
    if (found == SQLITE_NULL)
        return true;
    if (found != type)
        return false;
    const byte *at = type == SQLITE_TEXT ? sqlite3_value_text(value) : sqlite3_value_blob(value);
    int size = sqlite3_value_bytes(value);
    *bytes = at == NULL ? (Span){NOTHING, 0} : (Span){at, size};
    return at != NULL || size == 0; /* else there was no memory for it */
}

/* Encode the header at which the statement stands, behind those that the record has already. */
static Outcome take_header(Cursor *cursor, sqlite3_stmt *row, sqlite3_int64 *size)
{
    Span key, value;
    if (!get_bytes(sqlite3_column_value(row, 1), SQLITE_TEXT, &key) ||
        !get_bytes(sqlite3_column_value(row, 2), SQLITE_BLOB, &value))
        return ENDS;
    if (key.size == 0 || value.at == NULL || !is_utf8(key) || ends_in_zeros(key, value, cursor->arguments[ARG_HEADER_ZEROS]))
        return ENDS;
    *size += HEADER_OVERHEAD_BYTES + key.size + value.size;
    if (value.size == 0)
        value.at = NULL; /* as protobuf writes it */
    int64_t body = field_size(key) + field_size(value);
    if (!reserve(&cursor->of_record, 1 + varint_size((uint64_t)body) + body))
        return FAILED;
    put_number(&cursor->of_record, TAG_HEADERS, (uint64_t)body);
    put_bytes(&cursor->of_record, TAG_HEADER_KEY, key);
    put_bytes(&cursor->of_record, TAG_HEADER_VALUE, value);
    return GOES_ON;
}

/* Take the headers of the record at `offset` into of_record. size: of the record; grows by theirs. */
static Outcome take_headers(Table *table, Cursor *cursor, sqlite3_int64 offset, sqlite3_int64 *size,
                            sqlite3_int64 *count)
{
    cursor->of_record.size = 0;
    while (cursor->header_waits) {
        sqlite3_int64 of = sqlite3_column_int64(table->headers, 0);
        if (of > offset)
            return GOES_ON;
        if (of < offset) /* of a record that is not there */
            return ENDS;
        ++*count;
        if (cursor->count > 0 && (cursor->header_count + *count > cursor->arguments[ARG_HEADERS_MAX] ||
                                  cursor->size + *size > cursor->arguments[ARG_BYTES_MAX]))
            return ENDS;
        Outcome outcome = take_header(cursor, table->headers, size);
        if (outcome != GOES_ON)
            return outcome;
        int rc = sqlite3_step(table->headers);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return FAILED;
        cursor->header_waits = rc == SQLITE_ROW;
    }
    return GOES_ON;
}

/* Add the record at which the statement stands, if it is to be added. */
static Outcome take_record(Table *table, Cursor *cursor)
{
    sqlite3_stmt *row = table->records;
    const sqlite3_int64 *arguments = cursor->arguments;
    sqlite3_int64 offset = sqlite3_value_int64(sqlite3_column_value(row, 0));
    if (offset > cursor->next_offset && offset > arguments[ARG_GAPS_BELOW])
        return ENDS;
    Span key, value;
    sqlite3_value *stamp = sqlite3_column_value(row, 1);
    sqlite3_int64 timestamp = sqlite3_value_type(stamp) == SQLITE_INTEGER ? sqlite3_value_int64(stamp) : -1;
    if (!get_bytes(sqlite3_column_value(row, 2), SQLITE_BLOB, &key) ||
        !get_bytes(sqlite3_column_value(row, 3), SQLITE_BLOB, &value))
        return ENDS;
    if (timestamp < 0 || ends_in_zeros(key, value, arguments[ARG_RECORD_ZEROS]))
        return ENDS;
    sqlite3_int64 size = RECORD_OVERHEAD_BYTES + key.size + value.size, header_count = 0;
    if (cursor->count > 0 && cursor->size + size > arguments[ARG_BYTES_MAX])
        return ENDS;
    Outcome outcome = take_headers(table, cursor, offset, &size, &header_count);
    if (outcome != GOES_ON)
        return outcome;
    if (cursor->count > 0 && cursor->size + size > arguments[ARG_BYTES_MAX])
        return ENDS;
    int64_t body = field_size(key) + field_size(value) + 3 + varint_size((uint64_t)timestamp) +
                   varint_size((uint64_t)offset) + varint_size((uint64_t)arguments[ARG_PARTITION]) +
                   cursor->of_record.size;
    if (!reserve(&cursor->encoded, 1 + varint_size((uint64_t)body) + body))
        return FAILED;
    Buffer *encoded = &cursor->encoded;
    put_number(encoded, TAG_RESPONSE_RECORDS, (uint64_t)body);
    put_bytes(encoded, TAG_KEY, key);
    put_bytes(encoded, TAG_VALUE, value);
    put_number(encoded, TAG_TIMESTAMP, (uint64_t)timestamp);
    put_number(encoded, TAG_OFFSET, (uint64_t)offset);
    put_number(encoded, TAG_PARTITION, (uint64_t)arguments[ARG_PARTITION]);
    if (cursor->of_record.size > 0) {
        memcpy(encoded->bytes + encoded->size, cursor->of_record.bytes, (size_t)cursor->of_record.size);
        encoded->size += cursor->of_record.size;
    }
    if (cursor->count++ == 0)
        cursor->first_offset = offset;
    cursor->size += size;
    cursor->header_count += header_count;
    cursor->next_offset = after(offset);
    return GOES_ON;
}

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **statement)
{
    if (*statement != NULL)
        return SQLITE_OK;
    return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, NULL);
}

/* Run both statements, and set has_row if there is something to give. Returns an error's code. */
static int run(Table *table, Cursor *cursor)
{
    const sqlite3_int64 *arguments = cursor->arguments;
    sqlite3_bind_int64(table->headers, 1, arguments[ARG_FIRST]);
    sqlite3_bind_int64(table->headers, 2, arguments[ARG_BELOW]);
    sqlite3_bind_int64(table->records, 1, arguments[ARG_FIRST]);
    sqlite3_bind_int64(table->records, 2, arguments[ARG_BELOW]);
    sqlite3_bind_int64(table->records, 3, arguments[ARG_RECORDS_MAX]);
    int rc = sqlite3_step(table->headers);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return rc;
    cursor->header_waits = rc == SQLITE_ROW;
    Outcome outcome = GOES_ON;
    while (outcome == GOES_ON && (rc = sqlite3_step(table->records)) == SQLITE_ROW)
        outcome = take_record(table, cursor);
    if (outcome == GOES_ON && rc != SQLITE_DONE)
        return rc;
    if (outcome == FAILED) { /* by a statement, or else there was no memory for the response */
        rc = sqlite3_errcode(table->db);
        return rc == SQLITE_OK || rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_NOMEM : rc;
    }
    cursor->has_row = cursor->count > 0;
    return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int number, const char *name, int argc, sqlite3_value **argv)
{
    (void)number, (void)name, (void)argc;
    Cursor *cursor = (Cursor *)base;
    Table *table = (Table *)base->pVtab;
    for (int i = 0; i < ARGUMENTS; i++)
        cursor->arguments[i] = sqlite3_value_int64(argv[i]);
    if (cursor->arguments[ARG_RECORD_ZEROS] < 1 || cursor->arguments[ARG_HEADER_ZEROS] < 1 ||
        cursor->arguments[ARG_PARTITION] < 0 || table->reading)
        return SQLITE_MISUSE;
    cursor->encoded.size = cursor->of_record.size = 0;
    cursor->count = cursor->size = cursor->header_count = 0;
    cursor->next_offset = cursor->arguments[ARG_FIRST];
    cursor->has_row = false;
    int rc = prepare(table->db, RECORDS, &table->records);
    if (rc == SQLITE_OK)
        rc = prepare(table->db, HEADERS, &table->headers);
    if (rc != SQLITE_OK)
        return rc;
    table->reading = true;
    rc = run(table, cursor);
    table->reading = false;
    sqlite3_reset(table->records); /* else they would keep their view of the file */
    sqlite3_reset(table->headers);
    return rc;
}

static int next(sqlite3_vtab_cursor *base)
{
    ((Cursor *)base)->has_row = false;
    return SQLITE_OK;
}

static int at_end(sqlite3_vtab_cursor *base)
{
    return !((Cursor *)base)->has_row;
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int number)
{
    Cursor *cursor = (Cursor *)base;
    switch (number) {
    case ENCODED:
        sqlite3_result_blob64(context, cursor->encoded.bytes, (sqlite3_uint64)cursor->encoded.size,
                              SQLITE_STATIC);
        break;
    case RECORD_COUNT:
        sqlite3_result_int64(context, cursor->count);
        break;
    case SIZE_BYTES:
        sqlite3_result_int64(context, cursor->size);
        break;
    case FIRST_OFFSET:
        sqlite3_result_int64(context, cursor->first_offset);
        break;
    case NEXT_OFFSET:
        sqlite3_result_int64(context, cursor->next_offset);
        break;
    default: /* an argument, which nobody selects */
        sqlite3_result_null(context);
    }
    return SQLITE_OK;
}

static int row_id(sqlite3_vtab_cursor *base, sqlite3_int64 *id)
{
    (void)base;
    *id = 0;
    return SQLITE_OK;
}

static const sqlite3_module MODULE = {
    .xConnect = connect,
    .xBestIndex = choose,
    .xDisconnect = disconnect,
    .xOpen = open_cursor,
    .xClose = close_cursor,
    .xFilter = filter,
    .xNext = next,
    .xEof = at_end,
    .xColumn = column,
    .xRowid = row_id,
};

int register_read(sqlite3 *db)
{
    return sqlite3_create_module_v2(db, "takhin_read", &MODULE, NULL, NULL);
}
