// The life of a sandbox.

import assert from 'node:assert/strict'

import { check, eventually } from './harness.mjs'

const UNKNOWN = 'i0000000000000000000'

check('create and kill', 'Sandbox.create Sandbox.kill Sandbox.isRunning Sandbox.sandboxId', {}, async (client) => {
  const sandbox = await client.Sandbox.create('base')
  assert.equal((await sandbox.commands.run('echo hi')).stdout, 'hi\n')
  assert.ok(await sandbox.isRunning())
  assert.ok(await sandbox.kill())
  assert.ok(!(await sandbox.isRunning()))
  assert.ok(!(await client.Sandbox.kill(sandbox.sandboxId)))
})

check('connect', 'Sandbox.connect Sandbox.getInfo Sandbox.getFullInfo Sandbox.sandboxDomain', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    await sandbox.files.write('mark', 'here')
    const again = await client.Sandbox.connect(sandbox.sandboxId)
    assert.equal(await again.files.read('mark'), 'here')
    const info = await client.Sandbox.getInfo(sandbox.sandboxId)
    assert.equal(info.sandboxId, sandbox.sandboxId)
    assert.equal(info.state, 'running')
    assert.equal(info.name, 'base')
    assert.equal((await client.Sandbox.getFullInfo(sandbox.sandboxId)).sandboxDomain, sandbox.sandboxDomain)
    assert.ok(info.endAt > info.startedAt)
  })
})

check('pause and resume', 'Sandbox.pause Sandbox.connect', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    await sandbox.files.write('mark', 'here')
    assert.ok(await sandbox.pause())
    assert.ok(!(await sandbox.pause()), 'it is paused already')
    assert.ok(!(await sandbox.isRunning()))
    await sandbox.connect()
    assert.equal(await sandbox.files.read('mark'), 'here')
  })
})

check('the older name of pause', 'Sandbox.betaPause', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    await sandbox.betaPause()
    assert.equal((await sandbox.getInfo()).state, 'paused')
  })
})

check('timeouts', 'Sandbox.setTimeout Sandbox.getInfo', {}, async (client) => {
  await client.sandbox(
    async (sandbox) => {
      await sandbox.setTimeout(1_000_000)
      const info = await sandbox.getInfo()
      assert.ok(info.endAt - info.startedAt > 900_000)
      await client.Sandbox.setTimeout(sandbox.sandboxId, 0)
      await eventually(async () => !(await sandbox.isRunning()))
    },
    'base',
    { timeoutMs: 100_000 },
  )
})

check('automatic pause and resume', 'Sandbox.create', {}, async (client) => {
  const lifecycle = { onTimeout: 'pause', autoResume: true }
  await client.sandbox(
    async (sandbox) => {
      await eventually(async () => (await sandbox.getInfo()).state === 'paused')
      assert.equal((await sandbox.commands.run('echo awake')).stdout, 'awake\n')
    },
    'base',
    { lifecycle, timeoutMs: 1000 },
  )
})

check('lists', 'Sandbox.list SandboxPaginator.hasNext SandboxPaginator.nextItems SandboxPaginator.nextToken', {}, async (client) => {
  const metadata = { 'a b&=%': client.unique, ü: '/?' }
  await client.sandbox((first) => client.sandbox(async (second) => {
    const paginator = client.Sandbox.list({ query: { metadata }, limit: 1 })
    assert.deepEqual((await paginator.nextItems()).map((item) => item.sandboxId), [second.sandboxId])
    assert.ok(paginator.hasNext)
    assert.ok(paginator.nextToken)
    assert.deepEqual((await paginator.nextItems()).map((item) => item.sandboxId), [first.sandboxId])
    assert.ok(!paginator.hasNext)
    await first.pause()
    const paused = client.Sandbox.list({ query: { metadata, state: ['paused'] } })
    assert.deepEqual((await paused.nextItems()).map((item) => item.sandboxId), [first.sandboxId])
  }, 'base', { metadata }), 'base', { metadata })
})

check('metrics', 'Sandbox.getMetrics', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    await eventually(async () => (await sandbox.getMetrics()).length > 0)
    const [metric] = await sandbox.getMetrics()
    assert.ok(metric.memUsed > 0 && metric.memUsed < metric.memTotal)
    assert.ok(metric.diskTotal > 0)
  })
})

check('environment variables', 'Sandbox.create', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    assert.equal((await sandbox.commands.run('echo $WHO')).stdout, 'agent\n')
  }, 'base', { envs: { WHO: 'agent' } })
})

check('ports and links', 'Sandbox.getHost Sandbox.downloadUrl Sandbox.uploadUrl Sandbox.getMcpUrl Sandbox.getMcpToken', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    const host = sandbox.getHost(8000)
    assert.ok(host.startsWith(`8000-${sandbox.sandboxId}.`))
    assert.equal(sandbox.getMcpUrl(), `https://${sandbox.getHost(50005)}/mcp`)
    await sandbox.files.write('/etc/mcp-gateway/.token', 't-1', { user: 'root' })
    assert.equal(await sandbox.getMcpToken(), 't-1')
    await sandbox.files.write('f', 'signed')
    const link = await sandbox.downloadUrl('f', { useSignatureExpiration: 60 })
    assert.equal(await (await fetch(link)).text(), 'signed')
    assert.equal((await fetch(link.replace('path=f', 'path=g'))).status, 401)
    const form = new FormData()
    form.append('file', new Blob(['up']), 'u')
    assert.equal((await fetch(await sandbox.uploadUrl('u'), { method: 'POST', body: form })).status, 200)
    assert.equal(await sandbox.files.read('u'), 'up')
  })
})

check('a port that asks for a token', 'Sandbox.trafficAccessToken Sandbox.create', { since: '2.51' }, async (client) => {
  await client.sandbox(
    async (sandbox) => {
      assert.ok(sandbox.trafficAccessToken)
      assert.equal((await sandbox.runCode('1 + 1')).text, '2')
    },
    'code-interpreter-v1',
    { network: { allowPublicTraffic: false } },
  )
})

check('nobody', 'Sandbox.kill Sandbox.setTimeout Sandbox.getInfo Sandbox.connect', {}, async (client) => {
  const { NotFoundError } = client.types
  assert.ok(!(await client.Sandbox.kill(UNKNOWN)))
  await assert.rejects(client.Sandbox.setTimeout(UNKNOWN, 1000), NotFoundError)
  await assert.rejects(client.Sandbox.getInfo(UNKNOWN), NotFoundError)
  await assert.rejects(client.Sandbox.connect(UNKNOWN), NotFoundError)
  await assert.rejects(client.Sandbox.create('no-such-template'), /404/)
})
