// The types against a program that uses all of them: it must compile, each line below `@ts-expect-error` must not, and then it runs against
// a server. `./dev clients node-types`
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Backoff, connect, Database, libraryPath, Refused, Unreachable, type Options, type Row, type Status, type Value } from '@pg-sync/client'

interface Task {
  id: string
  body: string
  done: number
}

const url: string = process.env['SYNC_URL'] ?? ''
const options: Options = {
  url,
  token: async () => process.env['SYNC_TOKEN'] ?? '',
  interval: 30_000,
  poll: 100,
  timeout: 20_000,
  backoff: () => new Backoff({ first: 50, most: 200, chance: Math.random }),
  library: libraryPath(),
}

async function use(db: Database): Promise<number> {
  const told: Status[] = []
  db.on('status', (status) => told.push(status))
  db.on('error', (error) => console.error(error))
  await db.sync()
  const seen: Task[][] = []
  const stop: () => void = db.watch<Task>('SELECT id, body, done FROM task WHERE body LIKE ?', (rows) => seen.push(rows), 'typed %')
  const list = db.get<{ id: string }>('SELECT id FROM list')
  assert.ok(list)
  const { changes }: { changes: number | bigint } = db.run('INSERT INTO task (list_id, body) VALUES (?, ?)', list.id, 'typed one')
  const two: string = db.transaction((inside) => {
    inside.run('INSERT INTO task (list_id, body) SELECT ?, ?', list.id, 'typed two')
    return 'two'
  })
  await db.sync()
  stop()
  const bodies: string[] = db.all<Task>("SELECT * FROM task WHERE body LIKE 'typed %' ORDER BY body").map((task) => task.body)
  assert.deepEqual([changes, two, bodies], [1, 'two', ['typed one', 'typed two']])
  assert.equal(seen.at(-1)?.length, 2)
  const row: Row | undefined = db.get('SELECT count(*) AS n, NULL AS other FROM task')
  const n: Value | undefined = row?.['n']
  db.pause()
  db.resume()
  const { state, error, syncedAt, live, waiting, rejected }: Status = db.status
  const states: ('idle' | 'syncing' | 'offline' | 'refused' | 'paused' | 'closed')[] = [state]
  const rest: [string | null, number | null, boolean, number, number] = [error, syncedAt, live, waiting, rejected]
  assert.ok(states.length === 1 && rest.length === 5 && told.length > 0)
  return Number(n)
}

/** What must not compile. Nobody calls it. */
export async function wrong(db: Database): Promise<void> {
  // @ts-expect-error the token is missing
  await connect('app.db', { url })
  // @ts-expect-error a token is a text, or the promise of one
  await connect('app.db', { url, token: () => 1 })
  // @ts-expect-error there is no such option
  await connect('app.db', { url, token: () => '', retries: 3 })
  // @ts-expect-error connect answers a promise
  connect('app.db', options).all('SELECT 1')
  // @ts-expect-error only connect makes one
  new Database()
  // @ts-expect-error an object is no value of SQLite
  db.run('SELECT ?', { a: 1 })
  // @ts-expect-error a watch wants somebody to tell
  db.watch('SELECT 1')
  // @ts-expect-error the first row may be missing
  db.get<Task>('SELECT * FROM task').body
  // @ts-expect-error rows are what they are said to be
  db.all<Task>('SELECT * FROM task').map((task) => task.title)
  // @ts-expect-error there is no such state
  if (db.status.state === 'online') return
  // @ts-expect-error the status is for reading
  db.status.waiting = 0
  // @ts-expect-error there is no such event
  db.on('synced', (status: Status) => status.state)
}

function why(error: unknown): string {
  if (error instanceof Refused) return `${error.status satisfies number}: ${error.message}`
  return error instanceof Unreachable ? error.message : 'something else'
}

const folder = mkdtempSync(join(tmpdir(), 'pg_sync_types.'))
const db = await connect(join(folder, 'typed.db'), options)
const other = await connect(join(folder, 'other.db'), { ...options, token: () => 'nonsense' })
try {
  console.log(`${await use(db)} tasks`)
  const refused = await other.sync().catch(why)
  assert.match(String(refused), /^401: /)
} finally {
  await Promise.all([db.close(), other.close()])
  rmSync(folder, { recursive: true })
}
