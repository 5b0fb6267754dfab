/** `pagefault serve firecracker`, from the command line. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { test } from 'node:test';
import { until } from '../helpers/descriptors.js';
import { type Daemon, startDaemon, startDaemonBy } from '../helpers/firecracker-daemon.js';
import { freshPath, memoryFile, SimulatedVm, wordAt } from '../helpers/firecracker-vm.js';
import { parseMetrics, sampleOf } from '../helpers/prometheus.js';
import { runCli } from '../helpers/run.js';

const PAGE = 4096;
const MIB = 2 ** 20;
const timeout = 90_000;
const memory = memoryFile(MIB);

/** One that listens. */
const serve = (...args: readonly string[]): Promise<Daemon> => startDaemon(['--memory', memory, ...args]);

/** The same, started by another program. */
function serveBy(program: string, before: readonly string[], ...args: readonly string[]): Promise<Daemon> {
  return startDaemonBy(program, before, ['--memory', memory, ...args]);
}

test('a VM is served, each thing that happens is a line, and the last VM ends it', { timeout }, async () => {
  const daemon = await serve('--once', '--mode', '660');
  assert.equal(statSync(daemon.socket).mode & 0o777, 0o660);
  const vm = await SimulatedVm.ready(daemon.socket, ['--regions', `${MIB / 2},${MIB / 2}`]);
  await vm.must(`verify 0 ${MIB} 2`);
  await vm.must(`remove 0 ${PAGE}`);
  await vm.must('touch 8', '0'.repeat(16));
  await vm.exit();
  assert.equal(await daemon.ended, 0);
  assert.equal(daemon.stderr(), '');
  const lines = daemon.stdout().split('\n');
  assert.match(lines[0] ?? '', /^listening at .*: a snapshot of 1\.00 MiB|^listening at .*: a snapshot of 1 MiB/);
  assert.match(lines[1] ?? '', new RegExp(`^VM ${vm.pid}: 2 regions, 1(\\.00)? MiB in pages of 4(\\.00)? KiB$`));
  assert.match(
    lines[2] ?? '',
    new RegExp(`^VM ${vm.pid}: gone after .*: \\d+ faults, \\d+ pages on demand, .*1 page given back$`),
  );
  assert.equal(existsSync(daemon.socket), false);
});

test('with --json each line is an object; what is refused is one, too; SIGTERM ends it and its VMs', {
  timeout,
}, async () => {
  const daemon = await serve('--json');
  const vm = await SimulatedVm.ready(daemon.socket);
  await vm.must('touch 8', wordAt(8));
  const refused = await SimulatedVm.ready(daemon.socket, ['--fds', 'none']);
  await refused.exit();
  await until(() => /refused/.test(daemon.stdout()), 20_000);
  daemon.process.kill('SIGTERM');
  assert.equal(await daemon.ended, 143);
  assert.deepEqual(await vm.ended, { code: null, signal: 'SIGKILL' });
  const documents = daemon
    .stdout()
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.deepEqual(
    documents.map(({ type }) => type),
    ['listening', 'guest', 'refused', 'gone'],
  );
  assert.equal(documents[1]?.['pid'], vm.pid);
  assert.equal(documents[2]?.['code'], 'ERR_PAGEFAULT_GUEST_HANDSHAKE');
  assert.match(String(documents[2]?.['message']), /no descriptor came with it/);
  assert.equal(existsSync(daemon.socket), false);
});

test('a server that hears late that a page was touched, and given up, brings no stale page', { timeout }, async () => {
  const daemon = await serve('--quiet');
  const vm = await SimulatedVm.ready(daemon.socket);
  await vm.must('verify 0 4096');
  for (let page = 10; page < 70; page++) {
    daemon.process.kill('SIGSTOP');
    await vm.must(`both ${page * PAGE}`);
    daemon.process.kill('SIGCONT'); // and reads both at once
    await vm.must('join-both');
  }
  await vm.must(`zero ${10 * PAGE} ${60 * PAGE} 2`);
  daemon.process.kill('SIGTERM');
  assert.equal(await daemon.ended, 143);
});

test('faults that have to wait until the memory has changed are told as deferred', { timeout }, async () => {
  const events = freshPath('events');
  const daemon = await serve('--quiet', '--metrics', '0', '--events', events);
  const vm = await SimulatedVm.ready(daemon.socket);
  await vm.must('verify 0 4096');
  const { 1: metrics = '' } = /^metrics: (\S+)$/m.exec(daemon.stderr()) ?? [];
  const deferred = async (): Promise<number> => {
    const samples = parseMetrics(await (await fetch(metrics)).text());
    return sampleOf(samples, 'pagefault_guest_deferred_faults_total', { pid: String(vm.pid) });
  };
  assert.equal(await deferred(), 0);
  for (let page = 10; page < 250 && (await deferred()) === 0; page++) {
    daemon.process.kill('SIGSTOP');
    await vm.must(`both ${page * PAGE}`);
    daemon.process.kill('SIGCONT'); // reads both at once: most likely sooner than the kernel has given the page up
    await vm.must('join-both');
  }
  const told = await deferred();
  assert.ok(told > 0);
  await vm.exit();
  await until(() => /"event":"gone"/.test(readFileSync(events, 'utf8')), 20_000);
  const lines = readFileSync(events, 'utf8').trimEnd().split('\n');
  const gone = lines.map((line) => JSON.parse(line)).find(({ event }) => event === 'gone');
  assert.equal(gone.numbers.deferred, told);
  daemon.process.kill('SIGTERM');
  assert.equal(await daemon.ended, 143);
});

