/* A whole client in C: SQLite's own interface on the device, and no gateway: Postgres itself is asked, through libpq.
 *
 *     cc client.c -o client -lsqlite3 -lpq        (headers of libpq: pg_config --includedir)
 *     ./client phone.db laptop.db
 */
#include <libpq-fe.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#ifdef SYNC_LINKED /* the extension is in this program: see README.md */
#include "sqlite_sync.h"
#endif

static PGconn *postgres;

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static const char *env(const char *name) {
    const char *value = getenv(name);
    if (!value) die(name, "is not set");
    return value;
}

/* sync: begin */

static sqlite3 *open_device(const char *path) {
    sqlite3 *db;
    char *error = NULL;
    if (sqlite3_open(path, &db) != SQLITE_OK) die(path, sqlite3_errmsg(db));
#ifdef SYNC_LINKED
    if (sqlite_sync_init(db, &error) != SQLITE_OK) die("no extension", error);
#else
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(db, env("SYNC_LIBRARY"), NULL, &error) != SQLITE_OK) die("no extension", error);
#endif
    return db;
}

/* Prepares a statement with an optional blob, and answers it on its first row; NULL where the value in it is NULL. To be finalized. */
static sqlite3_stmt *value(sqlite3 *db, const char *sql, const void *blob, int size) {
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) die(sql, sqlite3_errmsg(db));
    if (blob) sqlite3_bind_blob(statement, 1, blob, size, SQLITE_STATIC);
    if (sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_type(statement, 0) != SQLITE_NULL) return statement;
    if (sqlite3_finalize(statement) != SQLITE_OK) die(sql, sqlite3_errmsg(db));
    return NULL;
}

static PGresult *query(const char *sql, const char *value, int size, int binary) {
    PGresult *result = PQexecParams(postgres, sql, value != NULL, NULL, &value, &size, &binary, 1);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) die(sql, PQerrorMessage(postgres));
    return result;
}

/* Calls sync.pull or sync.push as the token's user, and applies the answer. Answers whether there is more to come. */
static int exchange(sqlite3 *db, const char *begin, const char *call, sqlite3_stmt *message) {
    PQclear(query(begin, NULL, 0, 0));
    PQclear(query("SELECT sync.authenticate($1)", env("SYNC_TOKEN"), 0, 0));
    PGresult *answer = query(call, sqlite3_column_blob(message, 0), sqlite3_column_bytes(message, 0), 1);
    PQclear(query("COMMIT", NULL, 0, 0));
    sqlite3_finalize(message);
    sqlite3_stmt *more = value(db, "SELECT apply_delta(?) ->> 'more'", PQgetvalue(answer, 0, 0), PQgetlength(answer, 0, 0));
    int is_more = more && sqlite3_column_int(more, 0);
    sqlite3_finalize(more);
    PQclear(answer);
    return is_more;
}

static void sync_device(sqlite3 *db) {
    sqlite3_stmt *batches;
    while ((batches = value(db, "SELECT pending_ops()", NULL, 0))) exchange(db, "BEGIN", "SELECT sync.push($1)", batches);
    while (exchange(db, "BEGIN READ ONLY", "SELECT sync.pull($1)", value(db, "SELECT pull_request()", NULL, 0))) {}
}

/* sync: end */

static int print(void *unused, int columns, char **values, char **names) {
    (void)unused, (void)columns, (void)names;
    printf("  %s\n", values[0]);
    return 0;
}

static void run(sqlite3 *db, const char *sql) {
    char *error = NULL;
    if (sqlite3_exec(db, sql, print, NULL, &error) != SQLITE_OK) die(sql, error);
}

static void show(const char *title, sqlite3 *db) {
    puts(title);
    run(db, "SELECT iif(done, '[x] ', '[ ] ') || body FROM task");
    run(db, "SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason)"
            " FROM sync_conflicts");
    run(db, "SELECT format('refused: %s %s', code, message) FROM sync_rejected");
}

int main(int count, char **files) {
    if (count != 3) die("usage", "client phone.db laptop.db");
    postgres = PQconnectdb("");
    if (PQstatus(postgres) != CONNECTION_OK) die("no server", PQerrorMessage(postgres));
    sqlite3 *phone = open_device(files[1]), *laptop = open_device(files[2]);
    sync_device(phone);
    sync_device(laptop);
    show("after the first sync", phone);

    /* Nobody is asked: these are ordinary tables in a file. The server will refuse the last one. */
    run(phone, "INSERT INTO task (list_id, body) SELECT id, 'from c' FROM list");
    run(phone, "UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'");
    run(phone, "INSERT INTO task (list_id, body) SELECT id, '' FROM list");
    show("offline", phone);

    /* A moment later the same row changes elsewhere, and the later edit counts. */
    sqlite3_sleep(10);
    run(laptop, "UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'");
    sync_device(laptop);
    sync_device(phone);
    show("online again", phone);

    /* Without a gateway that tells of changes the phone asks from time to time. */
    run(laptop, "INSERT INTO task (list_id, body) SELECT id, 'live from c' FROM list");
    sync_device(laptop);
    sqlite3_stmt *there;
    while (!(there = value(phone, "SELECT id FROM task WHERE body LIKE 'live %'", NULL, 0))) {
        sqlite3_sleep(100);
        sync_device(phone);
    }
    sqlite3_finalize(there);
    show("live", phone);
    PQfinish(postgres);
    return sqlite3_close(phone) == SQLITE_OK && sqlite3_close(laptop) == SQLITE_OK ? 0 : 1;
}
