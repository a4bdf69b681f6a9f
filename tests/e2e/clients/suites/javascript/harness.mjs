// What the checks are written with. A check gets the client behind a face that notes what is used of it; one that says
// it shows a method but did not use it fails.

import { randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'

// The modules of the environment under test lie elsewhere, where `import` does not look.
const require = createRequire(`${process.env.CLIENT_DIRECTORY}/package.json`)
const plain = require('e2b')
const interpreter = require('@e2b/code-interpreter')

// Instances and classes with these names are seen through a face; everything else is plain data.
const FACED = new Set([
  ...['Sandbox', 'Commands', 'Pty', 'Filesystem', 'Git', 'CommandHandle', 'WatchHandle', 'Volume', 'Secret'],
  ...['SandboxPaginator', 'SnapshotPaginator', 'SecretPaginator', 'Template', 'TemplateBase', 'E2B'],
])

/** All checks that have been declared, by name. */
export const checks = new Map()

/** Declare a check: its name, the methods that it proves, the first version that has them. All are literals. */
export function check(name, shows, { since = '2.31' }, body) {
  checks.set(name, { shows: shows.split(' ').filter(Boolean), since, body })
}

/** Wait until something is true. */
export async function eventually(condition, seconds = 60) {
  const end = Date.now() + seconds * 1000
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('it did not come true')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

// Bundlers put underscores before names and numbers behind.
function plainName(value) {
  const kind = typeof value === 'function' ? value : value?.constructor
  return kind?.name?.replace(/^_+|\d+$/g, '')
}

/** The client of this environment, with nothing used of it. */
export class Client {
  used = new Set()
  types = plain
  unique = randomUUID().replaceAll('-', '').slice(0, 12)

  get Sandbox() {
    return this.face(interpreter.Sandbox)
  }

  get Volume() {
    return this.face(plain.Volume)
  }

  get Secret() {
    return this.face(plain.Secret)
  }

  get Template() {
    return this.face(plain.Template, 'Template')
  }

  /** A face for a class or an object of the client. */
  face(subject, name = plainName(subject)) {
    return new Proxy(subject, {
      get: (target, key) => {
        const value = Reflect.get(target, key, target)
        if (typeof key !== 'string' || key === 'then') return value
        this.used.add(`${name}.${key}`)
        if (typeof value !== 'function' || key === 'constructor' || FACED.has(value.name)) return this.seen(value)
        return (...given) => this.answer(value.apply(target, given))
      },
      apply: (target, _, given) => this.seen(target(...given)),
    })
  }

  answer(value) {
    return value instanceof Promise ? value.then((result) => this.seen(result)) : this.seen(value)
  }

  seen(value) {
    if (Array.isArray(value)) return value.map((item) => this.seen(item))
    const name = plainName(value)
    return FACED.has(name) ? this.face(value, name === 'TemplateBase' ? 'Template' : name) : value
  }

  /** A sandbox for a piece of work, ended afterwards whatever has become of it. */
  async sandbox(work, template = 'base', wishes = {}) {
    const sandbox = await this.Sandbox.create(template, wishes)
    try {
      return await work(sandbox)
    } finally {
      await sandbox.kill()
    }
  }
}
