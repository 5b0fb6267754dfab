/** The same memory in two processes: what either fills or writes both see, and one that is killed is in nobody's way. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Backend, SharedMemory, sharedMemory } from 'pagefault';
import { receiveFds, sendFds, UnixSocket } from 'pagefault/kernel';
import { closeStamped, digits, onEachStamped, type StampedKind, stamped } from '../helpers/stamped.js';
import { onEachBackend } from '../helpers/stores.js';
import { PAGE } from '../helpers/writable.js';

const script = fileURLToPath(new URL('../fixtures/sharing-child.js', import.meta.url));
const creator = fileURLToPath(new URL('../fixtures/sharing-creator.js', import.meta.url));

interface Other {
  child: ChildProcess;
  /** Says a word, and resolves to what the other answers. */
  ask(word: string, length: number): Promise<string>;
  end(): Promise<void>;
}

async function other(backend: Backend, kind: StampedKind, memory: SharedMemory): Promise<Other> {
  const [ours, theirs] = UnixSocket.pair();
  const child = spawn(process.execPath, [script, backend, kind], {
    stdio: ['ignore', 'inherit', 'inherit', theirs.fd],
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  child.once('exit', () => clearTimeout(timer));
  theirs.close();
  const hear = async (length: number): Promise<string> => {
    for (const deadline = Date.now() + 20_000; Date.now() < deadline; ) {
      ours.fill();
      const bytes = ours.read(length);
      if (bytes !== undefined) return new TextDecoder().decode(bytes);
      if (ours.ended) throw new Error('the other process has ended');
      await sleep(1);
    }
    throw new Error('the other process says nothing');
  };
  sendFds(ours, [memory.fd]);
  assert.equal(await hear(1), 'r');
  return {
    child,
    async ask(word, length) {
      ours.send(new TextEncoder().encode(word));
      return hear(length);
    },
    async end() {
      const exit = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
      ours.send(new TextEncoder().encode('.'));
      await exit;
      ours.close();
      assert.equal(child.exitCode, 0);
    },
  };
}

onEachStamped('pages that either process fills or writes are seen by both, and filled once', async (backend, kind) => {
  const mine = await stamped(backend, kind, 8, 1);
  const memory = sharedMemory(4 * PAGE);
  mine.segment.patch(0, memory);
  const there = await other(backend, kind, memory);
  assert.equal(mine.bytes[0], 1);
  assert.equal(await there.ask('t', 4), '1222');
  assert.equal(digits(mine), '12221111');
  assert.equal(await there.ask('w', 1), 'w');
  assert.equal(mine.bytes[PAGE + 1], 22);
  assert.deepEqual(mine.segment.dirty(), []);
  mine.bytes[0] = 7;
  assert.equal(await there.ask('t', 4), '7222');
  assert.equal(await there.ask('n', 2), '31', 'three reads of its store, one modified range');
  assert.equal(mine.segment.stats().storeReads, 5);
  memory.close();
  await there.end();
  assert.equal(digits(mine), '72221111');
  await closeStamped(mine);
});

onEachStamped('shared memory outlives the process that made it, and is used on', async (backend, kind) => {
  const [ours, theirs] = UnixSocket.pair();
  const stdio = ['ignore', 'inherit', 'inherit', theirs.fd] as const;
  const child = spawn(process.execPath, [creator, backend, kind], { stdio: [...stdio] });
  const exit = once(child, 'exit');
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  theirs.close();
  let fd: number | undefined;
  while (fd === undefined) {
    const received = receiveFds(ours, { byteLength: 1 });
    fd = received?.fds[0];
    assert.ok(fd !== undefined || !ours.ended, 'the process that makes it has ended');
    if (fd === undefined) await sleep(1);
  }
  child.kill('SIGKILL');
  const [, signal] = await exit;
  clearTimeout(timer);
  assert.equal(signal, 'SIGKILL');
  const memory = SharedMemory.fromFd(fd);
  closeSync(fd);
  ours.close();
  const mine = await stamped(backend, kind, 8, 1);
  mine.segment.patch(0, memory);
  assert.equal(memory.filledBytes, 2 * PAGE);
  memory.close();
  assert.equal(digits(mine), '22111111', 'two pages as it filled them, the others from the store here');
  assert.equal(mine.bytes[PAGE + 1], 22);
  assert.equal(mine.segment.stats().storeReads, 6);
  assert.deepEqual(mine.segment.dirty(), []);
  mine.bytes[PAGE] = 7;
  await mine.segment.flush();
  assert.deepEqual([mine.kept[PAGE], mine.kept[PAGE + 1], mine.kept[PAGE + 2]], [7, 22, 2]);
  assert.equal(mine.kept[0], 1, 'what was written there is not modified here');
  await closeStamped(mine);
});

onEachBackend('a process that is killed while it fills a page blocks nobody', async (backend) => {
  const mine = await stamped(backend, 'memory', 8, 1, { faultTimeoutMs: 20_000 });
  const memory = sharedMemory(4 * PAGE);
  mine.segment.patch(0, memory);
  const there = await other(backend, 'custom async', memory);
  assert.equal(await there.ask('h', 1), 'h');
  const exit = once(there.child, 'exit');
  const load = mine.segment.load(0, 4 * PAGE);
  assert.equal(await Promise.race([load.then(() => 'loaded'), sleep(100, 'waits')]), 'waits');
  there.child.kill('SIGKILL');
  await exit;
  const started = Date.now();
  await load;
  assert.ok(Date.now() - started < 15_000);
  assert.equal(digits(mine), '11111111');
  memory.close();
  await closeStamped(mine);
});

onEachBackend('a process that never ends to fill a page is waited for half of faultTimeoutMs', async (backend) => {
  const mine = await stamped(backend, 'memory', 8, 1, { faultTimeoutMs: 600 });
  const memory = sharedMemory(4 * PAGE);
  mine.segment.patch(0, memory);
  const there = await other(backend, 'custom async', memory);
  assert.equal(await there.ask('h', 1), 'h');
  const started = Date.now();
  assert.equal(mine.bytes[0], 1);
  assert.ok(Date.now() - started >= 250);
  memory.close();
  there.child.kill('SIGKILL');
  await once(there.child, 'exit');
  await closeStamped(mine);
});
