/* Where SQLite begins with the library (sqlite.org/loadext.html). */
#include "takhin.h"

SQLITE_EXTENSION_INIT1

static int register_all(sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
    (void)error, (void)api;
    int rc = register_records(db);
    if (rc == SQLITE_OK)
        rc = register_headers(db);
    if (rc == SQLITE_OK)
        rc = register_read(db);
    return rc;
}

/* Give every connection of the process that is opened from now on the table functions. The one that the
 * library is loaded with is only the way in. */
EXPORTED int sqlite3_takhin_init(sqlite3 *db, char **error, const sqlite3_api_routines *api)
{
    SQLITE_EXTENSION_INIT2(api);
    (void)db, (void)error;
    int rc = sqlite3_auto_extension((void (*)(void))register_all);
    return rc == SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : rc;
}
