// Runs the checks that are named in the arguments (`file::name`), and reports each in one line of JSON.

import { appendFileSync } from 'node:fs'
import { inspect } from 'node:util'

import { checks, Client } from './harness.mjs'

const CHECK_SECONDS = 90

async function run({ shows, body }) {
  const client = new Client()
  const late = new Promise((_, reject) => setTimeout(reject, CHECK_SECONDS * 1000, new Error('too late')).unref())
  await Promise.race([body(client), late])
  const unused = shows.filter((name) => !client.used.has(name))
  if (unused.length) throw new Error(`the check says that it shows ${unused}, but did not use it`)
}

const nodes = process.argv.slice(2)
for (const file of new Set(nodes.map((node) => node.split('::')[0]))) {
  await import(new URL(file, import.meta.url))
}
for (const node of nodes) {
  let text = ''
  try {
    await run(checks.get(node.split('::')[1]))
  } catch (error) {
    text = inspect(error)
  }
  appendFileSync(process.env.CHECKS_REPORT, `${JSON.stringify({ check: node, passed: !text, text })}\n`)
}
process.exit(0)
