// An offline-first SQLite database that keeps itself in step with Postgres.
//
// - database.js: what an application uses; when to sync
// - transport.js: the requests; backoff.js: how long to wait after a failure
// - watching.js: queries that run again when their tables change
// - sqlite.js: a connection with the extension loaded, through node:sqlite or better-sqlite3
export { Backoff } from './backoff.js'
export { connect, Database } from './database.js'
export { libraryPath } from './sqlite.js'
export { Refused, Unreachable } from './transport.js'
