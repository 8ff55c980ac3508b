import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** The extension: what SYNC_LIBRARY names, or the one inside this package. */
export function libraryPath() {
  const name = { darwin: 'libsqlite_sync.dylib', win32: 'sqlite_sync.dll' }[process.platform] ?? 'libsqlite_sync.so'
  return process.env.SYNC_LIBRARY || fileURLToPath(new URL(name, import.meta.url))
}

/** A connection with the extension loaded: better-sqlite3's where the application has it, or else node:sqlite's. */
export async function open(path, library) {
  if (!existsSync(library)) throw new Error(`the extension is not there: ${library}`)
  const db = await opened(path)
  db.loadExtension(library)
  db.exec('PRAGMA journal_mode = WAL')
  db.exec('PRAGMA synchronous = FULL')
  db.exec('PRAGMA busy_timeout = 30000')
  return db
}

async function opened(path) {
  const better = await import('better-sqlite3').catch(() => null)
  if (better) return new better.default(path)
  const builtIn = await import('node:sqlite').catch(() => null)
  if (!builtIn) throw new Error('install better-sqlite3, or use Node 22.13 or newer, which has node:sqlite')
  return new builtIn.DatabaseSync(path, { allowExtension: true })
}

/** The only value of a query. */
export function value(db, sql, ...parameters) {
  return Object.values(db.prepare(sql).get(...parameters))[0]
}

/** The tables that a query reads, through views too; null where that cannot be known (virtual tables).
 *
 * The plan of a query opens tables and indexes by their first page, and the schema says whose that is. */
export function tablesOf(db, sql, parameters) {
  const plan = db.prepare(`EXPLAIN ${sql}`).all(...parameters)
  if (plan.some((step) => step.opcode === 'VOpen')) return null
  const pages = plan.filter((step) => step.opcode === 'OpenRead' && step.p3 === 0).map((step) => step.p2)
  const owners = db.prepare(`SELECT tbl_name FROM main.sqlite_schema WHERE rootpage IN (${pages.map(() => '?')})`)
  return new Set(owners.all(...pages).map((row) => row.tbl_name))
}
