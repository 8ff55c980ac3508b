// Two processes, each with a database file of its own, in a conversation: what one writes the other shows.
//
//     SYNC_URL=... SYNC_TOKEN=... node demo.mjs
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const folder = mkdtempSync(join(tmpdir(), 'pg_sync_live.'))
const program = fileURLToPath(new URL('person.mjs', import.meta.url))

class Person {
  constructor(name) {
    this.name = name
    this.process = spawn(process.execPath, [program, join(folder, `${name}.db`), name], { stdio: ['pipe', 'pipe', 'inherit'] })
    this.said = []
    this.ended = new Promise((ended) => this.process.on('exit', ended))
    createInterface({ input: this.process.stdout }).on('line', (line) => {
      console.log(line)
      this.said.push(line)
      this.heard?.()
    })
  }

  type(line) {
    this.process.stdin.write(`${line}\n`)
  }

  /** Waits until the process has printed a line. */
  async prints(line) {
    const late = setTimeout(() => fail(`${this.name} did not print within 30 s: ${line}`), 30_000)
    while (!this.said.includes(line)) await new Promise((heard) => (this.heard = heard))
    clearTimeout(late)
  }

  async leave() {
    this.process.stdin.end()
    if ((await this.ended) !== 0) fail(`${this.name} ended with an error`)
  }
}

const [ann, ben] = [new Person('ann'), new Person('ben')]

function fail(why) {
  console.error(why)
  for (const person of [ann, ben]) person.process.kill()
  process.exit(1)
}

await Promise.all([ann.prints('ann is live'), ben.prints('ben is live')])
const waits = []
for (const [from, to, line] of [[ann, ben, 'shall I buy bread?'], [ben, ann, 'two, please'], [ann, ben, 'done']]) {
  const began = performance.now()
  from.type(line)
  await to.prints(`${to.name} sees: ${from.name}: ${line}`)
  waits.push(performance.now() - began)
}
await Promise.all([ann.leave(), ben.leave()])
rmSync(folder, { recursive: true })
console.log(`from typed here to seen there: ${waits.map((ms) => `${ms.toFixed(0)} ms`).join(', ')}`)
