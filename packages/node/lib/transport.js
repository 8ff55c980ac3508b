/** There is no network, or no server at its end; later there may be. */
export class Unreachable extends Error {}

/** The server answered, and not with what was asked for. `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, message) {
    super(`HTTP ${status}: ${message}`)
    this.status = status
  }
}

/** The requests: bytes go to the gateway and come back. */
export class Transport {
  #token
  #listening

  constructor(url, ask, timeout) {
    Object.assign(this, { url: url.replace(/\/+$/, ''), ask, timeout })
  }

  /** What the server answers to a message. */
  async exchange(path, message) {
    const signal = AbortSignal.timeout(this.timeout)
    const answer = await this.#open(path, message, signal)
    return Buffer.from(await reached(answer.arrayBuffer()))
  }

  /** Yields once when the server is listened to, and again whenever it says that something has changed.
   *
   * A stream that stays silent for longer than 90 seconds is taken for dead: the gateway sends comments more often. */
  async *events() {
    const listening = (this.#listening = new AbortController())
    let silence
    const heard = () => {
      clearTimeout(silence)
      silence = setTimeout(() => listening.abort(), Math.max(this.timeout, 90_000))
      silence.unref()
    }
    try {
      heard()
      const stream = await this.#open('events', undefined, listening.signal)
      yield
      const text = new TextDecoder()
      let rest = ''
      for (const reader = stream.body.getReader(); ; ) {
        const { done, value } = await reached(reader.read())
        if (done) return
        heard()
        const lines = (rest + text.decode(value, { stream: true })).split('\n')
        rest = lines.pop()
        if (lines.some((line) => line.startsWith('data:'))) yield
      }
    } finally {
      clearTimeout(silence)
      listening.abort()
    }
  }

  /** Ends `events`. */
  hangUp() {
    this.#listening?.abort()
  }

  /** Opens a request; a token that is not taken any longer is asked for anew, once. */
  async #open(path, body, signal) {
    for (let last = false; ; last = true) {
      // A promise, so that two requests ask once.
      const asked = (this.#token ??= Promise.resolve().then(this.ask))
      const token = await asked.catch((error) => {
        this.#token = undefined
        throw error
      })
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/octet-stream' }
      const answer = await reached(fetch(`${this.url}/${path}`, { method: body ? 'POST' : 'GET', headers, body, signal }))
      if (answer.ok) return answer
      const why = await reached(answer.text())
      if (answer.status !== 401 || last) throw new Refused(answer.status, why.slice(0, 2000).trim())
      if (this.#token === asked) this.#token = undefined
    }
  }
}

async function reached(promise) {
  try {
    return await promise
  } catch (error) {
    throw new Unreachable(error.cause?.message ?? error.message, { cause: error })
  }
}
