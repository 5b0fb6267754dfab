/** What the options of `pagefault serve firecracker` do to the VMs that are served. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readWorkingSet } from 'pagefault/guests';
import { until } from '../helpers/descriptors.js';
import { type Daemon, startDaemon } from '../helpers/firecracker-daemon.js';
import { freshPath, memoryFile, SimulatedVm, storedBytes, wordAt, writeSparse } from '../helpers/firecracker-vm.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const BROKEN = 100 * PAGE;
const timeout = 90_000;
const toldStore = fileURLToPath(new URL('../fixtures/told-store.js', import.meta.url));

/** What the daemon has said of this type, once it has. */
async function told(daemon: Daemon, type: string, count = 1): Promise<Record<string, unknown>> {
  const of = (): Record<string, unknown>[] => daemon.told().filter((document) => document['type'] === type);
  await until(() => of().length >= count || daemon.process.exitCode !== null, 60_000);
  const document = of()[count - 1];
  assert.ok(document, `no ${type}, but ${daemon.stdout()}${daemon.stderr()}`);
  return document;
}

async function end(daemon: Daemon): Promise<void> {
  daemon.process.kill('SIGTERM');
  assert.equal(await daemon.ended, 143, daemon.stderr());
}

/** Threads of a process that have this name. */
function threadsNamed({ process: { pid } }: Daemon, name: string): number {
  return readdirSync(`/proc/${pid}/task`).filter(
    (tid) => readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8').trim() === name,
  ).length;
}

test('--diff puts layers on the memory, the last one on top; --threads N is how many answer', { timeout }, async () => {
  const base = storedBytes(MIB);
  base.fill(0xee, 10 * PAGE, 20 * PAGE);
  const paths = [freshPath('base'), freshPath('diff'), freshPath('diff')] as const;
  writeFileSync(paths[0], base);
  await writeSparse(paths[1], MIB, [
    [10 * PAGE, new Uint8Array(8 * PAGE).fill(0xdd)],
    [18 * PAGE, storedBytes(2 * PAGE, 18 * PAGE)],
  ]);
  await writeSparse(paths[2], MIB, [[10 * PAGE, storedBytes(8 * PAGE, 10 * PAGE)]]);
  const memory = ['--memory', paths[0], '--diff', `${paths[1]},${paths[2]}`];
  const daemon = await startDaemon([...memory, '--threads', '1']);
  const vm = await SimulatedVm.ready(daemon.socket);
  await vm.must(`verify 0 ${MIB} 2`);
  assert.equal(threadsNamed(daemon, 'pagefault peers'), 1);
  await vm.exit();
  await end(daemon);
});

test('--cap is as much of a working set as is kept, and as is loaded ahead', { timeout }, async () => {
  const memory = memoryFile(MIB);
  const [whole, capped, events] = [freshPath('ws'), freshPath('ws'), freshPath('events')];
  writeFileSync(events, '');
  const event = (name: string): { total?: number } | undefined =>
    readFileSync(events, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as { event: string; total?: number })
      .find((line) => line.event === name);
  const touchFour = async (socket: string): Promise<SimulatedVm> => {
    const vm = await SimulatedVm.ready(socket);
    for (const page of [9, 3, 7, 5]) await vm.must(`touch ${page * PAGE + 8}`, wordAt(page * PAGE + 8));
    return vm;
  };
  const recording = await startDaemon(['--memory', memory, '--record', whole, '--once']);
  await (await touchFour(recording.socket)).exit();
  assert.equal(await recording.ended, 0);
  assert.deepEqual([...(await readWorkingSet(whole)).runs.first], [9, 3, 7, 5]);

  const recordingLess = await startDaemon(['--memory', memory, '--record', capped, '--cap', '8KiB', '--once']);
  await (await touchFour(recordingLess.socket)).exit();
  assert.equal(await recordingLess.ended, 0);
  assert.deepEqual([...(await readWorkingSet(capped)).runs.first], [9, 3]);

  const replaying = await startDaemon([
    '--memory',
    memory,
    '--replay',
    whole,
    '--cap',
    '8KiB',
    '--events',
    events,
    '--json',
    '--once',
  ]);
  await until(() => event('serving') !== undefined, 60_000); // now nothing is missed
  const vm = await SimulatedVm.ready(replaying.socket);
  await until(() => event('restored') !== undefined, 60_000);
  assert.equal(event('restored')?.total, 2);
  await vm.exit();
  assert.equal(await replaying.ended, 0);
  const { prefetched, demand } = await told(replaying, 'gone');
  assert.deepEqual({ prefetched, demand }, { prefetched: 2, demand: 0 });
});

