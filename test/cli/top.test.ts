/** `pagefault top`: against a server with known numbers, in a terminal and without one. */
import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { type Observation, observeServer, type ServerSnapshot } from 'pagefault/observe';
import { until } from '../helpers/descriptors.js';
import { FakeGuest, FakeServer, NUMBERS } from '../helpers/observed.js';
import { runCli } from '../helpers/run.js';
import { assertRestored, inTerminal, withoutTerminal } from '../helpers/terminal.js';

const TIMEOUT_MS = 30_000;
const DEADLINE = { timeout: 60_000 };
const IN_TERMINAL = { ...DEADLINE, skip: withoutTerminal };

function serverOf(...names: string[]): FakeServer {
  const server = new FakeServer();
  for (const [i, name] of names.entries()) server.add(new FakeGuest(i, name, 4700 + i));
  return server;
}

async function observed(server: FakeServer, port = 0): Promise<{ observation: Observation; port: number }> {
  const observation = await observeServer(server, { metricsPort: port });
  return { observation, port: observation.metricsPort ?? 0 };
}

test('without a terminal it is one table', DEADLINE, async () => {
  const { observation, port } = await observed(serverOf('vm-a', 'vm-b'));
  const expected = /PID NAME +FLT\/S .*\n +4700 vm-a +240 .*\n +4701 vm-b +240 /;
  const ways = [[String(port)], [`http://localhost:${port}`, '--once'], [`127.0.0.1:${port}`, '--sort', 'pid']];
  for (const { code, stdout, stderr } of await Promise.all(ways.map((args) => runCli(['top', ...args])))) {
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(stdout, expected);
  }
  const { stdout } = await runCli(['top', String(port), '--json']);
  const { guests, pid } = JSON.parse(stdout) as ServerSnapshot;
  assert.equal(pid, process.pid);
  assert.deepEqual(guests[1], { id: 1, name: 'vm-b', pid: 4701, numbers: NUMBERS });
  await observation.close();
});

async function listening(answer: Parameters<typeof createServer>[1]): Promise<{ server: Server; port: number }> {
  const server = createServer(answer as () => void);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, port: (server.address() as AddressInfo).port };
}

test('a port where nobody shows guests is a sentence, with what to do', DEADLINE, async () => {
  const nobody = await observed(serverOf());
  await nobody.observation.close();
  const refused = await runCli(['top', String(nobody.port)]);
  assert.equal(refused.code, 1);
  assert.equal(
    refused.stderr,
    `pagefault: no guests can be seen at 127.0.0.1:${nobody.port}: nobody listens there\n` +
      '  A server shows its guests when it is started with --metrics PORT.\n',
  );

  const cases: [Parameters<typeof listening>[0], RegExp][] = [
    [(_request, response) => response.writeHead(503).end(), /it answers with status 503/],
    [(_request, response) => response.end('<html>'), /no server of this version of pagefault/],
    [(_request, response) => response.end('{"version":2,"guests":[]}'), /no server of this version of pagefault/],
    [(_request, response) => response.end('{"version":1,"guests":[{}]}'), /no server of this version of pagefault/],
    [(request) => request.socket.destroy(), /no guests can be seen at/],
  ];
  const asked = cases.map(async ([answer, sentence]) => {
    const { server, port } = await listening(answer);
    const { code, stdout, stderr } = await runCli(['top', String(port), '--json']);
    server.close();
    assert.deepEqual([code, stderr], [1, '']);
    const { error } = JSON.parse(stdout) as { error: { code: string; message: string } };
    assert.equal(error.code, 'ERR_PAGEFAULT_UNREACHABLE');
    assert.match(error.message, sentence);
  });
  await Promise.all(asked);
});

test(
  'in a terminal it goes on: numbers change, keys sort, a server that is gone for a while is waited for, q ends',
  IN_TERMINAL,
  async () => {
    const server = serverOf('vm-a', 'vm-b');
    const [first, second] = server.guests;
    let { observation, port } = await observed(server);
    const top = inTerminal(`top ${port} --interval 100 --sort name`, 'rows 24 cols 80');
    const frame = (): string => stripVTControlCharacters(top.shown().split('\x1b[J').at(-1) ?? '').replaceAll('\r', '');
    await until(() => /vm-a .*\n.*vm-b /.test(frame()), TIMEOUT_MS);
    assert.match(frame(), /keys: sort by b blocked/);

    if (second !== undefined) second.numbers = () => ({ ...NUMBERS, faults: Date.now() });
    await until(() => /guests, [\d.]+k? faults\/s/.test(frame()) && !/, 0 faults/.test(frame()), TIMEOUT_MS);
    top.type('f');
    await until(() => /vm-b .*\n.*vm-a /.test(frame()), TIMEOUT_MS);
    if (first !== undefined) first.restore = { done: 1000, total: 1000 };
    top.type('n');
    top.type('\x1b[B\x1b[B');
    await until(() => /^> +4701 vm-b /m.test(frame()) && frame().includes('by thread of vm-b'), TIMEOUT_MS);
    top.type('k');
    await until(() => /^> +4700 vm-a /m.test(frame()) && frame().includes('by thread of vm-a'), TIMEOUT_MS);
    await until(() => /vm-a .* done/.test(frame()), TIMEOUT_MS);

    await observation.close();
    await until(() => /no answer for \d.*: these are the last numbers/.test(frame()), TIMEOUT_MS);
    assert.match(frame(), /vm-a/);
    ({ observation, port } = await observed(server, port));
    await until(() => /keys: sort by/.test(frame()), TIMEOUT_MS);

    top.type('q');
    assert.equal(await top.ended, 0);
    assertRestored(top.shown());
    await observation.close();
  },
);

test('Ctrl-C ends it with 130 and the terminal as it was', IN_TERMINAL, async () => {
  const { observation, port } = await observed(serverOf('vm-a'));
  const top = inTerminal(`top ${port}`);
  await until(() => top.shown().includes('vm-a'), TIMEOUT_MS);
  top.type('\x03');
  assert.equal(await top.ended, 130);
  assertRestored(top.shown());
  await observation.close();
});
