/* The table function takhin_headers(request, first_offset): the rows of `headers` that the headers of a
 * request's records become. request: the bytes of plain records (scan.c). */
#include "tables.h"

SQLITE_EXTENSION_INIT3

#define COLUMNS                                                                                               \
    "CREATE TABLE headers (offset INTEGER, position INTEGER, key TEXT, value BLOB, request HIDDEN, "           \
    "first_offset HIDDEN)"

enum { OFFSET, POSITION, KEY, VALUE, REQUEST };
enum { HIDDEN_COLUMNS = 2 };

/* kept: the bytes, where they would not stay by themselves. inner: what is left of the record at `offset`. */
typedef struct Cursor {
    sqlite3_vtab_cursor base;
    sqlite3_value *kept;
    Reading reading, inner;
    Header header;
    sqlite3_int64 offset, position;
    bool at_end;
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

/* Read the next header, of this record or of a later one. */
static int read_next(Cursor *cursor)
{
    Record record;
    while (!read_header(&cursor->inner, &cursor->header)) {
        cursor->at_end = cursor->reading.at == cursor->reading.end;
        if (cursor->at_end)
            return SQLITE_OK;
        if (*cursor->reading.at++ != TAG_RECORDS || !read_record(&cursor->reading, &record, INT64_MAX))
            return malformed(&cursor->base);
        cursor->offset = after(cursor->offset);
        cursor->position = -1;
        cursor->inner = record.has_headers ? headers_of(&record) : (Reading){NULL, NULL};
    }
    cursor->position++;
    return cursor->header.key.size == 0 ? malformed(&cursor->base) : SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int number, const char *name, int argc, sqlite3_value **argv)
{
    (void)number, (void)name, (void)argc;
    Cursor *cursor = (Cursor *)base;
    int rc = begin_reading(argv[0], &cursor->kept, &cursor->reading);
    if (rc != SQLITE_OK)
        return rc;
    cursor->inner = (Reading){NULL, NULL};
    cursor->offset = before(sqlite3_value_int64(argv[1]));
    return read_next(cursor);
}

static int next(sqlite3_vtab_cursor *base)
{
    return read_next((Cursor *)base);
}

static int at_end(sqlite3_vtab_cursor *base)
{
    return ((Cursor *)base)->at_end;
}

static int column(sqlite3_vtab_cursor *base, sqlite3_context *context, int number)
{
    const Cursor *cursor = (const Cursor *)base;
    Span key = cursor->header.key, value = cursor->header.value;
    switch (number) {
    case OFFSET:
        sqlite3_result_int64(context, cursor->offset);
        break;
    case POSITION:
        sqlite3_result_int64(context, cursor->position);
        break;
    case KEY:
        sqlite3_result_text64(context, (const char *)key.at, (sqlite3_uint64)key.size, SQLITE_STATIC,
                              SQLITE_UTF8);
        break;
    case VALUE:
        sqlite3_result_blob64(context, value.at, (sqlite3_uint64)value.size, SQLITE_STATIC);
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

int register_headers(sqlite3 *db)
{
    return sqlite3_create_module_v2(db, "takhin_headers", &MODULE, NULL, NULL);
}
