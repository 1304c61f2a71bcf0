/* Table functions with one set of hidden columns, all of which have to be given (sqlite.org/vtab.html). */
#ifndef TAKHIN_TABLES_H
#define TAKHIN_TABLES_H

#include "takhin.h"

int best_index(sqlite3_index_info *info, int first_hidden, int hidden);
int declare(sqlite3 *db, const char *columns, size_t size, sqlite3_vtab **table);
int free_table(sqlite3_vtab *table);
int new_cursor(size_t size, sqlite3_vtab_cursor **opened);
int begin_reading(sqlite3_value *bytes, sqlite3_value **kept, Reading *reading);
int malformed(sqlite3_vtab_cursor *cursor);

#endif
