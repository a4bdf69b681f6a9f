// What outlives a sandbox: volumes and secrets.

import assert from 'node:assert/strict'

import { check } from './harness.mjs'

check(
  'volumes',
  'Volume.create Volume.connect Volume.list Volume.getInfo Volume.destroy Volume.volumeId Volume.name Volume.token',
  { since: '2.51' },
  async (client) => {
    const volume = await client.Volume.create(client.unique)
    assert.equal(volume.name, client.unique)
    assert.ok(volume.token)
    assert.ok((await client.Volume.list()).some((item) => item.volumeId === volume.volumeId))
    assert.equal((await client.Volume.connect(volume.volumeId)).name, client.unique)
    assert.equal((await client.Volume.getInfo(volume.volumeId)).name, client.unique)
    await client.sandbox(async ({ files }) => {
      await files.write('/data/f', 'inside', { user: 'root' })
      assert.equal(await volume.readFile('/f'), 'inside')
    }, 'base', { volumeMounts: { '/data': volume } })
    assert.ok(await client.Volume.destroy(volume.volumeId))
    assert.ok(!(await client.Volume.destroy(volume.volumeId)))
  },
)

check(
  'content of volumes',
  'Volume.writeFile Volume.readFile Volume.makeDir Volume.list Volume.exists Volume.getInfo Volume.updateMetadata Volume.remove',
  { since: '2.51' },
  async (client) => {
    const volume = await client.Volume.create(client.unique)
    await volume.writeFile('/f', 'text', { uid: 1000, gid: 1000, mode: 0o600 })
    assert.equal(await volume.readFile('/f'), 'text')
    await volume.makeDir('/d')
    assert.deepEqual((await volume.list('/')).map((entry) => entry.name).sort(), ['d', 'f'])
    assert.equal((await volume.getInfo('/f')).uid, 1000)
    assert.equal((await volume.updateMetadata('/f', { uid: 0 })).uid, 0)
    await volume.remove('/f')
    assert.ok(!(await volume.exists('/f')))
    await assert.rejects(volume.readFile('/f'), client.types.VolumePathNotFoundError)
    await client.Volume.destroy(volume.volumeId)
  },
)

check(
  'secrets',
  'Secret.create Secret.update Secret.getInfo Secret.list Secret.exists Secret.destroy Secret.fill Secret.iamToken',
  { since: '2.51' },
  async (client) => {
    const made = await client.Secret.create(client.unique, 'hidden', { metadata: { of: 'me' } })
    assert.ok(!JSON.stringify(made).includes('hidden'))
    await client.Secret.update(client.unique, 'other')
    assert.equal((await client.Secret.getInfo(client.unique)).name, client.unique)
    const paginator = client.Secret.list({ limit: 100 })
    assert.ok((await paginator.nextItems()).some((item) => item.name === client.unique))
    assert.ok(await client.Secret.exists(client.unique))
    assert.ok(await client.Secret.destroy(client.unique))
    assert.ok(!(await client.Secret.exists(client.unique)))
    assert.equal(client.Secret.fill('key'), '${e2b.secrets.key}')
    assert.ok(client.Secret.iamToken({ audience: 'a', tokenType: 'JWT-SVID' }))
  },
)

check(
  'snapshots and forks',
  'Sandbox.createSnapshot Sandbox.listSnapshots Sandbox.deleteSnapshot Sandbox.fork',
  { since: '2.51' },
  async (client) => {
    await client.sandbox(async (source) => {
      await source.files.write('notes', 'before')
      const snapshot = await source.createSnapshot({ name: client.unique })
      await source.files.write('notes', 'after')
      await client.sandbox(async ({ files }) => assert.equal(await files.read('notes'), 'before'), snapshot.snapshotId)
      const listed = await source.listSnapshots().nextItems()
      assert.deepEqual(listed.map((item) => item.snapshotId), [snapshot.snapshotId])
      const [fork] = await source.fork({ count: 1 })
      assert.equal(await fork.files.read('notes'), 'after')
      await fork.kill()
      assert.ok(await client.Sandbox.deleteSnapshot(snapshot.snapshotId))
      assert.ok(!(await client.Sandbox.deleteSnapshot(snapshot.snapshotId)))
    })
  },
)

check('network', 'Sandbox.updateNetwork Sandbox.create', { since: '2.51' }, async (client) => {
  const [near] = process.env.CHECKS_HOSTS.split(',')
  const script = `timeout 5 bash -c 'exec 3<>/dev/tcp/${near}/80 && head -1 <&3' 2>/dev/null || echo refused`
  await client.sandbox(async (sandbox) => {
    assert.equal((await sandbox.commands.run(script)).stdout, 'refused\n')
    await sandbox.updateNetwork({})
    assert.ok((await sandbox.commands.run(script)).stdout.startsWith(near))
  }, 'base', { network: { denyOut: [near] } })
})
