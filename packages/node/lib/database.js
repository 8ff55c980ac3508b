import { EventEmitter } from 'node:events'
import { Backoff } from './backoff.js'
import { libraryPath, open, value } from './sqlite.js'
import { Refused, Transport, Unreachable } from './transport.js'
import { Watches } from './watching.js'

/** Opens a database file, and keeps it in step with the server. */
export async function connect(path, options) {
  const db = await open(path, options.library ?? libraryPath())
  return new Database(db, options)
}

/** A database file that is kept in step with the server in the background. To be made by `connect`. */
export class Database extends EventEmitter {
  #transport
  #watches
  #options
  #backoff
  #listenBackoff
  #version
  #running // The sync that is under way.
  #again = false // Something happened since it began.
  #notBefore = 0 // After a failure.
  #paused = false
  #closed = false
  #waking = new Set() // What ends the waits of `#sleep`.
  #poll
  #listening

  constructor(sqlite, { url, token, interval = 60_000, poll = 200, timeout = 60_000, backoff = () => new Backoff() }) {
    super()
    this.sqlite = sqlite
    this.status = { state: 'idle', error: null, syncedAt: null, live: false, waiting: 0, rejected: 0 }
    this.#options = { interval }
    this.#transport = new Transport(url, token, timeout)
    value(sqlite, 'SELECT pull_request()') // Makes the extension's tables.
    this.#watches = new Watches(sqlite, (error) => this.#report(error))
    ;[this.#backoff, this.#listenBackoff] = [backoff(), backoff()]
    this.#version = this.#dataVersion()
    this.#poll = setInterval(() => this.#look(), poll)
    this.#listening = this.#listen()
    this.#want()
  }

  /** All rows of a query, as objects. */
  all(sql, ...parameters) {
    return this.sqlite.prepare(sql).all(...parameters)
  }

  /** The first row of a query. */
  get(sql, ...parameters) {
    return this.sqlite.prepare(sql).get(...parameters)
  }

  /** Runs one statement that writes. It is sent as soon as it is committed. */
  run(sql, ...parameters) {
    const done = this.sqlite.prepare(sql).run(...parameters)
    this.#written()
    return done
  }

  /** Runs `work` in a transaction, which is applied on the server entirely or not at all. */
  transaction(work) {
    this.sqlite.exec('BEGIN IMMEDIATE')
    try {
      const answer = work(this)
      this.sqlite.exec('COMMIT')
      this.#written()
      return answer
    } catch (error) {
      if (this.#inTransaction()) this.sqlite.exec('ROLLBACK')
      throw error
    }
  }

  /** Gives the rows of a query to `each`: now, and whenever they have changed, here or on the server. Answers what ends that. */
  watch(sql, each, ...parameters) {
    return this.#watches.add(sql, parameters, each)
  }

  /** Syncs now, whatever is being waited for; throws what went wrong. */
  async sync() {
    if (this.#closed || this.#paused) throw new Error(`not synced: ${this.status.state}`)
    // One that is under way may have begun before the last write.
    await this.#running?.catch(() => {})
    await (this.#running ??= this.#once())
  }

  /** Asks nobody until `resume`, for instance where the system says that there is no network. Reads and writes go on. */
  pause() {
    this.#paused = true
    this.#transport.hangUp()
    this.#tell({ state: 'paused' })
  }

  /** Syncs at once, and goes on. */
  resume() {
    this.#paused = false
    this.#notBefore = 0
    this.#wake()
    this.#want()
  }

  /** Ends what runs in the background. What was not sent stays in the file for the next time. */
  async close() {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#poll)
    this.#transport.hangUp()
    this.#wake()
    await this.#running?.catch(() => {})
    await this.#listening
    this.#tell({ state: 'closed' })
    this.sqlite.close()
  }

  /** This connection has written: which tables is not known. */
  #written() {
    if (this.#inTransaction()) return
    this.#version = this.#dataVersion()
    this.#watches.changed(null)
    this.#want()
  }

  #inTransaction() {
    // better-sqlite3 and node:sqlite have names of their own for it.
    return this.sqlite.inTransaction ?? this.sqlite.isTransaction ?? false
  }

  #dataVersion() {
    const changes = value(this.sqlite, 'SELECT total_changes()')
    return `${value(this.sqlite, 'PRAGMA data_version')} ${changes}`
  }

  /** From time to time: has another connection written, or this one past `run`; is it time again? */
  #look() {
    if (this.#inTransaction() || this.#running) return
    if (this.#version !== this.#dataVersion()) this.#written()
    else if (this.#again || Date.now() - (this.status.syncedAt ?? 0) > this.#options.interval) this.#want()
  }

  /** Syncs when it may: not while paused, and not before the wait after a failure is over. */
  #want() {
    this.#again = true
    if (this.#running || this.#paused || this.#closed || Date.now() < this.#notBefore) return
    this.#running = this.#once()
    this.#running.catch(() => {})
  }

  async #once() {
    this.#again = false
    this.#tell({ state: 'syncing' })
    try {
      await this.#exchangeAll()
      this.#backoff.worked()
      this.#notBefore = 0
      this.#tell({ state: this.#paused ? 'paused' : 'idle', error: null, syncedAt: Date.now() })
    } catch (error) {
      this.#notBefore = Date.now() + this.#backoff.failed()
      this.#again = true
      const state = this.#paused ? 'paused' : error instanceof Unreachable ? 'offline' : 'refused'
      this.#tell({ state, error: error.message })
      throw error
    } finally {
      this.#running = undefined
    }
    if (this.#again) this.#want()
  }

  async #exchangeAll() {
    const going = () => !this.#closed && !this.#paused
    for (let batches; going() && (batches = value(this.sqlite, 'SELECT pending_ops()')); ) await this.#exchange('push', batches)
    while (going() && (await this.#exchange('pull', value(this.sqlite, 'SELECT pull_request()'))));
  }

  async #exchange(path, message) {
    const delta = await this.#transport.exchange(path, message)
    if (this.#closed) return false
    const answer = JSON.parse(value(this.sqlite, 'SELECT apply_delta(?)', delta))
    this.#version = this.#dataVersion()
    if (answer.tables.length) this.#watches.changed(answer.tables)
    return answer.more
  }

  async #listen() {
    while (!this.#closed) {
      try {
        if (!this.#paused) {
          for await (const _ of this.#transport.events()) {
            this.#listenBackoff.worked()
            this.#tell({ live: true })
            this.#want()
          }
        }
      } catch (error) {
        // A server without events: the interval has to do.
        if (error instanceof Refused && error.status === 404) break
      }
      this.#tell({ live: false })
      if (!this.#closed) await this.#sleep(this.#listenBackoff.failed())
    }
  }

  #sleep(milliseconds) {
    return new Promise((wake) => {
      const woken = () => {
        clearTimeout(timer)
        this.#waking.delete(woken)
        wake()
      }
      const timer = setTimeout(woken, milliseconds)
      this.#waking.add(woken)
    })
  }

  #wake() {
    for (const woken of [...this.#waking]) woken()
  }

  #tell(changes) {
    const counts = this.sqlite.prepare("SELECT name, value FROM sync_status WHERE name IN ('unsealed', 'waiting', 'rejected')")
    const { unsealed, waiting, rejected } = Object.fromEntries(counts.all().map(({ name, value }) => [name, value]))
    const status = { ...this.status, waiting: waiting + (unsealed > 0 ? 1 : 0), rejected, ...changes }
    if (JSON.stringify(status) === JSON.stringify(this.status)) return
    this.status = status
    this.emit('status', status)
  }

  /** An error of the application's own callback: nothing here waits for it. */
  #report(error) {
    if (this.listenerCount('error') > 0) this.emit('error', error)
    else console.error(error)
  }
}
