/** VMs of every era are restored from one snapshot, and find in their memory what it has. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { type FirecrackerServer, serveFirecracker } from 'pagefault/guests';
import { zero } from 'pagefault/stores';
import { until } from '../../helpers/descriptors.js';
import {
  freshPath,
  memoryFile,
  SimulatedVm,
  storedBytes,
  VmStore,
  wordAt,
  writeSparse,
} from '../../helpers/firecracker-vm.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const timeout = 60_000;
const memory = memoryFile(MIB);

/** One snapshot of 1 MiB for the tests that need nothing of their own. */
const server = await serveFirecracker({ socket: freshPath(), memory });
const refused: Error[] = [];
server.on('refused', (error) => refused.push(error));
after(async () => {
  assert.deepEqual(refused, []);
  await server.close();
});

/** Until all VMs have gone. */
async function empty(of: FirecrackerServer): Promise<void> {
  await until(() => of.guests.size === 0, 20_000);
}

const eras: [string, string[]][] = [
  ['1.1', ['--era', '1.1']],
  ['1.1, without a balloon', ['--era', '1.1', '--no-balloon']],
  ['1.7', ['--era', '1.7']],
  ['1.12', ['--era', '1.12']],
  ['two descriptors', ['--era', 'memfd']],
];
for (const [name, args] of eras) {
  test(`a VM of ${name} reads its snapshot, each page once`, { timeout }, async () => {
    const coming = once(server, 'guest');
    const vm = await SimulatedVm.ready(server.socket, args);
    const [guest] = await coming;
    assert.equal(guest.pid, vm.pid);
    assert.equal(guest.pageSize, PAGE);
    await vm.must('touch 4104', wordAt(4104));
    await vm.must(`verify 0 ${MIB}`);
    assert.equal(guest.numbers().pages, 256);
    assert.equal(guest.numbers().failures, 0);
    await vm.exit();
    await empty(server);
  });
}

test('what the guest writes is its own', { timeout }, async () => {
  const [first, second] = await Promise.all([SimulatedVm.ready(server.socket), SimulatedVm.ready(server.socket)]);
  await first.must('write 8192 77');
  await first.must('touch 8192', (77).toString(16).padStart(16, '0'));
  await second.must('touch 8192', wordAt(8192));
  await Promise.all([first.exit(), second.exit()]);
  await empty(server);
});

test('all layouts of regions, a hot-plugged one and eight threads at the same pages', { timeout }, async () => {
  const layouts = [
    [MIB],
    [3 * PAGE, MIB - 3 * PAGE],
    [MIB / 2, MIB / 4, MIB / 4],
    [PAGE, PAGE, MIB - 4 * PAGE, PAGE, PAGE],
  ];
  for (const layout of layouts) {
    const vm = await SimulatedVm.ready(server.socket, ['--regions', layout.join(',')]);
    await vm.must(`verify 0 ${MIB} 8`);
    await vm.exit();
  }
  await empty(server);
});

test('several VMs at once, of several eras', { timeout }, async () => {
  const vms = await Promise.all(
    eras.map(([, args]) => SimulatedVm.ready(server.socket, [...args, '--regions', `${MIB / 2},${MIB / 2}`])),
  );
  await until(() => server.guests.size === vms.length, 20_000);
  await Promise.all(vms.map((vm) => vm.must(`verify 0 ${MIB} 2`)));
  await Promise.all(vms.map((vm) => vm.exit()));
  await empty(server);
});

test('several descriptors over one connection, whose handshakes come at once or in pieces', { timeout }, async () => {
  for (const split of [[], ['--split', '7'], ['--era', 'memfd'], ['--era', '1.7']]) {
    const vm = await SimulatedVm.ready(server.socket, [
      '--copies',
      '3',
      '--regions',
      `${MIB / 2},${MIB / 2}`,
      ...split,
    ]);
    await until(() => server.guests.size === 3, 20_000);
    await vm.must(`verify 0 ${MIB}`);
    await vm.must(`verify ${MIB} ${MIB} 2`);
    await vm.must(`verify ${2 * MIB} ${MIB}`);
    await vm.exit();
    await empty(server);
  }
});

