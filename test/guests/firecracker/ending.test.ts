/** How VMs end, and what becomes of them when a page cannot be had: killed or parked, never fed zeroes, never left frozen. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync, truncateSync } from 'node:fs';
import { after, test } from 'node:test';
import { type FirecrackerServer, serveFirecracker } from 'pagefault/guests';
import { openFds, until } from '../../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm, VmStore, wordAt } from '../../helpers/firecracker-vm.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const timeout = 60_000;
const BROKEN = 100 * PAGE;
const killed = { code: null, signal: 'SIGKILL' as const };

const server = await serveFirecracker({ socket: freshPath(), memory: memoryFile(MIB) });
after(() => server.close());

/** One letter: 'Z' of a process that has ended, and that nobody has waited for. */
function processState(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return stat.slice(stat.lastIndexOf(')') + 2)[0] ?? '';
}

async function empty(of: FirecrackerServer): Promise<void> {
  await until(() => of.guests.size === 0, 20_000);
}

/** Runs it, and no descriptor is left. */
async function leavesNothing(job: () => Promise<void>): Promise<void> {
  const before = openFds();
  await job();
  await until(() => openFds() <= before, 20_000);
}

test('a VM that exits, or is killed, is gone', { timeout }, async () => {
  await leavesNothing(async () => {
    for (const order of ['exit 3', 'abort']) {
      const vm = await SimulatedVm.ready(server.socket);
      await vm.must('touch 8', wordAt(8));
      const [guest] = [...server.guests];
      const gone = once(server, 'gone');
      assert.equal(await vm.order(order), undefined);
      assert.equal((await gone)[0], guest);
      assert.ok((guest?.numbers().faults ?? 0) >= 1, 'its numbers can still be read');
      assert.equal(server.guests.size, 0);
    }
  });
});

test('the end of the connection is the end of a VM since 1.12: what is left of the process is killed', {
  timeout,
}, async () => {
  await leavesNothing(async () => {
    const vm = await SimulatedVm.ready(server.socket);
    await vm.must('touch 8', wordAt(8));
    const gone = once(server, 'gone');
    await vm.order('hang-up'); // 'ok', or its end came first
    await gone;
    assert.deepEqual(await vm.ended, killed);
  });
});

test('a VM may die at each step', { timeout }, async () => {
  const refused: string[] = [];
  const note = (error: Error): void => void refused.push(error.message);
  server.on('refused', note);
  await leavesNothing(async () => {
    for (const step of ['mapped', 'connected', 'sent']) {
      for (let i = 0; i < 3; i++) {
        const vm = SimulatedVm.start(server.socket, ['--die', step]);
        assert.deepEqual(await vm.ended, killed);
      }
    }
    await empty(server);
    await until(() => refused.length >= 3, 20_000); // those that had connected and said nothing
  });
  server.off('refused', note);
  for (const sentence of refused) assert.match(sentence, /the connection ended before it came|it has ended/);
});

test('a VM may die while its pages are being brought; others notice nothing', { timeout }, async () => {
  const errors: Error[] = [];
  const note = (error: Error): void => void errors.push(error);
  server.on('pageerror', note);
  await leavesNothing(async () => {
    const other = await SimulatedVm.ready(server.socket);
    for (let i = 0; i < 8; i++) {
      const vm = await SimulatedVm.ready(server.socket, i % 2 === 0 ? [] : ['--era', '1.7']);
      const verified = vm.order(`verify 0 ${MIB} 8`);
      for (let turns = 0; turns < i * 40; turns++) await new Promise((resolve) => setImmediate(resolve));
      vm.kill();
      await Promise.all([verified, vm.ended]);
    }
    await other.must(`verify 0 ${MIB} 2`);
    await other.exit();
    await empty(server);
  });
  server.off('pageerror', note);
  assert.deepEqual(errors, []);
});

