// The package against a gateway and a Postgres, which `./dev clients node-package` starts: SYNC_URL, SYNC_TOKEN, SYNC_LIBRARY.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Backoff, connect, Refused, Unreachable } from '@pg-sync/client'

const { SYNC_URL, SYNC_TOKEN } = process.env

async function until(holds, what, seconds = 20) {
  for (const end = Date.now() + seconds * 1000; !holds(); await sleep(20)) {
    assert.ok(Date.now() < end, `not within ${seconds} s: ${what}`)
  }
}

/** A way to the gateway that can be cut. */
async function network() {
  const target = new URL(SYNC_URL)
  const lines = new Set()
  const way = { cut: false }
  const server = net.createServer((device) => {
    device.on('error', () => {})
    if (way.cut) return device.destroy()
    const line = net.connect(target.port, target.hostname).on('error', () => {})
    for (const end of [device, line]) {
      lines.add(end)
      end.on('close', () => [device, line].forEach((other) => other.destroy()))
    }
    device.pipe(line).pipe(device)
  })
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening))
  server.unref()
  way.url = `http://127.0.0.1:${server.address().port}${target.pathname}`
  way.down = () => {
    way.cut = true
    lines.forEach((line) => line.destroy())
    lines.clear()
  }
  way.up = () => (way.cut = false)
  return way
}

/** A test with devices that are closed after it. */
function testing(name, run) {
  test(name, { timeout: 60_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'pg_sync_node.'))
    const open = []
    const device = async (file, options = {}) => {
      const quick = () => new Backoff({ first: 50, most: 200 })
      const db = await connect(join(folder, file), { url: SYNC_URL, token: () => SYNC_TOKEN, backoff: quick, ...options })
      open.push(db)
      return db
    }
    try {
      await run(device, folder)
    } finally {
      for (const db of open) await db.close()
      rmSync(folder, { recursive: true })
    }
  })
}

const add = (db, body) => db.run('INSERT INTO task (list_id, body) SELECT id, ? FROM list', body)
const count = (db, like) => db.get('SELECT count(*) AS n FROM task WHERE body LIKE ?', like).n

testing('what one device writes another shows at once', async (device) => {
  const [phone, laptop] = [await device('phone'), await device('laptop')]
  await phone.sync()
  await laptop.sync()
  const shown = []
  laptop.watch("SELECT body FROM task WHERE body LIKE 'live %'", (rows) => shown.push(rows.map((row) => row.body)))
  await until(() => laptop.status.live, 'the laptop listens')
  const began = Date.now()
  add(phone, 'live 1')
  await until(() => shown.length === 2, 'the row is told')
  // Not the interval of a minute.
  assert.ok(Date.now() - began < 5000)
  phone.run("DELETE FROM task WHERE body = 'live 1'")
  await until(() => shown.length === 3, 'its end is told')
  assert.deepEqual(shown, [[], ['live 1'], []])
})

testing('a watch runs again for its tables, and tells only what is new', async (device, folder) => {
  const db = await device('phone')
  await db.sync()
  const [seen, titles] = [[], []]
  const cancel = db.watch('SELECT count(*) AS n FROM task WHERE body LIKE ?', ([{ n }]) => seen.push(n), 'watched%')
  db.watch('SELECT title FROM list', ([{ title }]) => titles.push(title))
  add(db, 'watched')
  assert.deepEqual(seen, [0, 1])
  // Written past the package, by a connection without the extension.
  const other = new db.sqlite.constructor(join(folder, 'phone'))
  other.exec("DELETE FROM task WHERE body = 'watched'")
  other.close()
  await until(() => seen.length === 3, 'the delete is told')
  cancel()
  add(db, 'watched again')
  await db.sync()
  assert.deepEqual(seen, [0, 1, 0])
  assert.deepEqual(titles, ['Groceries'])
  db.run("DELETE FROM task WHERE body LIKE 'watched%'")
  await db.sync()
})

