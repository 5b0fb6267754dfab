/** PidFd: signals, the ends of children and of strangers, stops and continuations, and nothing stolen from libuv. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { release } from 'node:os';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type ChildStatus, closeFd, PidFd } from 'pagefault/kernel';
import { openFds, until } from '../helpers/descriptors.js';
import { isOrphanedGroup } from '../helpers/proc.js';

const TIMEOUT = { timeout: 60_000 };
const [major = 0, minor = 0] = release().split('.').map(Number);
const tellsExits = major > 6 || (major === 6 && minor >= 15);

const shell = (script: string): ChildProcess => spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
const open = (child: ChildProcess): PidFd => PidFd.open(child.pid ?? -1);

/** Without a turn of the event loop, so that libuv has reaped nothing. */
function waitHere(pidfd: PidFd): void {
  const deadline = Date.now() + 20_000;
  while (pidfd.isAlive()) assert.ok(Date.now() < deadline, 'it does not end');
}

const ends: [string, ChildStatus][] = [
  ['exit 0', { state: 'exited', code: 0 }],
  ['exit 42', { state: 'exited', code: 42 }],
  ['kill -TERM $$', { state: 'killed', signal: 'SIGTERM', coreDumped: false }],
  ['kill -KILL $$', { state: 'killed', signal: 'SIGKILL', coreDumped: false }],
];

for (const [script, expected] of ends) {
  test(
    `the end of "${script}" is told before libuv reaps it, is left to libuv, and is told again`,
    TIMEOUT,
    async () => {
      const child = shell(script);
      const pidfd = open(child);
      waitHere(pidfd);
      assert.deepEqual(pidfd.poll(), expected);
      assert.deepEqual(pidfd.poll(), expected);
      const [code, signal] = await once(child, 'exit');
      assert.deepEqual([code, signal], [expected.state === 'exited' ? expected.code : null, child.signalCode]);
      assert.deepEqual(pidfd.poll(), tellsExits ? expected : { state: 'gone' });
      assert.deepEqual(pidfd.reap(), tellsExits ? expected : { state: 'gone' });
      assert.throws(() => pidfd.signal('SIGTERM'), { name: 'SystemError', message: /the process has ended.*ESRCH/ });
      assert.equal(pidfd.isAlive(), false);
      pidfd.close();
    },
  );
}

test('onExit calls once, with the status, and child_process learns of the same end', TIMEOUT, async () => {
  const before = openFds();
  const child = shell('sleep 0.05; exit 9');
  const pidfd = open(child);
  const seen: ChildStatus[] = [];
  const first = pidfd.onExit((status) => seen.push(status));
  const second = pidfd.onExit((status) => seen.push(status));
  pidfd.onExit(() => assert.fail('was closed')).close();
  const [code] = await once(child, 'close');
  await until(() => seen.length === 2);
  assert.equal(code, 9);
  const expected = { state: 'exited', code: 9 };
  if (tellsExits) assert.deepEqual(seen, [expected, expected]);
  assert.deepEqual([first.closed, second.closed], [true, true]);
  pidfd.close();
  await until(() => openFds() === before);
});

test('onChange tells stop, continuation and death apart', TIMEOUT, async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const pidfd = open(child);
  const seen: ChildStatus[] = [];
  const watching = pidfd.onChange((status) => seen.push(status));
  pidfd.signal('SIGSTOP');
  await until(() => seen.length === 1);
  pidfd.signal('SIGCONT');
  await until(() => seen.length === 2);
  const stop = isOrphanedGroup() ? 'SIGSTOP' : 'SIGTSTP';
  pidfd.signal(stop);
  await until(() => seen.length === 3);
  pidfd.signal(9);
  await until(() => seen.length === 4);
  assert.deepEqual(seen.slice(0, 3), [
    { state: 'stopped', signal: 'SIGSTOP' },
    { state: 'continued' },
    { state: 'stopped', signal: stop },
  ]);
  if (tellsExits) assert.deepEqual(seen[3], { state: 'killed', signal: 'SIGKILL', coreDumped: false });
  assert.equal(watching.closed, true);
  assert.equal(process.listenerCount('SIGCHLD'), 0);
  await until(() => child.signalCode === 'SIGKILL');
  pidfd.close();
});

test('poll takes a stop, and returns it once', TIMEOUT, async () => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const pidfd = open(child);
  assert.equal(pidfd.poll(), undefined);
  pidfd.signal('SIGSTOP');
  let status: ChildStatus | undefined;
  await until(() => {
    status = pidfd.poll();
    return status !== undefined;
  });
  assert.deepEqual(status, { state: 'stopped', signal: 'SIGSTOP' });
  assert.equal(pidfd.poll(), undefined);
  assert.equal(pidfd.isAlive(), true);
  pidfd.signal('SIGKILL');
  await once(child, 'exit');
  pidfd.close();
});