test('--store serves what a module of yours has, with the path of --memory or without one', { timeout }, async () => {
  const told = freshPath('told');
  writeFileSync(told, 'well');
  for (const memory of [[], ['--memory', told]]) {
    const daemon = await startDaemon(['--store', toldStore, ...memory]);
    const vm = await SimulatedVm.ready(daemon.socket);
    await vm.must(`verify 0 ${MIB} 4`);
    await vm.exit();
    await end(daemon);
  }
});

test('--on-failure park: the thread waits, the others go on, and SIGHUP has the page tried again', {
  timeout,
}, async () => {
  const path = freshPath('told');
  writeFileSync(path, `broken ${BROKEN}`);
  const daemon = await startDaemon(['--store', toldStore, '--memory', path, '--on-failure', 'park', '--json']);
  const vms = [await SimulatedVm.ready(daemon.socket), await SimulatedVm.ready(daemon.socket)];
  for (const vm of vms) await vm.must(`behind ${BROKEN + 8}`);
  await told(daemon, 'pageerror', 2);
  for (const vm of vms) await vm.must(`verify 0 ${BROKEN}`);
  daemon.process.kill('SIGHUP'); // nothing has been mended
  assert.equal((await told(daemon, 'pageerror', 4))['offset'], BROKEN);
  writeFileSync(path, 'well');
  daemon.process.kill('SIGHUP');
  for (const vm of vms) await vm.must('join', wordAt(BROKEN + 8));
  for (const vm of vms) await vm.exit();
  await end(daemon);
});

test('a memory file that was cut short is mended, and SIGHUP has its parked VM go on', { timeout }, async () => {
  const path = memoryFile(MIB);
  const supervisor = freshPath('supervisor');
  for (const more of [[], ['--supervise', supervisor]]) {
    const daemon = await startDaemon(['--memory', path, '--on-failure', 'park', '--json', ...more]);
    const vm = await SimulatedVm.ready(daemon.socket);
    await vm.must('touch 8', wordAt(8));
    truncateSync(path, BROKEN);
    await vm.must(`behind ${BROKEN + 8}`);
    assert.match(String((await told(daemon, 'pageerror'))['message']), /the page at offset 409600 .* cannot be had/);
    writeFileSync(path, storedBytes(MIB));
    daemon.process.kill('SIGHUP');
    await vm.must('join', wordAt(BROKEN + 8));
    await vm.must(`verify 0 ${MIB}`);
    await vm.exit();
    await told(daemon, 'gone');
    daemon.process.kill('SIGINT'); // SIGTERM leaves a supervised one's VMs to the next
    assert.equal(await daemon.ended, 130, daemon.stderr());
  }
});

test('--fault-timeout is how long a page may take until the VM is killed', { timeout }, async () => {
  const path = freshPath('told');
  writeFileSync(path, `held ${BROKEN}`);
  const daemon = await startDaemon(['--store', toldStore, '--memory', path, '--fault-timeout', '300', '--json']);
  const vm = await SimulatedVm.ready(daemon.socket);
  assert.equal(await vm.order(`touch ${BROKEN + 8}`), undefined);
  assert.deepEqual(await vm.ended, { code: null, signal: 'SIGKILL' });
  assert.match(String((await told(daemon, 'pageerror'))['message']), /did not answer within \d{1,4} ms/);
  await end(daemon);
});

test('--handshake-timeout is how long somebody may say nothing', { timeout }, async () => {
  const daemon = await startDaemon(['--memory', memoryFile(MIB), '--handshake-timeout', '200', '--json']);
  const silent = connect(daemon.socket);
  const closed = once(silent, 'close');
  assert.match(String((await told(daemon, 'refused'))['message']), /it sent nothing within 200 ms/);
  await closed;
  await end(daemon);
});

test('--owner gives the socket to somebody', { timeout }, async (t) => {
  const [uid = 0, gid = 0] = [process.getuid?.(), process.getgid?.()];
  const [wanted, group] = uid === 0 ? [1234, 5678] : [uid, gid];
  const daemon = await startDaemon(['--memory', memoryFile(MIB), '--owner', `${wanted}:${group}`]);
  await until(() => statSync(daemon.socket).uid === wanted, 60_000); // it listens a moment before
  const stats = statSync(daemon.socket);
  assert.deepEqual([stats.uid, stats.gid, stats.mode & 0o777], [wanted, group, 0o600]);
  await end(daemon);
  if (uid !== 0) t.diagnostic('only root can give it to somebody else');
});
