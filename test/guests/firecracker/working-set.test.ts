/** What one VM touched is brought ahead into the next, behind what that one asks for; a working set of another snapshot is not. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { readWorkingSet, type ServeFirecrackerOptions, serveFirecracker } from 'pagefault/guests';
import { custom } from 'pagefault/stores';
import { encodeWorkingSet } from '#dist/pager/working-set/index.js';
import { openFds, until } from '../../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm, wordAt } from '../../helpers/firecracker-vm.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const timeout = 60_000;
const memory = memoryFile(MIB);

/** Serves for as long as the job lasts. What was warned of. */
async function served(
  options: Partial<ServeFirecrackerOptions>,
  job: (server: Awaited<ReturnType<typeof serveFirecracker>>) => Promise<void>,
): Promise<string[]> {
  const server = await serveFirecracker({ socket: freshPath(), ...(options.snapshot ? {} : { memory }), ...options });
  const warnings: string[] = [];
  server.on('warning', (error) => warnings.push(error.message));
  try {
    await job(server);
  } finally {
    await server.close();
  }
  return warnings;
}

/** Touches these pages, in this order. */
async function touch(vm: SimulatedVm, pages: readonly number[]): Promise<void> {
  for (const page of pages) await vm.must(`touch ${page * PAGE + 8}`, wordAt(page * PAGE + 8));
}

const pagesOf = async (path: string): Promise<number[]> => {
  const { runs } = await readWorkingSet(path);
  return [...runs.first].flatMap((first, i) => Array.from({ length: runs.count[i] ?? 0 }, (_, j) => first + j));
};

