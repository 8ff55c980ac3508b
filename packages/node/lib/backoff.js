/** Waits that double from `first` to `most` milliseconds; each is a random part of that, at least half: devices that lost the same
 * server should not come back to it all at once. */
export class Backoff {
  constructor({ first = 500, most = 60_000, chance = Math.random } = {}) {
    Object.assign(this, { first, most, chance, failures: 0 })
  }

  /** Counts a failure. Answers how many milliseconds to wait. */
  failed() {
    const longest = Math.min(this.most, this.first * 2 ** Math.min(this.failures, 30))
    this.failures += 1
    return longest * (0.5 + 0.5 * this.chance())
  }

  /** The next failure is a first one again. */
  worked() {
    this.failures = 0
  }
}
