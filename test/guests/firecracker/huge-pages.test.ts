/** VMs whose memory is huge pages of 2 MiB: each comes as a whole, whatever number of places its bytes come from. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type FirecrackerServer, type SnapshotSource, serveFirecracker } from 'pagefault/guests';
import { custom, zero } from 'pagefault/stores';
import { VM_STORE } from '../../fixtures/vm-store.js';
import { until } from '../../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm, storedBytes, wordAt, writeSparse } from '../../helpers/firecracker-vm.js';
import { reserveHugePages } from '../../helpers/huge-pages.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const HUGE = 2 * MIB;
const timeout = 60_000;

/** Has a VM of three huge pages in each of these eras, one after the other. */
async function restored(
  t: TestContext,
  memory: () => SnapshotSource | Promise<SnapshotSource>,
  job: (vm: SimulatedVm, server: FirecrackerServer) => Promise<void>,
  eras = ['1.7', '1.12'],
): Promise<void> {
  const reserved = reserveHugePages(3);
  if (typeof reserved === 'string') {
    t.skip(reserved);
    return;
  }
  const server = await serveFirecracker({ socket: freshPath(), memory: await memory() });
  try {
    for (const era of eras) {
      const args = ['--era', era, '--page', `${HUGE}`, '--regions', `${2 * HUGE},${HUGE}`];
      const vm = await SimulatedVm.ready(server.socket, args);
      await until(() => server.guests.size === 1);
      await job(vm, server);
      await vm.exit();
      await until(() => server.guests.size === 0);
    }
  } finally {
    await server.close(); // ends its VMs, and so gives their pages back
  }
}

function numbersOf(server: FirecrackerServer): number[] {
  const [guest] = server.guests;
  assert.ok(guest !== undefined);
  const { pages, demand, zero: zeroes, failures } = guest.numbers();
  return [pages, demand, zeroes, failures];
}

test('huge pages are read, given up and read again as zeroes', { timeout }, async (t) => {
  await restored(
    t,
    () => memoryFile(3 * HUGE),
    async (vm) => {
      await vm.must('touch 4202496', wordAt(4_202_496));
      await vm.must(`verify 0 ${3 * HUGE} 3`);
      await vm.must(`remove ${HUGE} ${HUGE}`);
      await vm.must(`zero ${HUGE} ${HUGE} 2`);
      await vm.must(`verify 0 ${HUGE}`);
    },
  );
});

/** Two files over a base, of whose holes some go through all of them. */
async function layers(): Promise<string[]> {
  const paths = ['base', 'diff', 'diff'].map(freshPath);
  const [base = '', first = '', second = ''] = paths;
  const bytes = storedBytes(3 * HUGE);
  bytes.fill(0xee, 10 * PAGE, 20 * PAGE);
  await writeSparse(base, 3 * HUGE, [
    [0, bytes.subarray(0, HUGE)],
    [HUGE + MIB, bytes.subarray(HUGE + MIB)],
  ]);
  await writeSparse(first, 3 * HUGE, [
    [10 * PAGE, new Uint8Array(8 * PAGE).fill(0xdd)],
    [HUGE, storedBytes(MIB / 2, HUGE)],
  ]);
  await writeSparse(second, 3 * HUGE, [
    [10 * PAGE, storedBytes(6 * PAGE, 10 * PAGE)],
    [16 * PAGE, storedBytes(4 * PAGE, 16 * PAGE)],
  ]);
  return paths;
}

test('a huge page is put together of what a base, diffs and their holes have of it', { timeout }, async (t) => {
  await restored(t, layers, async (vm, server) => {
    await vm.must(`verify 0 ${HUGE} 2`);
    await vm.must(`zero ${HUGE + MIB / 2} ${MIB / 2}`); // after another one was put together
    await vm.must(`verify ${HUGE} ${MIB / 2}`);
    await vm.must(`verify ${HUGE + MIB} ${HUGE + MIB} 2`);
    assert.deepEqual(numbersOf(server), [3, 3, 0, 0]);
    await vm.must(`remove 0 ${HUGE}`);
    await vm.must(`zero 0 ${HUGE}`);
  });
});

test('huge pages come from any store, whose bytes are read once for all VMs', { timeout }, async (t) => {
  const reads = new Int32Array(new SharedArrayBuffer((4 * 3 * HUGE) / PAGE));
  const store = custom(new URL('../../fixtures/vm-store.js', import.meta.url), {
    byteLength: 3 * HUGE,
    control: new SharedArrayBuffer(4 * VM_STORE.length),
    reads: reads.buffer,
  });
  await restored(
    t,
    () => store,
    async (vm, server) => {
      await vm.must(`verify 0 ${3 * HUGE} 4`);
      assert.deepEqual(numbersOf(server), [3, 3, 0, 0]);
      assert.ok(reads.every((count) => count === 1));
      await vm.must(`remove ${HUGE} ${HUGE}`);
      await vm.must(`zero ${HUGE} ${HUGE} 2`);
    },
  );
  await restored(
    t,
    () => zero(3 * HUGE),
    (vm) => vm.must(`zero 0 ${3 * HUGE} 2`),
    ['1.12'],
  );
});
