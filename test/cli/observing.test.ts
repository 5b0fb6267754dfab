/** `--metrics PORT` and `--events FILE` of the commands that serve. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { GuestSnapshot, ServerSnapshot } from 'pagefault/observe';
import { isListening, until } from '../helpers/descriptors.js';
import { freshPath, memoryFile, SimulatedVm } from '../helpers/firecracker-vm.js';
import { HandClient, head } from '../helpers/page-server.js';
import { parseMetrics, sampleOf } from '../helpers/prometheus.js';
import { type Ran, runCli } from '../helpers/run.js';
import { patternFile, temporaryPath } from '../helpers/stores.js';

const DEADLINE = { timeout: 60_000 };

/** Runs the command; when it has said where its metrics are `body` looks at them, and then the command is ended. */
async function served(args: readonly string[], body: (port: number) => Promise<void>): Promise<Ran> {
  let acted: Promise<void> | undefined;
  const ran = await runCli(['serve', ...args], {
    timeoutMs: 45_000,
    onSpawn: (child) => {
      let said = '';
      child.stderr?.on('data', (text: Buffer) => {
        said += text;
      });
      const port = (): number => Number(/^metrics: http:\/\/127\.0\.0\.1:(\d+)\/metrics$/m.exec(said)?.[1] ?? 0);
      acted = until(() => port() > 0, 30_000)
        .then(() => body(port()))
        .finally(() => child.kill('SIGTERM'));
      acted.catch(() => {}); // told below
    },
  });
  await acted;
  return ran;
}

test(
  'a page server shows what it sends: as metrics, in top, and as events, which have stdout for themselves',
  DEADLINE,
  async () => {
    const socket = temporaryPath();
    const args = ['pages', '--socket', socket, '--memory', patternFile(65_536), '--metrics', '0', '--events', '-'];
    const { code, stdout, stderr } = await served(args, async (port) => {
      await until(() => isListening(socket));
      const client = await HandClient.connect(socket);
      client.send(head(0n, 4096), head(4096n, 4096), head(0n, 3));
      await client.rest();
      client.close();
      const samples = parseMetrics(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text());
      const told = (name: string): number => sampleOf(samples, `pagefault_page_server_${name}`);
      assert.deepEqual([told('pages_total'), told('bytes_total'), told('refused_total')], [2, 8192, 1]);
      const top = await runCli(['top', String(port)]);
      assert.match(top.stdout, /clients?, 2 pages \(8 KiB\) sent, 1 refused, 0 pages not to be had/);
    });
    assert.equal(code, 143, stderr);
    assert.match(stderr, /^2 pages \(8 KiB\) for 1 client, 1 refused/m, 'what is for people goes to stderr');
    const events = stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { event: string; client?: number });
    assert.deepEqual(
      events.map(({ event }) => event),
      ['serving', 'client', 'refused', 'gone', 'closed'],
    );
    assert.equal(events[1]?.client, 1);
  },
);

const PAGE = 4096;
const PAGES = 64;

test('VMs show faults, block time, what was brought ahead and how far their restore is', DEADLINE, async () => {
  const memory = memoryFile(PAGES * PAGE);
  const workingSet = freshPath('working-set');
  const events = freshPath('events');
  const regions = ['--regions', String(PAGES * PAGE)];
  const serve = (socket: string, ...more: string[]) => [
    ...['firecracker', '--socket', socket, '--memory', memory, '--metrics', '0', '--json', '--once'],
    ...more,
  ];

  const first = freshPath();
  const recorded = await served(serve(first, '--record', workingSet, '--events', '-'), async (port) => {
    const vm = await SimulatedVm.ready(first, regions);
    await vm.must(`verify ${8 * PAGE} ${16 * PAGE} 1`);
    const samples = parseMetrics(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text());
    const told = (name: string): number => sampleOf(samples, `pagefault_guest_${name}`, { pid: String(vm.pid) });
    assert.deepEqual([told('demand_pages_total'), told('fault_duration_seconds_count')], [16, 16]);
    assert.ok(told('thread_blocked_seconds_total') > 0);
    const top = await runCli(['top', String(port)]);
    assert.match(top.stdout, new RegExp(`^ *${vm.pid} .* 16 +0 +0 +0 +0 +-$`, 'm'));
    await vm.exit();
    await until(() => existsSync(workingSet), 30_000);
  });
  const lines = recorded.stdout.trimEnd().split('\n');
  for (const line of lines) assert.match(line, /^\{"at":"[^"]+","event":"\w+"/, 'stdout is for events alone');
  assert.match(recorded.stderr, /^\{"type":"listening",/m);

  const second = freshPath();
  await served(serve(second, '--replay', workingSet, '--events', events), async (port) => {
    const vm = await SimulatedVm.ready(second, regions);
    const look = async (): Promise<GuestSnapshot | undefined> => {
      const { guests } = (await (await fetch(`http://127.0.0.1:${port}/guests`)).json()) as ServerSnapshot;
      return guests[0];
    };
    let guest = await look();
    while (guest?.restore === undefined || guest.restore.done < guest.restore.total) guest = await look();
    assert.deepEqual(guest.restore, { done: 16, total: 16 });
    assert.equal(guest.numbers.prefetched, 16);
    const top = await runCli(['top', String(port)]);
    assert.match(top.stdout, new RegExp(`^ *${vm.pid} .* done$`, 'm'));
    await vm.exit();
    await until(() => readFileSync(events, 'utf8').includes('"event":"gone"'), 30_000);
  });
  const told = readFileSync(events, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { event: string; numbers?: { prefetched: number } });
  const names = told.map(({ event }) => event);
  for (const name of ['serving', 'guest', 'restored', 'gone']) assert.ok(names.includes(name), `${name} in ${names}`);
  assert.equal(told.findLast(({ event }) => event === 'gone')?.numbers?.prefetched, 16);
});

test(
  'a port that is none, one that is taken and a file that cannot be written to end it before it serves',
  DEADLINE,
  async () => {
    const socket = temporaryPath();
    const args = ['serve', 'pages', '--socket', socket, '--memory', patternFile(65_536)];
    const cases: [string[], number, RegExp][] = [
      [['--metrics', '65536'], 2, /--metrics must be a port from 0 \(any\) to 65535, not '65536'/],
      [['--metrics', 'x'], 2, /--metrics must be a whole number/],
      [
        ['--events', '/nowhere/at/all'],
        1,
        /events cannot be written to '\/nowhere\/at\/all': its directory does not exist/,
      ],
    ];
    for (const [more, expected, sentence] of cases) {
      const { code, stdout, stderr } = await runCli([...args, ...more]);
      assert.equal(code, expected, stderr);
      assert.match(stderr, sentence);
      assert.equal(stdout, '');
      assert.equal(existsSync(socket), false);
    }
  },
);
