/** Memory that a guest has given up (a balloon, hot-unplug) reads zero when it is touched again, never what the snapshot had. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { serveFirecracker } from 'pagefault/guests';
import { until } from '../../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm, VmStore, wordAt } from '../../helpers/firecracker-vm.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const ZERO = '0'.repeat(16);
const timeout = 60_000;

const server = await serveFirecracker({ socket: freshPath(), memory: memoryFile(MIB) });
after(() => server.close());

for (const era of ['1.1', '1.7', '1.12', 'memfd']) {
  test(`a balloon of ${era} takes pages that were touched and pages that were not`, { timeout }, async () => {
    const vm = await SimulatedVm.ready(server.socket, ['--era', era, '--regions', `${MIB / 2},${MIB / 2}`]);
    await vm.must('touch 8', wordAt(8));
    const guest = [...server.guests].find(({ pid }) => pid === vm.pid);
    await vm.must(`remove 0 ${8 * PAGE}`); // one that is there, seven that are not
    await vm.must('touch 8', ZERO);
    await vm.must(`zero 0 ${8 * PAGE}`);
    await vm.must(`touch ${8 * PAGE}`, wordAt(8 * PAGE));
    await vm.must('write 8 5');
    await vm.must('touch 8', (5).toString(16).padStart(16, '0'));
    await vm.must(`remove 0 ${PAGE}`);
    await vm.must('touch 8', ZERO);
    assert.ok((guest?.numbers().removed ?? 0) >= 8, `${guest?.numbers().removed} pages were seen to go`);
    await vm.exit();
  });
}

test('hot-unplug: all of a region, and the neighbours stay', { timeout }, async () => {
  const vm = await SimulatedVm.ready(server.socket, ['--regions', `${MIB / 2},${MIB / 4},${MIB / 4}`]);
  await vm.must(`verify ${MIB / 2} ${MIB / 8}`);
  await vm.must(`remove ${MIB / 2} ${MIB / 4}`);
  await vm.must(`zero ${MIB / 2} ${MIB / 4} 4`);
  await vm.must(`verify 0 ${MIB / 2} 2`);
  await vm.must(`verify ${(3 * MIB) / 4} ${MIB / 4} 2`);
  await vm.exit();
});

test('eight threads give up pages and touch them again, while pages are brought beside them', { timeout }, async () => {
  for (const era of ['1.12', 'memfd']) {
    const vm = await SimulatedVm.ready(server.socket, ['--era', era]);
    await vm.must(`balloon 0 ${MIB / 2} 8 6`);
    await vm.must(`verify ${MIB / 2} ${MIB / 2} 4`);
    await vm.exit();
  }
});

test('a page that is touched while it is given up is zero afterwards, not stale', { timeout }, async () => {
  const vm = await SimulatedVm.ready(server.socket);
  await vm.must(`race 0 ${MIB / 2}`);
  await vm.exit();
});

/** In a VM whose first page is touched, and brought only when `given` has been done; then it reads `wanted`. */
async function beforeItComes(wanted: string, given: (vm: SimulatedVm) => Promise<void>): Promise<void> {
  const store = new VmStore(MIB, 0, 'held');
  const served = await serveFirecracker({ socket: freshPath(), memory: store.ref });
  try {
    const vm = await SimulatedVm.ready(served.socket);
    await vm.must('behind 8');
    await until(() => store.asked > 0, 20_000);
    await given(vm);
    store.mode = 'well';
    await vm.must('join', wanted);
    await vm.must('touch 8', wanted);
    await vm.exit();
  } finally {
    await served.close();
  }
}

test('giving up does not wait for a store that is slow with another page', { timeout }, async () => {
  await beforeItComes(wordAt(8), async (vm) => {
    await vm.must(`remove ${MIB / 2} ${MIB / 4}`);
    await vm.must(`zero ${MIB / 2} ${MIB / 4}`);
  });
});

test('a page that is given up while the store is slow with it comes as zeroes', { timeout }, async () => {
  await beforeItComes(ZERO, (vm) => vm.must(`remove 0 ${PAGE}`));
});
