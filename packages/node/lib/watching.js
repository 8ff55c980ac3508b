import { tablesOf } from './sqlite.js'

/** Queries that run again when the tables they read change. */
export class Watches {
  #all = new Set()

  constructor(db, failed) {
    Object.assign(this, { db, failed })
  }

  /** Gives the rows of a query to `each`: now, and whenever they have become others. Answers what ends that. */
  add(sql, parameters, each) {
    const watch = { sql, parameters, each, seen: undefined }
    this.#all.add(watch)
    this.#run(watch)
    return () => this.#all.delete(watch)
  }

  /** Runs those that read one of the tables; all where it is not known what changed. */
  changed(tables) {
    for (const watch of [...this.#all]) {
      try {
        if (!tables || this.#concerned(watch, tables)) this.#run(watch)
      } catch (error) {
        this.failed(error)
      }
    }
  }

  #run(watch) {
    let rows = []
    try {
      rows = this.db.prepare(watch.sql).all(...watch.parameters)
    } catch (error) {
      // Before the first sync the tables are not there.
      if (!/no such table/.test(error.message)) throw error
    }
    const seen = JSON.stringify(rows, (_, value) => (typeof value === 'bigint' ? `${value}n` : value))
    if (seen === watch.seen) return
    watch.seen = seen
    watch.each(rows)
  }

  #concerned(watch, tables) {
    try {
      // Asked each time: a changed schema or an index that was added changes the plan.
      const reads = tablesOf(this.db, watch.sql, watch.parameters)
      return !reads || tables.some((table) => reads.has(table))
    } catch {
      return true
    }
  }
}
