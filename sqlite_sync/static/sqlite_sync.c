/* Hands the extension the SQLite that this program links. A build without load_extension has no table of its routines to hand out, so
 * this is one: of those that the extension uses (sqlite_sync/src/host/mod.rs lists them), and no others. */
#define SQLITE_CORE 1 /* sqlite3ext.h is to declare the table, not to redefine every function through it. */
#include "sqlite_sync.h"

#include <sqlite3ext.h>

int sqlite3_sqlitesync_init(sqlite3 *db, char **error, const sqlite3_api_routines *routines);

#define ROUTINE(name) .name = sqlite3_##name

static const sqlite3_api_routines routines = {
    ROUTINE(bind_blob64),
    ROUTINE(bind_double),
    ROUTINE(bind_int64),
    ROUTINE(bind_null),
    ROUTINE(bind_text64),
    ROUTINE(changes),
    ROUTINE(clear_bindings),
    ROUTINE(column_blob),
    ROUTINE(column_bytes),
    ROUTINE(column_double),
    ROUTINE(column_int64),
    ROUTINE(column_text),
    ROUTINE(column_type),
    ROUTINE(context_db_handle),
    ROUTINE(create_function_v2),
    ROUTINE(db_config),
    ROUTINE(errmsg),
    ROUTINE(extended_errcode),
    ROUTINE(file_control),
    ROUTINE(finalize),
    ROUTINE(free),
    ROUTINE(get_autocommit),
    ROUTINE(libversion_number),
    ROUTINE(malloc64),
    ROUTINE(prepare_v3),
    ROUTINE(reset),
    ROUTINE(result_blob64),
    ROUTINE(result_error),
    ROUTINE(result_error_code),
    ROUTINE(result_int64),
    ROUTINE(result_null),
    ROUTINE(result_text),
    ROUTINE(step),
    ROUTINE(user_data),
    ROUTINE(value_blob),
    ROUTINE(value_bytes),
    ROUTINE(value_int64),
    ROUTINE(value_text),
    ROUTINE(value_type),
    ROUTINE(wal_checkpoint_v2),
};

int sqlite_sync_init(sqlite3 *db, char **error) {
    return sqlite3_sqlitesync_init(db, error, &routines);
}

/* As SQLite calls automatic extensions; what it passes as routines is NULL in a build without load_extension. */
static int each_connection(sqlite3 *db, char **error, const sqlite3_api_routines *unused) {
    (void)unused;
    return sqlite_sync_init(db, error);
}

int sqlite_sync_auto(void) {
    return sqlite3_auto_extension((void (*)(void))each_connection);
}
