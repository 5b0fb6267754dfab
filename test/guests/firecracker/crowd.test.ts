/** Hundreds of VMs of one snapshot in one process: each page is read once from the store, whoever asks for it first, and is right in all of them. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { serveFirecracker } from 'pagefault/guests';
import { custom } from 'pagefault/stores';
import { VM_STORE } from '../../fixtures/vm-store.js';
import { openFds, until } from '../../helpers/descriptors.js';
import { freshPath, SimulatedVm } from '../../helpers/firecracker-vm.js';

const PAGE = 4096;
const PAGES = 64;
const VMS = 200;

test('two hundred VMs over one store are all right, and each page was read once', { timeout: 120_000 }, async () => {
  const reads = new Int32Array(new SharedArrayBuffer(4 * PAGES));
  const store = custom(new URL('../../fixtures/vm-store.js', import.meta.url), {
    byteLength: PAGES * PAGE,
    control: new SharedArrayBuffer(4 * VM_STORE.length),
    reads: reads.buffer,
  });
  const server = await serveFirecracker({ socket: freshPath(), memory: store });
  const refused: Error[] = [];
  server.on('refused', (error) => refused.push(error));
  const args = ['--regions', `${PAGES * PAGE}`];
  const before = openFds();
  try {
    const vms = await Promise.all(Array.from({ length: VMS }, () => SimulatedVm.ready(server.socket, args, 120_000)));
    await until(() => server.guests.size === VMS || refused.length > 0, 60_000);
    assert.deepEqual(refused, []);
    await Promise.all(vms.map((vm) => vm.must(`verify 0 ${PAGES * PAGE}`)));
    assert.deepEqual([...reads], new Array(PAGES).fill(1));
    for (const guest of server.guests) {
      const { pages, present, demand, failures } = guest.numbers();
      assert.deepEqual(
        { pages, present, demand, failures },
        { pages: PAGES, present: PAGES, demand: PAGES, failures: 0 },
      );
    }
    await Promise.all(vms.map((vm) => vm.exit()));
    await until(() => server.guests.size === 0, 60_000);
    assert.deepEqual(refused, []);
    await until(() => openFds() <= before);
  } finally {
    await server.close();
  }
});
