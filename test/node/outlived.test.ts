/** A plain segment that is closed while native code works on a view of it: nothing else comes to lie there before that has ended. */

import assert from 'node:assert/strict';
import fs, { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type Backend, map } from 'pagefault';
import { memory, zero } from 'pagefault/stores';
import { openFifo, until } from '../helpers/descriptors.js';
import { runNode } from '../helpers/run.js';
import { onEachWritableBackend, PAGE, writableBackends } from '../helpers/writable.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const script = fileURLToPath(new URL('../fixtures/outlived.js', import.meta.url));
const LENGTH = 64 * PAGE;
const calls = ['gzip', 'randomFill'];

/** The addresses are taken, and nobody can use them. */
function isBarred(address: bigint): boolean {
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const [, start, end, flags] = /^([0-9a-f]+)-([0-9a-f]+) (....)/.exec(line) ?? [];
    if (BigInt(`0x${start ?? 0}`) <= address && address < BigInt(`0x${end ?? 0}`)) return flags === '---p';
  }
  return false;
}

/** Closes a segment while a read into it waits in libuv's pool, and lets the read go on. */
async function closeUnderRead(backend: Backend): Promise<bigint> {
  const gate = openFifo();
  const blocking = fs.openSync(`/proc/self/fd/${gate}`, 'r');
  try {
    const segment = await map(memory(new SharedArrayBuffer(LENGTH)), { backend, writable: true });
    const { address } = segment;
    const read = promisify(fs.read) as (fd: number, into: Uint8Array) => Promise<unknown>;
    segment.view(Uint8Array).fill(1);
    const pending = assert.rejects(read(blocking, segment.view(Uint8Array)), { code: 'EFAULT' });
    await segment.close({ discard: true });
    gc();
    assert.ok(isBarred(address));
    const others = await Promise.all(Array.from({ length: 20 }, () => map(zero(LENGTH), { backend })));
    for (const other of others) assert.notEqual(other.address, address);
    fs.writeSync(gate, new Uint8Array(PAGE).fill(9));
    await pending;
    for (const other of others) {
      assert.ok(other.view(Uint8Array).every((byte) => byte === 0));
      await other.close();
    }
    return address;
  } finally {
    fs.closeSync(blocking);
    fs.closeSync(gate);
  }
}

onEachWritableBackend(
  'a read of the pool into a segment that is closed meanwhile fails, and reaches nothing else',
  async (backend) => {
    const address = await closeUnderRead(backend);
    await until(() => {
      gc();
      return !isBarred(address);
    }, 30_000);
  },
);

onEachWritableBackend(
  'code of the pool that touches a segment which was closed ends the process with a report that names it',
  async (backend) => {
    const call = calls[writableBackends.indexOf(backend) % calls.length] ?? '';
    const { signal, stdout, stderr } = await runNode(script, [backend, call], { timeoutMs: 60_000 });
    assert.ok(signal === 'SIGSEGV' || signal === 'SIGBUS', `${call}: ${signal} ${stdout} ${stderr}`);
    assert.doesNotMatch(stdout, /through/);
    assert.match(stderr, /segment: outlived\n[\s\S]*(segment closed|which was closed \d+ ms ago)/);
  },
);