test('the kernel itself may touch the memory, as KVM does', { timeout }, async (t) => {
  const vm = SimulatedVm.start(server.socket);
  const ready = await vm.line();
  if (ready !== 'ready') t.skip('this user may not have a userfaultfd for faults of the kernel');
  else await vm.must('kernel 40960', wordAt(40_960));
  await vm.exit();
  await empty(server);
});

/** Bytes of a process that are in transparent huge pages. */
function inHugePages(pid: number): number {
  const found = readFileSync(`/proc/${pid}/smaps`, 'utf8').matchAll(/^AnonHugePages: +(\d+) kB$/gm);
  return [...found].reduce((sum, [, kib]) => sum + Number(kib) * 1024, 0);
}

test('transparent huge pages: none forms over what is missing, and 4 KiB that are given up within one are zero', {
  timeout,
}, async (t) => {
  const roomy = await serveFirecracker({ socket: freshPath(), memory: memoryFile(4 * MIB) });
  try {
    const vm = await SimulatedVm.ready(roomy.socket, ['--thp', '--regions', `${4 * MIB}`]);
    await vm.must(`verify 0 ${MIB}`);
    assert.match((await vm.order(`collapse 0 ${4 * MIB}`)) ?? '', /^refused/);
    await vm.must(`verify 0 ${4 * MIB} 2`);
    assert.equal(inHugePages(vm.pid), 0);
    const answer = await vm.order(`collapse 0 ${4 * MIB}`);
    if (answer !== 'ok') {
      t.skip(`the kernel makes no huge page of the memory: ${answer}`);
    } else {
      assert.equal(inHugePages(vm.pid), 4 * MIB);
      await vm.must(`remove ${300 * PAGE} ${PAGE}`);
      await vm.must(`verify 0 ${300 * PAGE}`);
      await vm.must(`zero ${300 * PAGE} ${PAGE}`);
      await vm.must(`verify ${301 * PAGE} ${4 * MIB - 301 * PAGE} 2`);
      assert.equal([...roomy.guests][0]?.numbers().removed, 1);
      await vm.must(`remove ${2 * MIB} ${2 * MIB}`);
      await vm.must(`zero ${2 * MIB} ${2 * MIB} 4`);
    }
    await vm.exit();
  } finally {
    await roomy.close();
  }
});

test('a base and diffs are one snapshot: a hole of a diff shows what is below', { timeout }, async () => {
  const base = storedBytes(MIB);
  base.fill(0xee, 10 * PAGE, 20 * PAGE);
  const paths = [freshPath('base'), freshPath('diff'), freshPath('diff')];
  writeFileSync(paths[0] ?? '', base);
  await writeSparse(paths[1] ?? '', MIB, [[10 * PAGE, new Uint8Array(8 * PAGE).fill(0xdd)]]);
  await writeSparse(paths[2] ?? '', MIB, [
    [10 * PAGE, storedBytes(6 * PAGE, 10 * PAGE)],
    [16 * PAGE, storedBytes(4 * PAGE, 16 * PAGE)],
  ]);
  const layered = await serveFirecracker({ socket: freshPath(), memory: paths });
  try {
    const vm = await SimulatedVm.ready(layered.socket);
    await vm.must(`verify 0 ${MIB} 2`);
    await vm.exit();
  } finally {
    await layered.close();
  }
});

test('the snapshot comes from any store', { timeout }, async () => {
  const served = await serveFirecracker({ socket: freshPath(), memory: new VmStore(MIB, 0).ref });
  const zeroes = await serveFirecracker({ socket: freshPath(), memory: zero(MIB) });
  try {
    const vm = await SimulatedVm.ready(served.socket);
    await vm.must(`verify 0 ${MIB} 4`);
    await vm.exit();
    const coming = once(zeroes, 'guest');
    const blank = await SimulatedVm.ready(zeroes.socket);
    await blank.must(`zero 0 ${MIB} 2`);
    const [guest] = await coming;
    const { zero: zeroed, present, bytesCopied } = guest.numbers();
    assert.deepEqual({ zeroed, present, bytesCopied }, { zeroed: 256, present: 256, bytesCopied: 0 });
    await blank.exit();
  } finally {
    await served.close();
    await zeroes.close();
  }
});
