/** Events as lines of JSON: whoever reads them, the server goes on. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { EventLog } from '#dist/observe/event-log.js';
import { openFds, until } from '../helpers/descriptors.js';
import { root } from '../helpers/run.js';

const DEADLINE = { timeout: 60_000 };
const TIMEOUT_MS = 30_000;

function inFolder<T>(body: (folder: string) => Promise<T>): () => Promise<T> {
  return async () => {
    const folder = mkdtempSync(join(tmpdir(), 'pagefault-events-'));
    try {
      return await body(folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
}

function eventsIn(text: string): Record<string, unknown>[] {
  assert.ok(text.endsWith('\n'));
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

test(
  'lines are appended to what the file has, each an object with its time',
  DEADLINE,
  inFolder(async (folder) => {
    const before = openFds();
    const path = join(folder, 'events');
    writeFileSync(path, '{"at":"earlier","event":"old"}\n');
    const log = EventLog.open(path);
    log.write({ event: 'first', address: 0x7f00n, name: 'a\nb' });
    log.write({ event: 'second' });
    await log.close();
    log.write({ event: 'too late' });
    const [old, first, second, ...more] = eventsIn(readFileSync(path, 'utf8'));
    assert.deepEqual(more, []);
    assert.equal(old?.['event'], 'old');
    assert.ok(Math.abs(Date.parse(String(first?.['at'])) - Date.now()) < 60_000);
    assert.deepEqual([first?.['event'], first?.['address'], first?.['name']], ['first', '0x7f00', 'a\nb']);
    assert.equal(second?.['event'], 'second');
    assert.equal(openFds(), before);
  }),
);

test(
  'a pipe that nobody reads, a directory, and a directory that is not there are one sentence each',
  DEADLINE,
  inFolder(async (folder) => {
    const fifo = join(folder, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const before = openFds();
    const cases: [string, RegExp][] = [
      [fifo, /it is a pipe that nobody reads/],
      [folder, /it is a directory/],
      [join(folder, 'none', 'events'), /its directory does not exist/],
    ];
    for (const [path, message] of cases) {
      assert.throws(() => EventLog.open(path), { code: 'ERR_PAGEFAULT_SYSTEM', syscall: 'open', message });
    }
    assert.equal(openFds(), before);
  }),
);

test(
  'a reader that is slow makes nobody wait: what is too much is left out and counted',
  DEADLINE,
  inFolder(async (folder) => {
    const fifo = join(folder, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const reader = spawn('sh', ['-c', `exec 3<"${fifo}"; echo open; read go; cat <&3`], { stdio: 'pipe' });
    // Opened for reading and writing first, or the reader's own open would wait for a writer, and ours fail for want of a reader.
    const both = openSync(fifo, 'r+');
    await once(reader.stdout, 'data');
    const log = EventLog.open(fifo);
    closeSync(both);
    const sent = 3000;
    const padding = 'x'.repeat(5000);
    for (let i = 0; i < sent; i++) log.write({ event: 'e', i, padding });
    let read = '';
    reader.stdout.setEncoding('utf8').on('data', (text: string) => {
      read += text;
    });
    reader.stdin.end('go\n');
    const ended = once(reader, 'close');
    while (!read.includes('"event":"dropped"')) await new Promise((resolve) => setTimeout(resolve, 5));
    log.write({ event: 'last' });
    await log.close();
    await ended;
    const events = eventsIn(read);
    const dropped = events.find(({ event }) => event === 'dropped');
    const whole = events.filter(({ event }) => event === 'e');
    assert.deepEqual(
      whole.map(({ i }) => i),
      Array.from(whole, (_, i) => i),
      'in order, the first ones',
    );
    assert.equal(whole.length + Number(dropped?.['count']), sent);
    assert.equal(events.at(-1)?.['event'], 'last');
  }),
);

const TALKER = `
import { EventLog } from '#dist/observe/event-log.js';
const log = EventLog.open('-');
process.on('warning', (warning) => process.stderr.write('warned: ' + warning.message + '\\n'));
let sent = 0;
const timer = setInterval(() => {
  log.write({ event: 'e', padding: 'x'.repeat(200_000) });
  if (++sent === 50) process.stderr.write('full ');
}, 1);
process.stdin.on('data', () => { clearInterval(timer); log.close().then(() => { process.stderr.write('done'); process.exit(0); }); });
`;

/** The two ends of a pipe. Those that Node makes for a child are sockets. */
function pipe(): { reader: number; writer: number } {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-events-'));
  try {
    const path = join(folder, 'fifo');
    execFileSync('mkfifo', [path]);
    // Open for both, so that none of the three waits for another.
    const both = openSync(path, 'r+');
    const ends = { reader: openSync(path, 'r'), writer: openSync(path, 'w') };
    closeSync(both);
    return ends;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function talker(stdout: number | 'pipe'): ChildProcess & { said: () => string } {
  const child = spawn(process.execPath, ['--input-type=module', '-e', TALKER], {
    cwd: root,
    stdio: ['pipe', stdout, 'pipe'],
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  child.once('exit', () => clearTimeout(timer));
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  return Object.assign(child, { said: () => said });
}

async function assertGoesOn(child: ReturnType<typeof talker>): Promise<void> {
  const ended = once(child, 'close');
  await until(() => child.said().includes('nobody reads them any more'), TIMEOUT_MS);
  child.stdin?.end('stop\n');
  assert.deepEqual(await ended, [0, null]);
  assert.equal(child.said().match(/warned: events for stdout/g)?.length, 1);
  assert.match(child.said(), /done$/);
}

test('a reader of stdout that goes away is told of once, and the process goes on', DEADLINE, async () => {
  const child = talker('pipe');
  child.stdout?.once('data', () => child.stdout?.destroy());
  await assertGoesOn(child);

  const { reader, writer } = pipe();
  const other = talker(writer);
  closeSync(writer);
  await until(() => other.said().includes('full'), TIMEOUT_MS);
  closeSync(reader);
  await assertGoesOn(other);
});

/** The talker tells that it has more than fits. */
async function assertEnds(child: ReturnType<typeof talker>): Promise<void> {
  const ended = once(child, 'exit');
  await until(() => child.said().includes('full'), TIMEOUT_MS);
  child.stdin?.write('stop\n');
  assert.deepEqual(await ended, [0, null]);
}

test(
  'a reader of stdout that never reads keeps the process neither from its work nor from its end',
  DEADLINE,
  async () => {
    const child = talker('pipe');
    await assertEnds(child);
    child.stdout?.destroy();

    const { reader, writer } = pipe();
    await assertEnds(talker(writer));
    closeSync(writer);
    closeSync(reader);
  },
);
