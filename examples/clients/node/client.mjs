// A whole client in Node: node:sqlite, or better-sqlite3 where Node is older, on the device, and fetch to the gateway.
//
//     node client.mjs phone.db laptop.db

// sync: begin

const { SYNC_LIBRARY, SYNC_URL, SYNC_TOKEN } = process.env

/** POST /sync/pull or /sync/push with a message, or GET /sync/events; bytes go there and come back. */
async function request(path, message) {
  const headers = { authorization: `Bearer ${SYNC_TOKEN}`, 'content-type': 'application/octet-stream' }
  const response = await fetch(`${SYNC_URL}/${path}`, { method: message ? 'POST' : 'GET', headers, body: message })
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
  return response
}

class Device {
  static async open(path) {
    const old = Number(process.versions.node.split('.')[0]) < 22
    const { DatabaseSync } = old ? {} : await import('node:sqlite').catch(() => ({}))
    const Sqlite = DatabaseSync ?? (await import('better-sqlite3')).default
    const device = new Device()
    device.db = new Sqlite(path, DatabaseSync ? { allowExtension: true } : {})
    device.db.loadExtension(SYNC_LIBRARY)
    return device
  }

  value(sql, ...parameters) {
    return Object.values(this.db.prepare(sql).get(...parameters))[0]
  }

  /** Sends a message and applies the answer. Answers whether there is more to come. */
  async exchange(path, message) {
    const answer = await (await request(path, message)).arrayBuffer()
    return this.value("SELECT apply_delta(?) ->> 'more'", Buffer.from(answer))
  }

  async sync() {
    for (let batches; (batches = this.value('SELECT pending_ops()')); ) await this.exchange('push', batches)
    while (await this.exchange('pull', this.value('SELECT pull_request()')));
  }

  /** Syncs now and whenever the server says that something has changed; yields after each time. */
  async *events() {
    const stream = await request('events')
    await this.sync()
    yield
    for await (const chunk of stream.body) {
      if (!/^data:/m.test(Buffer.from(chunk).toString())) continue
      await this.sync()
      yield
    }
  }
}

// sync: end

const SHOW = `
  SELECT iif(done, '[x] ', '[ ] ') || body AS line FROM task
  UNION ALL SELECT format('conflict: %s was %s, here %s, elsewhere %s: %s', column_name, base, mine, theirs, reason) FROM sync_conflicts
  UNION ALL SELECT format('refused: %s %s', code, message) FROM sync_rejected`

function show(title, device) {
  console.log(title)
  for (const { line } of device.db.prepare(SHOW).all()) console.log(`  ${line}`)
}

const [phone, laptop] = [await Device.open(process.argv[2]), await Device.open(process.argv[3])]
await phone.sync()
await laptop.sync()
show('after the first sync', phone)

// Nobody is asked: these are ordinary tables in a file. The server will refuse the last one.
phone.db.exec("INSERT INTO task (list_id, body) SELECT id, 'from node' FROM list")
phone.db.exec("UPDATE task SET body = 'Oat milk', done = 1 WHERE body = 'Milk'")
phone.db.exec("INSERT INTO task (list_id, body) SELECT id, '' FROM list")
show('offline', phone)

// A moment later the same row changes elsewhere, and the later edit counts.
await new Promise((later) => setTimeout(later, 10))
laptop.db.exec("UPDATE task SET body = 'Milk, 2 l' WHERE body = 'Milk'")
await laptop.sync()
await phone.sync()
show('online again', phone)

// Live: the phone waits, the laptop writes.
const events = phone.events()
await events.next()
laptop.db.exec("INSERT INTO task (list_id, body) SELECT id, 'live from node' FROM list")
await laptop.sync()
while (!phone.value("SELECT EXISTS (SELECT 1 FROM task WHERE body LIKE 'live %')")) await events.next()
await events.return()
show('live', phone)
phone.db.close()
laptop.db.close()
