// Commands, terminals, files, watching, git and code inside of a sandbox.

import assert from 'node:assert/strict'

import { check, eventually } from './harness.mjs'

check('output and exit code', 'Commands.run Sandbox.commands', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    const out = []
    const done = await sandbox.commands.run('echo out; echo err >&2; id -un; pwd', { onStdout: (data) => out.push(data) })
    assert.equal(done.stdout, 'out\nuser\n/home/user\n')
    assert.equal(out.join(''), done.stdout)
    assert.equal(done.stderr, 'err\n')
    const failed = await sandbox.commands.run('exit 7').catch((error) => error)
    assert.ok(failed instanceof client.types.CommandExitError)
    assert.equal(failed.exitCode, 7)
    const wishes = { user: 'root', cwd: '/tmp', envs: { A: '1' } }
    assert.equal((await sandbox.commands.run('id -un; pwd; echo $A', wishes)).stdout, 'root\n/tmp\n1\n')
    await assert.rejects(sandbox.commands.run('true', { cwd: '/nowhere' }), client.types.InvalidArgumentError)
    await assert.rejects(sandbox.commands.run('sleep 100', { timeoutMs: 500 }), client.types.TimeoutError)
  })
})

check(
  'background, list, kill, connect',
  'Commands.list Commands.kill Commands.connect Commands.sendStdin CommandHandle.wait CommandHandle.kill CommandHandle.pid CommandHandle.disconnect CommandHandle.stdout CommandHandle.stderr CommandHandle.exitCode CommandHandle.error',
  {},
  async (client) => {
    await client.sandbox(async (sandbox) => {
      const first = await sandbox.commands.run('sleep 1000', { background: true })
      const second = await sandbox.commands.run('sleep 1000', { background: true })
      const pids = (await sandbox.commands.list()).map((process) => process.pid)
      assert.ok(pids.includes(first.pid) && pids.includes(second.pid))
      assert.ok(await sandbox.commands.kill(first.pid))
      assert.ok(await second.kill())
      await assert.rejects(second.wait())
      const reading = await sandbox.commands.run('read a; echo $a; echo err >&2', { background: true, stdin: true })
      await reading.disconnect()
      const again = await sandbox.commands.connect(reading.pid)
      await sandbox.commands.sendStdin(again.pid, 'x\n')
      await again.wait()
      assert.deepEqual([again.stdout, again.stderr, again.exitCode], ['x\n', 'err\n', 0])
      assert.ok(!again.error)
      await eventually(async () => (await sandbox.commands.list()).length === 0)
      await assert.rejects(sandbox.commands.connect(999_999), client.types.NotFoundError)
    })
  },
)

check('end of stdin', 'Commands.closeStdin CommandHandle.sendStdin CommandHandle.closeStdin', { since: '2.51' }, async (client) => {
  await client.sandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('cat; echo end', { background: true, stdin: true })
    await handle.sendStdin('one ')
    await handle.closeStdin()
    assert.equal((await handle.wait()).stdout, 'one end\n')
    const other = await sandbox.commands.run('cat; echo end', { background: true, stdin: true })
    await sandbox.commands.closeStdin(other.pid)
    assert.equal((await other.wait()).stdout, 'end\n')
  })
})

check('terminals', 'Pty.create Pty.sendInput Pty.resize Pty.kill Pty.connect Sandbox.pty', {}, async (client) => {
  await client.sandbox(async (sandbox) => {
    let output = ''
    const onData = (data) => (output += Buffer.from(data).toString())
    const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData })
    await sandbox.pty.resize(terminal.pid, { cols: 101, rows: 33 })
    await terminal.disconnect()
    const again = await sandbox.pty.connect(terminal.pid, { onData })
    await sandbox.pty.sendInput(again.pid, new TextEncoder().encode('stty size; exit\n'))
    await again.wait()
    assert.ok(output.includes('33 101'), output)
    const other = await sandbox.pty.create({ cols: 80, rows: 24, onData })
    assert.ok(await sandbox.pty.kill(other.pid))
  })
})

check(
  'files',
  'Sandbox.files Filesystem.write Filesystem.read Filesystem.list Filesystem.exists Filesystem.getInfo Filesystem.makeDir Filesystem.rename Filesystem.remove',
  {},
  async (client) => {
    await client.sandbox(async ({ files }) => {
      const bytes = new Uint8Array(300_000).map((_, index) => index % 256)
      await files.write('notes/ä b.txt', 'grün')
      assert.equal(await files.read('notes/ä b.txt'), 'grün')
      await files.write('b', bytes.buffer)
      assert.deepEqual(Buffer.from(await files.read('b', { format: 'bytes' })), Buffer.from(bytes))
      await files.write('b', new Blob([bytes]).stream())
      assert.equal((await (await files.read('b', { format: 'blob' })).arrayBuffer()).byteLength, bytes.length)
      await files.write('empty', '')
      assert.equal(await files.read('empty'), '')
      const several = await files.write([{ path: 'd/x', data: '1' }, { path: 'd/y', data: '2' }])
      assert.deepEqual(several.map((entry) => entry.path), ['/home/user/d/x', '/home/user/d/y'])
      assert.deepEqual((await files.list('d')).map((entry) => entry.name), ['x', 'y'])
      const info = await files.getInfo('d/x')
      assert.deepEqual([info.type, info.size, info.owner], ['file', 1, 'user'])
      assert.ok(await files.makeDir('e/f'))
      assert.ok(!(await files.makeDir('e/f')))
      assert.equal((await files.rename('e/f', 'g')).path, '/home/user/g')
      await files.remove('g')
      assert.ok(!(await files.exists('g')))
      await assert.rejects(files.read('g'), client.types.NotFoundError)
      await assert.rejects(files.list('missing'), client.types.NotFoundError)
    })
  },
)