test('when a page cannot be had the VM is killed, and never reads zeroes', { timeout }, async () => {
  const { ref } = new VmStore(MIB, BROKEN, 'broken');
  const failing = await serveFirecracker({ socket: freshPath(), memory: ref });
  try {
    const told = once(failing, 'pageerror');
    const [vm, other] = [await SimulatedVm.ready(failing.socket), await SimulatedVm.ready(failing.socket)];
    await other.must('touch 8', wordAt(8));
    await vm.must('touch 8', wordAt(8));
    assert.equal(await vm.order(`touch ${BROKEN + 8}`), undefined);
    assert.deepEqual(await vm.ended, killed);
    const [error, guest, where] = await told;
    assert.match(error.message, /the page at offset 409600 of the snapshot .* cannot be had/);
    assert.deepEqual([guest.pid, where.offset], [vm.pid, BROKEN]);
    await other.must(`verify 0 ${50 * PAGE}`);
    await other.exit();
  } finally {
    await failing.close();
  }
});

test('whoever sees the end of a VM first, and closes it, is told all the same why it was killed', {
  timeout,
}, async () => {
  const path = memoryFile(MIB);
  await using failing = await serveFirecracker({ socket: freshPath(), memory: path });
  const errors: Error[] = [];
  failing.on('pageerror', (error) => errors.push(error));
  const vm = await SimulatedVm.ready(failing.socket);
  await vm.must('touch 8', wordAt(8));
  truncateSync(path, BROKEN);
  const [guest] = [...failing.guests];
  const answer = vm.order(`touch ${BROKEN + 8}`);
  const deadline = Date.now() + 20_000;
  while (processState(vm.pid) !== 'Z' && Date.now() < deadline); // nothing is heard meanwhile
  await guest?.close();
  assert.equal(errors.length, 1);
  assert.match(errors[0]?.message ?? '', /the page at offset 409600 of the snapshot .* cannot be had/);
  assert.equal(await answer, undefined);
  assert.deepEqual(await vm.ended, killed);
});

test('parked, its thread waits, the others go on, and a retry brings the page', { timeout }, async () => {
  const store = new VmStore(MIB, BROKEN, 'broken');
  const options = { memory: store.ref, onFailure: 'park' } as const;
  const parking = await serveFirecracker({ socket: freshPath(), ...options });
  try {
    const told = once(parking, 'pageerror');
    const vm = await SimulatedVm.ready(parking.socket);
    await vm.must(`behind ${BROKEN + 8}`);
    const [, guest] = await told;
    await vm.must(`verify 0 ${BROKEN}`);
    store.mode = 'well';
    guest.retry();
    await vm.must('join', wordAt(BROKEN + 8));
    await vm.exit();
  } finally {
    await parking.close();
  }
});

test('a store that does not answer in time has the VM killed', { timeout }, async () => {
  const { ref } = new VmStore(MIB, 0, 'held');
  const late = await serveFirecracker({ socket: freshPath(), memory: ref, faultTimeoutMs: 300 });
  try {
    const vm = await SimulatedVm.ready(late.socket);
    assert.equal(await vm.order('touch 8'), undefined);
    assert.deepEqual(await vm.ended, killed);
  } finally {
    await late.close();
  }
});

test('a thread that waits for a page when the server closes dies; it does not read zeroes', { timeout }, async () => {
  for (const order of ['close-uffd', undefined]) {
    const store = new VmStore(MIB, 0, 'held');
    const closing = await serveFirecracker({ socket: freshPath(), memory: store.ref });
    const vm = await SimulatedVm.ready(closing.socket);
    if (order !== undefined) await vm.must(order); // then the server has the last one: what closes it must kill first
    const answer = vm.order('touch 8');
    await until(() => store.asked > 0, 20_000);
    await closing.close();
    assert.equal(await answer, undefined);
    assert.deepEqual(await vm.ended, killed);
  }
});

test('closing ends the VMs, removes the socket and leaves nothing; an abort does the same', { timeout }, async () => {
  const path = memoryFile(MIB);
  await leavesNothing(async () => {
    const abort = new AbortController();
    const closing = await serveFirecracker({ socket: freshPath(), memory: path, signal: abort.signal });
    const vms = await Promise.all([1, 2, 3].map(() => SimulatedVm.ready(closing.socket)));
    await until(() => closing.guests.size === 3, 20_000);
    abort.abort();
    for (const vm of vms) assert.deepEqual(await vm.ended, killed);
    await closing.close();
    assert.equal(existsSync(closing.socket), false);
    assert.equal(closing.guests.size, 0);
  });
});