testing('offline writes are sent when the network is back', async (device) => {
  const way = await network()
  const [phone, laptop] = [await device('phone', { url: way.url }), await device('laptop')]
  await phone.sync()
  way.down()
  add(phone, 'offline')
  await until(() => phone.status.state === 'offline' && phone.status.waiting === 1 && !phone.status.live, 'it is noticed')
  await assert.rejects(phone.sync(), Unreachable)
  await laptop.sync()
  assert.equal(count(laptop, 'offline'), 0)
  way.up()
  await until(() => phone.status.state === 'idle' && phone.status.waiting === 0 && phone.status.live, 'it is sent without being asked to')
  await laptop.sync()
  assert.equal(count(laptop, 'offline'), 1)
  laptop.run("DELETE FROM task WHERE body = 'offline'")
  await laptop.sync()
})

testing('a token that is not taken is asked for anew, once', async (device) => {
  const given = []
  const token = async () => given[given.push(given.length ? SYNC_TOKEN : 'stale') - 1]
  const db = await device('phone', { token })
  await db.sync()
  await until(() => db.status.live, 'it listens')
  assert.deepEqual(given, ['stale', SYNC_TOKEN])
  assert.equal(db.get('SELECT title FROM list').title, 'Groceries')
  const refused = await device('laptop', { token: () => 'stale' })
  await assert.rejects(refused.sync(), (error) => error instanceof Refused && error.status === 401)
  assert.equal(refused.status.state, 'refused')
})

testing('what the server refuses is counted, and gone from the table', async (device) => {
  const db = await device('phone')
  await db.sync()
  const states = []
  db.on('status', ({ state }) => states.push(state))
  add(db, '')
  await until(() => db.status.rejected === 1 && db.status.state === 'idle', 'the refusal is told')
  assert.equal(db.get('SELECT code FROM sync_rejected').code, '23514')
  assert.equal(count(db, ''), 0)
  assert.ok(states.includes('syncing'))
})

testing('a paused device asks nobody and keeps what it has to send', async (device) => {
  const [phone, laptop] = [await device('phone'), await device('laptop')]
  await phone.sync()
  phone.pause()
  add(phone, 'paused')
  await assert.rejects(phone.sync(), /not synced: paused/)
  await sleep(500)
  assert.equal(phone.status.live, false)
  await laptop.sync()
  assert.equal(count(laptop, 'paused'), 0)
  await phone.close()
  // The file keeps it for the next time.
  const again = await device('phone')
  await again.sync()
  await laptop.sync()
  assert.equal(count(laptop, 'paused'), 1)
  laptop.run("DELETE FROM task WHERE body = 'paused'")
  await laptop.sync()
})

testing('a transaction is sent whole, or not at all', async (device) => {
  const [phone, laptop] = [await device('phone'), await device('laptop')]
  await phone.sync()
  phone.transaction(() => [1, 2].forEach((n) => add(phone, `whole ${n}`)))
  await until(() => count(laptop, 'whole %') === 2, 'it arrives')
  const broken = () => {
    add(phone, 'whole 3')
    throw new Error('no')
  }
  assert.throws(() => phone.transaction(broken), /no/)
  assert.equal(count(phone, 'whole %'), 2)
  phone.run("DELETE FROM task WHERE body LIKE 'whole %'")
  await phone.sync()
})

test('waits double up to the most, and differ by chance', () => {
  const waits = (chance) => {
    const backoff = new Backoff({ first: 1, most: 8, chance: () => chance })
    return [1, 2, 3, 4, 5, 6].map(() => backoff.failed())
  }
  assert.deepEqual(waits(0), [0.5, 1, 2, 4, 4, 4])
  assert.deepEqual(waits(1), [1, 2, 4, 8, 8, 8])
})

test('an extension that is not there is said at once', async () => {
  await assert.rejects(connect(':memory:', { url: SYNC_URL, token: () => '', library: '/nowhere.so' }), /the extension is not there/)
})