check('several files by their own name', 'Filesystem.writeFiles', { since: '2.51' }, async (client) => {
  await client.sandbox(async ({ files }) => {
    await files.writeFiles([{ path: 'd/x', data: '1' }, { path: 'd/y', data: '2' }])
    assert.equal(await files.read('d/y'), '2')
  })
})

check('watching', 'Filesystem.watchDir WatchHandle.stop', {}, async (client) => {
  await client.sandbox(async ({ files }) => {
    await files.makeDir('d/deep')
    const events = []
    const watch = await files.watchDir('d', (event) => events.push(`${event.name} ${event.type}`), { recursive: true })
    await files.write('d/deep/f', 'x')
    await eventually(() => events.includes('deep/f write'))
    assert.deepEqual(events, ['deep/f create', 'deep/f chmod', 'deep/f write'])
    await watch.stop()
    await assert.rejects(files.watchDir('missing', () => {}), client.types.NotFoundError)
  })
})

async function code(client) {
  await client.sandbox(async (sandbox) => {
    const out = []
    const done = await sandbox.runCode('print("out")\n6 * 7', { onStdout: (message) => out.push(message.line) })
    assert.equal(done.text, '42')
    assert.deepEqual([done.logs.stdout.join(''), out.join('')], ['out\n', 'out\n'])
    assert.equal((await sandbox.runCode('1 / 0')).error.name, 'ZeroDivisionError')
    const plot = 'import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title("T")\nplt.show()'
    const [figure] = (await sandbox.runCode(plot)).results
    assert.ok(figure.png)
    assert.equal(figure.chart.title, 'T')
    assert.deepEqual((await sandbox.runCode('[1, 2]', { language: 'js' })).results[0].json, [1, 2])
    await assert.rejects(sandbox.runCode('import time\ntime.sleep(100)', { timeoutMs: 1000 }), client.types.TimeoutError)
    assert.equal((await sandbox.runCode('"on"')).text, 'on')
  }, 'code-interpreter-v1')
}

async function contexts(client) {
  await client.sandbox(async (sandbox) => {
    const context = await sandbox.createCodeContext({ cwd: '/tmp' })
    await sandbox.runCode('x = 1', { context })
    assert.equal((await sandbox.runCode('import os\n(x, os.getcwd())', { context })).text, "(1, '/tmp')")
    assert.equal((await sandbox.runCode('x')).error.name, 'NameError')
    assert.equal((await sandbox.listCodeContexts()).at(-1).id, context.id)
    await sandbox.restartCodeContext(context)
    assert.equal((await sandbox.runCode('x', { context })).error.name, 'NameError')
    await sandbox.removeCodeContext(context)
    await assert.rejects(sandbox.runCode('1', { context }))
  }, 'code-interpreter-v1')
}

// Older clients reach the interpreter by its host name alone.
check('code', 'Sandbox.runCode', { since: '2.51' }, code)
check('code by host name', 'Sandbox.runCode', { way: 'domain' }, code)
check(
  'contexts',
  'Sandbox.createCodeContext Sandbox.listCodeContexts Sandbox.restartCodeContext Sandbox.removeCodeContext',
  { since: '2.51' },
  contexts,
)
check(
  'contexts by host name',
  'Sandbox.createCodeContext Sandbox.listCodeContexts Sandbox.restartCodeContext Sandbox.removeCodeContext',
  { way: 'domain' },
  contexts,
)

check(
  'git',
  'Sandbox.git Git.init Git.add Git.commit Git.status Git.branches Git.createBranch Git.checkoutBranch Git.deleteBranch Git.clone Git.push Git.pull Git.remoteAdd Git.remoteGet Git.configureUser Git.setConfig Git.getConfig Git.reset Git.restore Git.dangerouslyAuthenticate',
  {},
  async (client) => {
    await client.sandbox(async ({ git, files }) => {
      await git.configureUser('Me', 'me@example.com')
      await git.setConfig('core.editor', 'true')
      assert.equal(await git.getConfig('core.editor'), 'true')
      await git.init('repo', { initialBranch: 'main' })
      await files.write('repo/a', '1')
      await git.add('repo')
      await git.commit('repo', 'first')
      await git.createBranch('repo', 'other')
      await git.checkoutBranch('repo', 'main')
      await git.deleteBranch('repo', 'other')
      assert.deepEqual((await git.branches('repo')).branches, ['main'])
      await git.init('bare.git', { bare: true, initialBranch: 'main' })
      await git.remoteAdd('repo', 'origin', '/home/user/bare.git')
      assert.equal(await git.remoteGet('repo', 'origin'), '/home/user/bare.git')
      await git.push('repo', { remote: 'origin', branch: 'main' })
      await git.clone('/home/user/bare.git', { path: 'copy' })
      await git.pull('copy')
      await files.write('repo/a', '2')
      await git.restore('repo', { paths: ['a'] })
      assert.equal(await files.read('repo/a'), '1')
      await git.reset('repo', { mode: 'hard', target: 'HEAD' })
      assert.equal((await git.status('repo')).currentBranch, 'main')
      await git.dangerouslyAuthenticate({ username: 'me', password: 'secret', host: 'git.example.com' })
    })
  },
)
