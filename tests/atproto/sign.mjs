// Prints, as JSON, a token of each curve made by the AT Protocol's own packages, with the key's did:key and multibase form.
// node sign.mjs AUDIENCE METHOD [ISSUER]
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const packages = createRequire(join(process.env.SYNC_ATPROTO, 'package.json'))
const load = async (name) => import(pathToFileURL(packages.resolve(name)))
const { P256Keypair, Secp256k1Keypair } = await load('@atproto/crypto')
const { createServiceJwt } = await load('@atproto/xrpc-server')

const [aud, lxm, issuer] = process.argv.slice(2)
const made = []
for (const kind of [P256Keypair, Secp256k1Keypair]) {
  const keypair = await kind.create()
  const did = keypair.did()
  const token = await createServiceJwt({ iss: issuer ?? did, aud, lxm, keypair })
  made.push({ algorithm: keypair.jwtAlg, did, multikey: did.slice('did:key:'.length), token })
}
console.log(JSON.stringify(made))
