/* What the table functions have in common. */
#include "tables.h"

#include <string.h>

SQLITE_EXTENSION_INIT3

/* Ask for all arguments, in the order of their columns; there is no other way to read such a table. */
int best_index(sqlite3_index_info *info, int first_hidden, int hidden)
{
    unsigned given = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        int argument = info->aConstraint[i].iColumn - first_hidden;
        if (argument < 0 || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!info->aConstraint[i].usable)
            return SQLITE_CONSTRAINT;
        given |= 1u << argument;
        info->aConstraintUsage[i].argvIndex = argument + 1;
        info->aConstraintUsage[i].omit = 1;
    }
    info->estimatedCost = 1000;
    return given == (1u << hidden) - 1 ? SQLITE_OK : SQLITE_CONSTRAINT;
}

/* A table with these columns, of `size` bytes, the first of which are an sqlite3_vtab. No view and no trigger
 * of a file may use it. */
int declare(sqlite3 *db, const char *columns, size_t size, sqlite3_vtab **table)
{
    int rc = sqlite3_declare_vtab(db, columns);
    if (rc != SQLITE_OK)
        return rc;
    *table = sqlite3_malloc64(size);
    if (*table == NULL)
        return SQLITE_NOMEM;
    memset(*table, 0, size);
    return sqlite3_vtab_config(db, SQLITE_VTAB_DIRECTONLY);
}

/* The end of a table that holds nothing else. */
int free_table(sqlite3_vtab *table)
{
    sqlite3_free(table);
    return SQLITE_OK;
}

/* A cursor of `size` bytes, the first of which are an sqlite3_vtab_cursor; the others are zero. */
int new_cursor(size_t size, sqlite3_vtab_cursor **opened)
{
    *opened = sqlite3_malloc64(size);
    if (*opened == NULL)
        return SQLITE_NOMEM;
    memset(*opened, 0, size);
    return SQLITE_OK;
}

/* Read the bytes of an argument. Those of a bound parameter stay where they are while the statement runs, for it
 * cannot be bound to others before it is reset. All others may be gone at the next step: they are copied into
 * `kept`, which is to be freed. */
int begin_reading(sqlite3_value *bytes, sqlite3_value **kept, Reading *reading)
{
    sqlite3_value_free(*kept);
    *kept = NULL;
    if (!sqlite3_value_frombind(bytes)) {
        bytes = *kept = sqlite3_value_dup(bytes);
        if (bytes == NULL)
            return SQLITE_NOMEM;
    }
    const byte *at = sqlite3_value_blob(bytes);
    *reading = (Reading){at, at == NULL ? NULL : at + sqlite3_value_bytes(bytes)};
    return SQLITE_OK;
}

/* The error for bytes that takhin_scan would have declined: the caller has not asked it. */
int malformed(sqlite3_vtab_cursor *cursor)
{
    sqlite3_free(cursor->pVtab->zErrMsg);
    cursor->pVtab->zErrMsg = sqlite3_mprintf("takhin: the records are not plain");
    return SQLITE_MISMATCH; /* blames this batch alone: takhin/disk/faults.py */
}
