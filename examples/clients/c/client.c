/* A whole client in C: SQLite's own interface on the device, libpq as the transport.
 *
 *     cc client.c -o client -lsqlite3 -lpq        (headers of libpq: pg_config --includedir)
 */
#include <libpq-fe.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sqlite3 *db;
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

/* Runs a statement with an optional blob and answers its only value as a blob; NULL for NULL. To be freed. */
static unsigned char *device(const char *sql, const void *blob, int size, int *answer_size) {
    sqlite3_stmt *statement;
    unsigned char *answer = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK) die(sql, sqlite3_errmsg(db));
    if (blob) sqlite3_bind_blob(statement, 1, blob, size, SQLITE_STATIC);
    if (sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_type(statement, 0) != SQLITE_NULL) {
        const void *value = sqlite3_column_blob(statement, 0);
        *answer_size = sqlite3_column_bytes(statement, 0);
        answer = calloc(1, *answer_size + 1);
        if (!answer) die(sql, "out of memory");
        memcpy(answer, value, *answer_size);
    }
    if (sqlite3_finalize(statement) != SQLITE_OK) die(sql, sqlite3_errmsg(db));
    return answer;
}

static PGresult *query(const char *sql, const char *value, int size, int binary) {
    PGresult *result = PQexecParams(postgres, sql, value != NULL, NULL, &value, &size, &binary, 1);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) die(sql, PQerrorMessage(postgres));
    return result;
}

/* Calls sync.pull or sync.push as the user: what an HTTP server would do for a request whose token it has checked. Then hands the
 * answer to the device. Answers whether there is more. */
static int exchange(const char *begin, const char *call, unsigned char *message, int size) {
    char *claims = sqlite3_mprintf("{\"sub\": \"%s\", \"role\": \"todo_user\"}", env("SYNC_USER"));
    PQclear(query(begin, NULL, 0, 0));
    PQclear(query("SELECT set_config('request.jwt.claims', $1, true)", claims, 0, 0));
    PGresult *answer = query(call, (const char *)message, size, 1);
    PQclear(query("COMMIT", NULL, 0, 0));
    int more_size;
    unsigned char *more =
        device("SELECT apply_delta(?) ->> 'more'", PQgetvalue(answer, 0, 0), PQgetlength(answer, 0, 0), &more_size);
    int is_more = more && more[0] == '1';
    free(more);
    PQclear(answer);
    sqlite3_free(claims);
    free(message);
    return is_more;
}

static void sync_all(void) {
    unsigned char *message;
    int size;
    while ((message = device("SELECT pending_ops()", NULL, 0, &size))) exchange("BEGIN", "SELECT sync.push($1)", message, size);
    do {
        message = device("SELECT pull_request()", NULL, 0, &size);
    } while (exchange("BEGIN READ ONLY", "SELECT sync.pull($1)", message, size));
}

static int print(void *unused, int columns, char **values, char **names) {
    (void)unused, (void)columns, (void)names;
    puts(values[0]);
    return 0;
}

static void run(const char *sql) {
    char *error = NULL;
    if (sqlite3_exec(db, sql, print, NULL, &error) != SQLITE_OK) die(sql, error);
}

int main(void) {
    char *error = NULL;
    postgres = PQconnectdb("");
    if (PQstatus(postgres) != CONNECTION_OK) die("no server", PQerrorMessage(postgres));
    if (sqlite3_open(env("SYNC_DATABASE"), &db) != SQLITE_OK) die("no database", sqlite3_errmsg(db));
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(db, env("SYNC_LIBRARY"), NULL, &error) != SQLITE_OK) die("no extension", error);
    sync_all();
    run("INSERT INTO task (list_id, body) SELECT id, 'from c' FROM list");
    run("UPDATE task SET done = 1 WHERE body = 'Milk'");
    run("INSERT INTO task (list_id, body) SELECT id, '' FROM list");
    sync_all();
    run("SELECT iif(done, '[x] ', '[ ] ') || body FROM task ORDER BY body");
    run("SELECT 'refused: ' || code || ' ' || message FROM sync_rejected");
    PQfinish(postgres);
    return sqlite3_close(db) == SQLITE_OK ? 0 : 1;
}
