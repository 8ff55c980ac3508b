// A whole client in Node: node:sqlite, or better-sqlite3 where Node is older, on the device, and pg as the transport.
import pg from 'pg'

const { SYNC_DATABASE, SYNC_LIBRARY, SYNC_USER } = process.env
const claims = JSON.stringify({ sub: SYNC_USER, role: 'todo_user' })

const postgres = new pg.Client()
await postgres.connect()

// Calls sync.pull or sync.push as the user: what an HTTP server would do for a request whose token it has checked.
async function server(begin, name, message) {
  await postgres.query(begin)
  try {
    await postgres.query("SELECT set_config('request.jwt.claims', $1, true)", [claims])
    const { rows } = await postgres.query(`SELECT sync.${name}($1) AS answer`, [Buffer.from(message)])
    await postgres.query('COMMIT')
    return rows[0].answer
  } catch (error) {
    await postgres.query('ROLLBACK')
    throw error
  }
}

async function open(path, library) {
  const old = Number(process.versions.node.split('.')[0]) < 22
  const { DatabaseSync } = old ? {} : await import('node:sqlite').catch(() => ({}))
  const Sqlite = DatabaseSync ?? (await import('better-sqlite3')).default
  const db = new Sqlite(path, DatabaseSync ? { allowExtension: true } : {})
  db.loadExtension(library)
  return db
}

const db = await open(SYNC_DATABASE, SYNC_LIBRARY)
const value = (sql, ...parameters) => Object.values(db.prepare(sql).get(...parameters))[0]

async function sync() {
  for (let batches; (batches = value('SELECT pending_ops()')); ) {
    value('SELECT apply_delta(?)', await server('BEGIN', 'push', batches))
  }
  for (let more = true; more; ) {
    const delta = await server('BEGIN READ ONLY', 'pull', value('SELECT pull_request()'))
    more = JSON.parse(value('SELECT apply_delta(?)', delta)).more
  }
}

await sync()
db.exec("INSERT INTO task (list_id, body) SELECT id, 'from node' FROM list")
db.exec("UPDATE task SET done = 1 WHERE body = 'Milk'")
db.exec("INSERT INTO task (list_id, body) SELECT id, '' FROM list")
await sync()
for (const { body, done } of db.prepare('SELECT body, done FROM task ORDER BY body').all()) {
  console.log(`[${done ? 'x' : ' '}] ${body}`)
}
for (const { code, message } of db.prepare('SELECT code, message FROM sync_rejected').all()) {
  console.log(`refused: ${code} ${message}`)
}
db.close()
await postgres.end()
