// One person at a list: prints it whenever it changes, and adds what is typed.
//
//     node person.mjs FILE NAME
import { createInterface } from 'node:readline'
import { connect } from '@pg-sync/client'

const [file, name] = process.argv.slice(2)
const db = await connect(file, { url: process.env.SYNC_URL, token: () => process.env.SYNC_TOKEN })
db.on('status', ({ state, live }) => live && state === 'idle' && console.log(`${name} is live`))

const seen = new Set()
db.watch('SELECT id, body FROM task', (rows) => {
  for (const { id, body } of rows.filter((row) => !seen.has(row.id))) {
    seen.add(id)
    console.log(`${name} sees: ${body}`)
  }
})

for await (const line of createInterface({ input: process.stdin })) {
  db.run('INSERT INTO task (list_id, body) SELECT id, ? FROM list', `${name}: ${line}`)
}
await db.sync()
await db.close()
