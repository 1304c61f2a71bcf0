/* The table function takhin_records(request, first_offset, now, restamp): the rows of `records` that records
 * of a request become. request: the bytes of plain ones (scan.c). now: ms since 1970, the timestamp of those
 * without one; restamp: of all. */
#include "tables.h"

SQLITE_EXTENSION_INIT3

#define COLUMNS                                                                                               \
    "CREATE TABLE records (offset INTEGER, timestamp INTEGER, key BLOB, value BLOB, request HIDDEN, "          \
    "first_offset HIDDEN, now HIDDEN, restamp HIDDEN)"

enum { OFFSET, TIMESTAMP, KEY, VALUE, REQUEST };
enum { HIDDEN_COLUMNS = 4 };

/* kept: the bytes, where they would not stay by themselves. */
typedef struct Cursor {
    sqlite3_vtab_cursor base;
    sqlite3_value *kept;
    Reading reading;
    Record record;
    sqlite3_int64 offset, now;
    bool restamp, at_end;
} Cursor;

static int connect(sqlite3 *db, void *data, int argc, const char *const *argv, sqlite3_vtab **table,
                   char **error)
{
    (void)data, (void)argc, (void)argv, (void)error;
    return declare(db, COLUMNS, sizeof(sqlite3_vtab), table);
}

static int choose(sqlite3_vtab *table, sqlite3_index_info *info)
{
    (void)table;
    return best_index(info, REQUEST, HIDDEN_COLUMNS);
}

static int open_cursor(sqlite3_vtab *table, sqlite3_vtab_cursor **opened)
{
    (void)table;
    return new_cursor(sizeof(Cursor), opened);
}

static int close_cursor(sqlite3_vtab_cursor *base)
{
    Cursor *cursor = (Cursor *)base;
    sqlite3_value_free(cursor->kept);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

/* Read the record at `offset`. */
static int read_next(Cursor *cursor)
{
    cursor->at_end = cursor->reading.at == cursor->reading.end;
    if (cursor->at_end)
        return SQLITE_OK;
    if (*cursor->reading.at++ != TAG_RECORDS || !read_record(&cursor->reading, &cursor->record, INT64_MAX))
        return malformed(&cursor->base);
    return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int number, const char *name, int argc, sqlite3_value **argv)
{
    (void)number, (void)name, (void)argc;
    Cursor *cursor = (Cursor *)base;
    int rc = begin_reading(argv[0], &cursor->kept, &cursor->reading);
    if (rc != SQLITE_OK)
        return rc;
    cursor->offset = sqlite3_value_int64(argv[1]);
    cursor->now = sqlite3_value_int64(argv[2]);
    cursor->restamp = sqlite3_value_int(argv[3]) != 0;
    return read_next(cursor);
}

static int next(sqlite3_vtab_cursor *base)
{
    Cursor *cursor = (Cursor *)base;
    cursor->offset = after(cursor->offset);
    return read_next(cursor);
}

static int at_end(sqlite3_vtab_cursor *base)
{
    return ((Cursor *)base)->at_end;
}

static void give_bytes(sqlite3_context *context, Span bytes)
{
    if (bytes.at == NULL)
        sqlite3_result_null(context);
    else
        sqlite3_result_blob64(context, bytes.at, (sqlite3_uint64)bytes.size, SQLITE_STATIC);
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int number)
{
    const Cursor *cursor = (const Cursor *)base;
    const Record *record = &cursor->record;
    switch (number) {
    case OFFSET:
        sqlite3_result_int64(context, cursor->offset);
        break;
    case TIMESTAMP:
        sqlite3_result_int64(context, cursor->restamp || record->timestamp == 0 ? cursor->now
                                                                                : record->timestamp);
        break;
    case KEY:
        give_bytes(context, record->key);
        break;
    case VALUE:
        give_bytes(context, record->value);
        break;
    default: /* an argument, which nobody selects */
        sqlite3_result_null(context);
    }
    return SQLITE_OK;
}

static int row_id(sqlite3_vtab_cursor *base, sqlite3_int64 *id)
{
    *id = ((Cursor *)base)->offset;
    return SQLITE_OK;
}

static const sqlite3_module MODULE = {
    .xConnect = connect,
    .xBestIndex = choose,
    .xDisconnect = free_table,
    .xOpen = open_cursor,
    .xClose = close_cursor,
    .xFilter = filter,
    .xNext = next,
    .xEof = at_end,
    .xColumn = column,
    .xRowid = row_id,
};

int register_records(sqlite3 *db)
{
    return sqlite3_create_module_v2(db, "takhin_records", &MODULE, NULL, NULL);
}
