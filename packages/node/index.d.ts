import { EventEmitter } from 'node:events'

/** How it stands. */
export interface Status {
  /** `idle`: everything is sent and received; `offline`: the server cannot be reached; `refused`: it answered with an error, see `error` */
  readonly state: 'idle' | 'syncing' | 'offline' | 'refused' | 'paused' | 'closed'
  /** What went wrong last, until a sync succeeds. */
  readonly error: string | null
  /** When a sync last succeeded, in milliseconds since 1970. */
  readonly syncedAt: number | null
  /** Whether the server tells of changes as they happen. */
  readonly live: boolean
  /** Transactions that wait to be sent. */
  readonly waiting: number
  /** Transactions that the server refused, and that nobody has dealt with: `SELECT * FROM sync_rejected`. */
  readonly rejected: number
}

export type Value = null | number | bigint | string | Uint8Array
export type Row = Record<string, Value>

export interface Options {
  /** Where the gateway takes requests: `https://api.example.com/sync`. */
  url: string
  /** The user's token. Called at first, and whenever the server does not take the last one any longer. */
  token: () => string | Promise<string>
  /** Milliseconds between syncs where no events come: 60,000. */
  interval?: number
  /** Milliseconds between looks for what other connections wrote: 200. */
  poll?: number
  /** Milliseconds for a request: 60,000. */
  timeout?: number
  /** How long to wait after failures. */
  backoff?: () => Backoff
  /** The extension, if not the one inside this package. */
  library?: string
}

/** Opens a database file, and keeps it in step with the server. */
export function connect(path: string, options: Options): Promise<Database>

export class Database extends EventEmitter {
  /** To be made by `connect`. */
  private constructor()
  /** The connection: better-sqlite3's or node:sqlite's. What is written through it is noticed within `poll`. */
  readonly sqlite: any
  readonly status: Status
  /** All rows of a query. */
  all<R = Row>(sql: string, ...parameters: Value[]): R[]
  /** The first row of a query. */
  get<R = Row>(sql: string, ...parameters: Value[]): R | undefined
  /** Runs one statement that writes. */
  run(sql: string, ...parameters: Value[]): { changes: number | bigint; lastInsertRowid: number | bigint }
  /** Runs `work` in a transaction, which is applied on the server entirely or not at all. `work` must not wait for anything. */
  transaction<T>(work: (db: Database) => T): T
  /** Gives the rows of a query to `each`: now, and whenever they have changed, here or on the server. Answers what ends that. */
  watch<R = Row>(sql: string, each: (rows: R[]) => void, ...parameters: Value[]): () => void
  /** Syncs now, whatever is being waited for; rejects with what went wrong. */
  sync(): Promise<void>
  /** Asks nobody until `resume`. Reads and writes go on. */
  pause(): void
  /** Syncs at once, and goes on. */
  resume(): void
  /** Ends what runs in the background. What was not sent stays in the file for the next time. */
  close(): Promise<void>
  on(event: 'status', listener: (status: Status) => void): this
  /** An error that a watch's callback threw; without a listener it is written to the console. */
  on(event: 'error', listener: (error: unknown) => void): this
}

/** Waits that double from `first` to `most` milliseconds; each is a random part of that, at least half. */
export class Backoff {
  constructor(options?: { first?: number; most?: number; chance?: () => number })
  failed(): number
  worked(): void
}

/** There is no network, or no server at its end. */
export class Unreachable extends Error {}
/** The server answered, and not with what was asked for. */
export class Refused extends Error {
  readonly status: number
}

/** Where the extension is. */
export function libraryPath(): string
