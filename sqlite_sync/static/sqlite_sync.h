/* The device's extension, linked into a program: for systems that load no libraries (iOS), and for builds of SQLite without
 * load_extension. Compile sqlite_sync.c with the program, against the sqlite3ext.h of the SQLite that it links, and link
 * libsqlite_sync.a (./dev static), which contains no SQLite. */
#ifndef SQLITE_SYNC_H
#define SQLITE_SYNC_H

#include <sqlite3.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Registers the extension's functions on a connection, as loading it would. The error, if there is one, is to be freed with
 * sqlite3_free; `error` may be NULL. */
int sqlite_sync_init(sqlite3 *db, char **error);

/* Does so on each connection that is opened from now on. Apple's own SQLite does not take automatic extensions. */
int sqlite_sync_auto(void);

#ifdef __cplusplus
}
#endif

#endif
