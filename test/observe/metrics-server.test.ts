/** The endpoint for metrics: on loopback, and nothing but that. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { test } from 'node:test';
import { observeServer, type ServerSnapshot } from 'pagefault/observe';
import { openFds, until } from '../helpers/descriptors.js';
import { FakeGuest, FakeServer, NUMBERS } from '../helpers/observed.js';
import { parseMetrics, sampleOf } from '../helpers/prometheus.js';
import { run } from '../helpers/run.js';

const DEADLINE = { timeout: 30_000 };

interface Reply {
  status: number;
  headers: Readonly<Record<string, unknown>>;
  body: string;
}

function ask(port: number, path: string, options: { method?: string; host?: string } = {}): Promise<Reply> {
  const { method = 'GET', host = `127.0.0.1:${port}` } = options;
  return new Promise((resolve, reject) => {
    const asked = request({ port, path, method, agent: false, headers: { host } }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => {
        body += text;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
    asked.on('error', reject).end();
  });
}

async function serving(): Promise<{ port: number; server: FakeServer; close: () => Promise<void> }> {
  const server = new FakeServer();
  server.add(new FakeGuest(1, 'vm', 100));
  const observation = await observeServer(server, { metricsPort: 0 });
  return { port: observation.metricsPort ?? 0, server, close: () => observation.close() };
}

test('/metrics has the numbers of the moment, as Prometheus reads them', DEADLINE, async () => {
  const { port, server, close } = await serving();
  const first = await ask(port, '/metrics');
  assert.equal(first.status, 200);
  assert.equal(first.headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
  assert.equal(sampleOf(parseMetrics(first.body), 'pagefault_guest_faults_total'), NUMBERS.faults);
  for (const guest of server.guests) guest.now = { ...NUMBERS, faults: 5000 };
  const second = await ask(port, '/metrics?x=1');
  assert.equal(sampleOf(parseMetrics(second.body), 'pagefault_guest_faults_total'), 5000);
  await close();
});

test('/guests has the same as JSON', DEADLINE, async () => {
  const { port, close } = await serving();
  const { status, body, headers } = await ask(port, '/guests');
  assert.equal(status, 200);
  assert.equal(headers['content-type'], 'application/json');
  const { version, pid, guests } = JSON.parse(body) as ServerSnapshot;
  assert.deepEqual({ version, pid }, { version: 1, pid: process.pid });
  assert.deepEqual(guests, [{ id: 1, name: 'vm', pid: 100, numbers: NUMBERS }]);
  await close();
});

/** The addresses at which this port is listened to, as the kernel tells them. */
function listeningAt(port: number): string[] {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  return ['tcp', 'tcp6'].flatMap((name) =>
    readFileSync(`/proc/net/${name}`, 'latin1')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .filter(([, local, , state]) => state === '0A' && local?.endsWith(`:${wanted}`))
      .map(([, local = '']) => local.split(':')[0] ?? ''),
  );
}

test('it listens on 127.0.0.1 and nowhere else, until it is closed', DEADLINE, async () => {
  const before = openFds();
  const { port, close } = await serving();
  assert.deepEqual(listeningAt(port), ['0100007F']);
  await ask(port, '/metrics');
  await close();
  assert.deepEqual(listeningAt(port), []);
  await until(() => openFds() <= before);
});

test('other names, other paths and other methods get nothing', DEADLINE, async () => {
  const { port, close } = await serving();
  for (const host of ['attacker.example', `attacker.example:${port}`, '127.0.0.1.attacker.example']) {
    const { status, body } = await ask(port, '/metrics', { host });
    assert.equal(status, 421, host);
    assert.doesNotMatch(body, /faults/);
  }
  for (const host of [`localhost:${port}`, 'LOCALHOST', '127.0.0.1:1']) {
    assert.equal((await ask(port, '/metrics', { host })).status, 200);
  }
  for (const path of ['/', '/metrics/', '//metrics', '/guests/1', '/%6detrics', '*']) {
    assert.equal((await ask(port, path)).status, 404, path);
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
    const { status, headers } = await ask(port, '/metrics', { method });
    assert.deepEqual([status, headers['allow']], [405, 'GET, HEAD']);
  }
  const head = await ask(port, '/metrics', { method: 'HEAD' });
  assert.deepEqual([head.status, head.body], [200, '']);
  assert.ok(Number(head.headers['content-length']) > 100);
  await close();
});

test('a port that is taken, or none, is one sentence, and nothing stays open', DEADLINE, async () => {
  const { port, close } = await serving();
  const before = openFds();
  await assert.rejects(observeServer(new FakeServer(), { metricsPort: port, events: '/dev/null' }), {
    code: 'ERR_PAGEFAULT_SYSTEM',
    syscall: 'bind',
    message: new RegExp(`^metrics cannot be served on 127\\.0\\.0\\.1:${port}: something listens there already`),
  });
  for (const wrong of [-1, 65_536, 1.5, Number.NaN]) {
    await assert.rejects(observeServer(new FakeServer(), { metricsPort: wrong }), {
      code: 'ERR_PAGEFAULT_OUT_OF_RANGE',
      message: /^the port for metrics must be an integer from 0 \(any\) to 65535, not /,
    });
  }
  await assert.rejects(observeServer(new FakeServer(), { metricsPort: 0, events: '/nowhere/at/all' }), {
    code: 'ERR_PAGEFAULT_SYSTEM',
    message: /^events cannot be written to '\/nowhere\/at\/all': its directory does not exist/,
  });
  await until(() => openFds() <= before);
  await close();
});

test('unknown and wrong options are refused', DEADLINE, async () => {
  const misspelt = { metricPort: 1 } as object;
  await assert.rejects(observeServer(new FakeServer(), misspelt), {
    code: 'ERR_PAGEFAULT_UNKNOWN_OPTION',
    message: "observeServer(): there is no option 'metricPort'; did you mean 'metricsPort'?",
  });
  for (const intervalMs of [0, 9, Number.NaN, 2 ** 31]) {
    await assert.rejects(observeServer(new FakeServer(), { intervalMs }), { code: 'ERR_PAGEFAULT_OUT_OF_RANGE' });
  }
  for (const events of ['', 'a\0b', 3 as unknown as string]) {
    await assert.rejects(observeServer(new FakeServer(), { events }), { code: 'ERR_PAGEFAULT_INVALID_ARGUMENT' });
  }
});

test('neither metrics nor events keep a process alive', DEADLINE, async () => {
  const program = `import { observeServer } from 'pagefault/observe';
    await observeServer({ guests: [] }, { metricsPort: 0, events: '-', intervalMs: 10 });`;
  const { code, signal, stdout } = await run(process.execPath, ['--input-type=module', '-e', program], {
    timeoutMs: 20_000,
  });
  assert.deepEqual([code, signal], [0, null]);
  assert.match(stdout, /"event":"serving"/);
});