test('the end of a process that is no child is told when its parent has reaped it', TIMEOUT, async () => {
  const script = 'exec 3<&0; sh -c "read line <&3; exit 7" & echo $!; wait; sleep 0.1';
  const child = spawn('sh', ['-c', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const [line] = (await once(child.stdout ?? assert.fail(), 'data')) as [Buffer];
  const stranger = PidFd.open(Number(line.toString()));
  assert.equal(stranger.poll(), undefined);
  const seen: ChildStatus[] = [];
  stranger.onExit((status) => seen.push(status));
  child.stdin.end('end\n');
  await until(() => seen.length > 0);
  assert.deepEqual(seen, [tellsExits ? { state: 'exited', code: 7 } : { state: 'gone' }]);
  await once(child, 'exit');
  stranger.close();
});

test('the end of a process that nobody reaps is told within seconds, without a busy loop', TIMEOUT, async () => {
  const child = shell('sh -c "sleep 0.05" & echo $!; exec sleep 60');
  const [line] = (await once(child.stdout ?? assert.fail(), 'data')) as [Buffer];
  const zombie = PidFd.open(Number(line.toString()));
  const used = process.cpuUsage();
  const seen: ChildStatus[] = [];
  zombie.onExit((status) => seen.push(status));
  await until(() => seen.length > 0);
  const { user, system } = process.cpuUsage(used);
  assert.deepEqual(seen, [{ state: 'gone' }]);
  assert.equal(zombie.poll(), undefined);
  assert.ok(user + system < 800_000, `${user + system} µs`);
  zombie.close();
  child.kill();
  await once(child, 'exit');
});

test('a Worker can wait for an end, and is told why it cannot see stops', TIMEOUT, async () => {
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    import('pagefault/kernel').then(({ PidFd }) => {
      const pidfd = PidFd.open(workerData);
      try { pidfd.onChange(() => {}); } catch (error) { parentPort.postMessage(error.message); }
      pidfd.onExit((status) => { parentPort.postMessage(status.state); pidfd.close(); });
      parentPort.postMessage('ready');
    });`;
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const worker = new Worker(source, { eval: true, workerData: child.pid });
  const messages: string[] = [];
  worker.on('message', (message: string) => messages.push(message));
  await until(() => messages.includes('ready'));
  assert.match(messages[0] ?? '', /a Worker is not told when a child stops/);
  child.kill('SIGKILL');
  await once(worker, 'exit');
  assert.ok(messages.includes(tellsExits ? 'killed' : (messages[2] ?? '')));
});

test('what is no process, no pidfd or no signal is refused in a sentence', TIMEOUT, async () => {
  const before = openFds();
  for (const pid of [0, -1, 1.5, Number.NaN, 2 ** 30]) {
    assert.throws(() => PidFd.open(pid), { name: 'RangeError', message: /process id must be an integer/ });
  }
  assert.throws(() => PidFd.open('1' as unknown as number), TypeError);
  assert.throws(() => PidFd.open(4_194_304), { name: 'SystemError', message: /there is no process 4194304/ });
  const file = openSync('/proc/self/exe', 'r');
  assert.throws(() => PidFd.fromFd(file), { name: 'DescriptorError', message: /needs a pidfd, but descriptor/ });
  closeFd(file);
  assert.throws(() => PidFd.fromFd(file), { name: 'DescriptorError', message: /is not open/ });
  assert.throws(() => PidFd.fromFd(-1), RangeError);
  const own = PidFd.open(process.pid);
  own.signal(0);
  assert.equal(own.isAlive(), true);
  assert.throws(() => own.signal('SIGNONE' as NodeJS.Signals), { name: 'TypeError', message: /no signal 'SIGNONE'/ });
  for (const signal of [-1, 65, 1.5, Number.NaN]) assert.throws(() => own.signal(signal), RangeError);
  const adopted = PidFd.fromFd(own.intoFd());
  assert.equal(adopted.pid, process.pid);
  assert.throws(() => own.fd, { code: 'ERR_PAGEFAULT_CLOSED', message: 'this PidFd is closed' });
  assert.throws(() => own.poll(), { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.throws(() => own.signal(0), { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.throws(() => own.onExit(() => {}), { code: 'ERR_PAGEFAULT_CLOSED' });
  const watching = adopted.onExit(() => {});
  assert.throws(() => adopted.onExit(7 as unknown as () => void), TypeError);
  adopted.close();
  adopted.close();
  assert.equal(watching.closed, true);
  await sleep(1);
  assert.equal(openFds(), before);
});