test('pages are recorded in order of first touch, and brought ahead into the next VM', { timeout }, async () => {
  const record = freshPath('ws');
  const order = [200, 7, 8, 9, 100, 3];
  const recorded = await served({ record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket, ['--regions', `${MIB / 2},${MIB / 2}`]);
    await touch(vm, [...order, 7, 200]);
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  assert.deepEqual(recorded, []);
  assert.deepEqual(await pagesOf(record), order);

  const replayed = await served({ replay: record }, async (server) => {
    const progress: [number, number][] = [];
    server.on('progress', (_guest, done, total) => progress.push([done, total]));
    const vm = await SimulatedVm.ready(server.socket);
    await until(() => progress.some(([done, total]) => done === total && total === order.length), 20_000);
    const [guest] = [...server.guests];
    assert.equal(guest?.numbers().prefetched, order.length);
    const before = guest?.numbers().demand;
    await touch(vm, order);
    assert.equal(guest?.numbers().demand, before);
    await vm.must(`verify 0 ${MIB} 4`);
    await vm.exit();
  });
  assert.deepEqual(replayed, []);
});

test('the time of each first touch is recorded', { timeout }, async () => {
  const record = freshPath('ws');
  let elapsedMs = 0;
  await served({ record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    const begun = performance.now();
    await touch(vm, [200]);
    await sleep(50);
    await touch(vm, [7]);
    elapsedMs = performance.now() - begun;
    await sleep(50);
    await touch(vm, [200, 7]); // no first ones
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  const { runs } = await readWorkingSet(record);
  assert.deepEqual([...runs.first], [200, 7]);
  const [first = Number.NaN, second = Number.NaN] = runs.atUs;
  assert.ok(first >= 0 && second - first >= 45_000, `${first} and ${second} µs`);
  assert.ok(second - first <= elapsedMs * 1000 + 1000, `${second - first} µs of ${elapsedMs} ms`);
});

test('VMs are united in one file, which may be recorded and replayed at once', { timeout }, async () => {
  const both = freshPath('ws');
  const warnings = await served({ record: both, replay: both }, async (server) => {
    for (const pages of [
      [1, 2, 3],
      [3, 50],
    ]) {
      const vm = await SimulatedVm.ready(server.socket);
      await touch(vm, pages);
      await vm.exit();
      await until(() => server.guests.size === 0, 20_000);
    }
  });
  assert.deepEqual(warnings, []);
  assert.deepEqual(
    (await pagesOf(both)).sort((a, b) => a - b),
    [1, 2, 3, 50],
  );
  assert.equal((await readWorkingSet(both)).recordings, 2);
});

test('what was touched can be saved while the VM goes on, and when the server closes', { timeout }, async () => {
  const record = freshPath('ws');
  await served({ record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await touch(vm, [4, 5]);
    await server.saveWorkingSet();
    assert.deepEqual(await pagesOf(record), [4, 5]);
    await touch(vm, [60]); // after it was ready: not of interest
    const second = await SimulatedVm.ready(server.socket);
    await touch(second, [70]);
  });
  assert.deepEqual(
    (await pagesOf(record)).sort((a, b) => a - b),
    [4, 5, 70],
  );
});

/** Of eight places of the store six are for what is brought ahead, and it never answers that: the orders behind those six wait. */
async function stuckAhead(
  first: readonly number[],
  body: (vm: SimulatedVm, others: number[], server: Awaited<ReturnType<typeof serveFirecracker>>) => Promise<void>,
): Promise<void> {
  const ahead = new Int32Array(new SharedArrayBuffer(8 + 4 * (MIB / PAGE)));
  const options = { byteLength: MIB, ahead: ahead.buffer, concurrency: 8, ofVm: true };
  const store = custom(new URL('../../fixtures/demand-only.js', import.meta.url), options);
  const record = freshPath('ws');
  ahead[1] = 1;
  await served({ memory: store, record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await touch(vm, first);
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  ahead[1] = 0;
  await served({ memory: store, replay: record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await until(() => Atomics.load(ahead, 0) === 6, 20_000);
    const others = first.filter((page) => ahead[2 + page] === 0);
    assert.equal(others.length, first.length - 6);
    await body(vm, others, server);
    assert.equal(ahead[0], 6);
    await vm.exit();
  });
}

test('what a VM touches while it waits to be brought ahead waits no longer', { timeout }, async () => {
  const first = Array.from({ length: 100 }, (_, i) => i);
  await stuckAhead(first, async (vm, others) => {
    await touch(
      vm,
      [30, 17, 18, 29, 40, 41, 42, 90].map((i) => others[i] ?? 0),
    );
  });
});

for (const [what, count, step] of [
  ['that adjoin', 250, 1], // more than may be asked for ahead at once
  ['that lie apart', 120, 2],
] as const) {
  test(`of pages ${what} none is brought ahead as what a VM waits for`, { timeout }, async () => {
    const first = Array.from({ length: count }, (_, i) => i * step);
    await stuckAhead(first, async (_vm, _others, server) => {
      await sleep(300);
      const [guest] = [...server.guests];
      assert.equal(guest?.numbers().prefetched, 0);
    });
  });
}

test('pages that are brought ahead run into pages that are there, and pages that were given up stay zero', {
  timeout,
}, async () => {
  const record = freshPath('ws');
  await served({ record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await vm.must(`verify 0 ${MIB}`);
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  await served({ replay: record }, async (server) => {
    for (let i = 0; i < 4; i++) {
      const vm = await SimulatedVm.ready(server.socket);
      await vm.must(`remove ${MIB / 4} ${MIB / 8}`);
      await vm.must(`balloon ${MIB / 2} ${MIB / 4} 4 3`);
      await vm.must(`zero ${MIB / 4} ${MIB / 8} 2`);
      await vm.must(`verify 0 ${MIB / 4} 4`);
      await vm.must(`verify ${(3 * MIB) / 4} ${MIB / 4} 4`);
      await vm.exit();
    }
  });
});

test('as much is loaded ahead as the cap allows', { timeout }, async () => {
  const record = freshPath('ws');
  await served({ record }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await touch(vm, [10, 20, 30, 40]);
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  await served({ replay: record, cap: 2 * PAGE }, async (server) => {
    const progress = once(server, 'progress');
    const vm = await SimulatedVm.ready(server.socket);
    assert.equal((await progress)[2], 2);
    await vm.exit();
  });
});

test('a working set of another snapshot, cut off, changed or of pages out of range is told and not used', {
  timeout,
}, async () => {
  const good = freshPath('ws');
  await served({ record: good }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await touch(vm, [1, 2, 3]);
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  const spoilt = (bytes: Uint8Array): string => {
    const path = freshPath('ws');
    writeFileSync(path, bytes);
    return path;
  };
  const bytes = readFileSync(good);
  const set = await readWorkingSet(good);
  const elsewhere = encodeWorkingSet({ ...set, runs: { ...set.runs, first: Uint32Array.of(MIB / PAGE - 2) } });
  const wrong: [Partial<ServeFirecrackerOptions>, RegExp][] = [
    [
      { memory: memoryFile(MIB), replay: good },
      /^the working set \S+ is not used: it was recorded of another snapshot \(.+ or the snapshot was changed$/,
    ],
    [{ replay: spoilt(bytes.subarray(0, -2)) }, /is damaged: it is cut off: it has 150 of 152 bytes$/],
    [
      { replay: spoilt(bytes.with(-1, (bytes.at(-1) ?? 0) ^ 0xff)) },
      /is damaged: its checksum is not that of its bytes$/,
    ],
    [{ replay: spoilt(elsewhere) }, /is damaged: page 256 is out of range: the snapshot has 256 pages$/],
  ];
  for (const [options, sentence] of wrong) {
    const before = openFds();
    const warnings = await served(options, async (server) => {
      const vm = await SimulatedVm.ready(server.socket);
      await vm.must(`verify 0 ${MIB}`);
      assert.equal([...server.guests][0]?.numbers().prefetched, 0);
      await vm.exit();
    });
    assert.equal(warnings.length, 1, warnings.join('\n'));
    assert.match(warnings[0] ?? '', sentence);
    await until(() => openFds() <= before);
  }
});

test('a working set that is not there, or is something else, is an error before anybody connects', {
  timeout,
}, async () => {
  const socket = freshPath();
  await assert.rejects(serveFirecracker({ socket, memory, replay: freshPath('none') }), /none\d+/);
  const text = freshPath('text');
  copyFileSync(new URL(import.meta.url), text);
  await assert.rejects(serveFirecracker({ socket, memory, replay: text }));
  for (const record of [`${text}/impossible`, `${freshPath('none')}/impossible`, text]) {
    await assert.rejects(serveFirecracker({ socket, memory, record }), { code: 'ERR_PAGEFAULT_WORKING_SET' });
  }
  assert.equal(existsSync(socket), false);
  const folder = freshPath('folder');
  mkdirSync(folder);
  const warnings = await served({ record: `${folder}/impossible` }, async (server) => {
    const vm = await SimulatedVm.ready(server.socket);
    await touch(vm, [1]);
    rmdirSync(folder);
    await vm.exit();
    await until(() => server.guests.size === 0, 20_000);
  });
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? '', /impossible/);
});

test('a server that is closed has saved what each VM touched, whichever was saved last', { timeout }, async () => {
  const record = freshPath('ws');
  const server = await serveFirecracker({ socket: freshPath(), memory, record });
  const vms = await Promise.all([1, 2, 3].map(() => SimulatedVm.ready(server.socket)));
  for (const [i, vm] of vms.entries()) await touch(vm, [i]);
  await server.saveWorkingSet(); // of these three nothing is left to save
  const late = await SimulatedVm.ready(server.socket);
  await touch(late, [50]);
  for (const vm of [late, ...vms]) {
    const gone = once(server, 'gone');
    vm.kill();
    await gone;
  }
  await server.close();
  assert.equal((await readWorkingSet(record)).recordings, 4);
});
