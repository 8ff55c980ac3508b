/* A program with the extension linked in: it works on each connection, and there is one SQLite in the program. */
#include "sqlite_sync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "does not hold: %s\n", what);
    exit(1);
}

static int is(sqlite3 *db, const char *sql, const char *expected) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) return 0;
    int same = sqlite3_step(statement) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(statement, 0), expected) == 0;
    return sqlite3_finalize(statement) == SQLITE_OK && same;
}

int main(int count, char **arguments) {
    sqlite3 *plain, *one, *two;
    char *error = NULL;
    check(count == 3, "it is told the version, and whether this SQLite loads extensions");
    check(sqlite3_open(":memory:", &plain) == SQLITE_OK, "a connection opens");
    check(!is(plain, "SELECT sync_version()", arguments[1]), "nothing is registered unasked");
    check(is(plain, "SELECT 1 - sqlite_compileoption_used('OMIT_LOAD_EXTENSION')", arguments[2]), "this is the SQLite that was meant");
    check(sqlite_sync_init(plain, &error) == SQLITE_OK, "the extension takes a connection");
    check(is(plain, "SELECT sync_version()", arguments[1]), "its functions are there");
    check(sqlite_sync_auto() == SQLITE_OK, "the extension is automatic");
    check(sqlite3_open(":memory:", &one) == SQLITE_OK && sqlite3_open(":memory:", &two) == SQLITE_OK, "connections open");
    check(is(one, "SELECT typeof(pull_request())", "blob") && is(two, "SELECT typeof(pull_request())", "blob"), "both can sync");
    check(is(one, "SELECT count(*) > 10 FROM sqlite_schema WHERE name LIKE 'sync_%'", "1"), "its tables are there");
    /* A second SQLite in the program would know nothing of this one's connections, nor free its memory. */
    check(sqlite3_close(plain) == SQLITE_OK && sqlite3_close(one) == SQLITE_OK && sqlite3_close(two) == SQLITE_OK, "they close");
    check(sqlite3_memory_used() < 100000, "what was taken was given back");
    printf("linked with SQLite %s\n", sqlite3_libversion());
    return 0;
}