test('a working set is saved when SIGUSR2 says so; SIGINT ends it', { timeout }, async () => {
  const record = freshPath('ws');
  const daemon = await serve('--record', record, '--quiet', '--metrics', '0', '--events', `${record}.events`);
  const vm = await SimulatedVm.ready(daemon.socket);
  await vm.must('touch 8', wordAt(8));
  daemon.process.kill('SIGUSR2');
  await until(() => existsSync(record), 20_000);
  daemon.process.kill('SIGINT');
  assert.equal(await daemon.ended, 130);
  assert.equal(daemon.stdout(), '');
  assert.match(daemon.stderr(), /^metrics: http:\/\/127\.0\.0\.1:\d+\/metrics\n$/);
  assert.match(readFileSync(`${record}.events`, 'utf8'), /"event":"guest"/);
});

test('a VM for whose descriptors there is no room is killed, and the next one is served', { timeout }, async () => {
  const daemon = await serveBy('/bin/sh', ['-c', 'ulimit -n 120; exec "$0" "$@"', process.execPath], '--json');
  const many = SimulatedVm.start(daemon.socket, ['--fds', 'many']);
  assert.deepEqual(await many.ended, { code: null, signal: 'SIGKILL' });
  await until(() => /refused/.test(daemon.stdout()), 20_000);
  assert.match(daemon.stdout(), /more descriptors were sent than there is room for/);
  const vm = await SimulatedVm.ready(daemon.socket);
  await vm.must(`verify 0 ${16 * PAGE}`);
  await vm.exit();
  daemon.process.kill('SIGTERM');
  assert.equal(await daemon.ended, 143);
});

test('a VM that has connected, and was not seen yet when the server ends, ends with it', { timeout }, async () => {
  const daemon = await serve('--json');
  daemon.process.kill('SIGSTOP');
  const vm = await SimulatedVm.ready(daemon.socket);
  daemon.process.kill('SIGINT');
  daemon.process.kill('SIGCONT');
  assert.deepEqual(await vm.ended, { code: null, signal: 'SIGKILL' });
  await daemon.ended;
});

test('a VM that is not visible from the process namespace of the server is refused', { timeout }, async (t) => {
  const unshared = ['--pid', '--fork', '--kill-child', '--mount-proc'];
  const tried = spawnSync('unshare', [...unshared, 'true']);
  if (tried.status !== 0) {
    t.skip('no process namespace can be made here');
    return;
  }
  const daemon = await serveBy('unshare', [...unshared, process.execPath], '--json');
  const vm = SimulatedVm.start(daemon.socket); // it may be hung up on before it has sent anything
  await until(() => /refused/.test(daemon.stdout()), 20_000);
  assert.match(
    daemon.stdout(),
    /a process that is not visible from here is refused: .* could not be ended when a page cannot be had/,
  );
  await vm.exit();
  daemon.process.kill('SIGKILL');
  await daemon.ended;
});

test('wrong command lines are named', { timeout }, async () => {
  const wrong: [string[], RegExp][] = [
    [['--memory', memory], /serve firecracker needs --socket PATH/],
    [['--socket', 's'], /serve firecracker needs --memory FILE, or --store MODULE/],
    [['--socket', 's', '--memory', memory, '--on-failure', 'zero'], /--on-failure must be one of kill, park/],
    [['--socket', 's', '--memory', memory, '--owner', 'root'], /--owner must be UID:GID/],
    [['--socket', 's', '--memory', memory, '--mode', '9'], /--mode must be three octal digits/],
    [['--socket', 's', '--store', 'm.js', '--diff', 'd'], /--diff is of memory files/],
    [['--sockets', 's'], /Did you mean --socket\?/],
  ];
  const ran = await Promise.all(wrong.map(([args]) => runCli(['serve', 'firecracker', ...args])));
  for (const [i, [args, sentence]] of wrong.entries()) {
    assert.equal(ran[i]?.code, 2, args.join(' '));
    assert.match(ran[i]?.stderr ?? '', sentence);
  }
  const absent = await runCli(['serve', 'firecracker', '--socket', freshPath(), '--memory', '/none.mem']);
  assert.equal(absent.code, 1);
  assert.match(absent.stderr, /none\.mem/);
});
