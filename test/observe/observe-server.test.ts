/** What happens to a server of guests, as events, one JSON object a line. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ObservedServer, observeServer } from 'pagefault/observe';
import { until } from '../helpers/descriptors.js';
import { FakeGuest, FakeServer, NUMBERS } from '../helpers/observed.js';

const DEADLINE = { timeout: 30_000 };
/** Looks come when the test asks for them, and at the end. */
const NEVER_MS = 2 ** 31 - 1;

type Event = Record<string, unknown> & { event: string };

async function watched(
  server: ObservedServer,
  intervalMs: number,
  body: (look: () => void, events: () => Event[]) => Promise<void> | void,
): Promise<Event[]> {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-observe-'));
  try {
    const path = join(folder, 'events');
    const observation = await observeServer(server, { events: path, intervalMs });
    const events = (): Event[] =>
      readFileSync(path, 'utf8')
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Event);
    await body(() => observation.look(), events);
    await observation.close();
    await observation.close();
    return events();
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function namesOf(events: readonly Event[]): string[] {
  return events.map(({ event, guest }) => (guest === undefined ? event : `${event} ${guest}`));
}

test('a guest is told of when it comes and when it goes, and all its numbers when they change', DEADLINE, async () => {
  const server = new FakeServer();
  const events = await watched(server, NEVER_MS, (look) => {
    const guest = server.add(new FakeGuest(7, 'vm', 100));
    look();
    guest.now = { ...NUMBERS, atUs: 6_000_000 };
    look();
    guest.now = { ...NUMBERS, faults: 1300 };
    look();
    guest.emit('gone');
    look();
    server.guests.delete(guest);
    look();
  });
  assert.deepEqual(namesOf(events), ['serving', 'guest vm', 'numbers vm', 'numbers vm', 'gone vm', 'closed']);
  const [serving, came, first, second, gone] = events;
  assert.equal(serving?.['serverPid'], process.pid);
  assert.deepEqual({ ...came, at: 0 }, { at: 0, event: 'guest', guest: 'vm', id: 7, pid: 100 });
  // Faults, histogram, block time of each thread, demand, prefetched, wasted, zero, deferred, and the others.
  assert.deepEqual(first?.['numbers'], NUMBERS);
  assert.deepEqual([first?.['p50Ns'], first?.['p99Ns']], [6552, 1_845_284]);
  assert.deepEqual(second?.['numbers'], { ...NUMBERS, faults: 1300 });
  assert.deepEqual(gone?.['numbers'], { ...NUMBERS, faults: 1300 });
});

test('the progress of a restore is told, and its end', DEADLINE, async () => {
  const server = new FakeServer();
  const events = await watched(server, NEVER_MS, (look) => {
    const guest = server.add(new FakeGuest(1, 'vm', 100));
    for (const done of [0, 400, 400, 1000, 1000]) {
      guest.restore = { done, total: 1000 };
      look();
    }
  });
  const told = events.filter(({ event }) => event.startsWith('restore'));
  assert.deepEqual(
    told.map(({ event, guest, done, total }) => [event, guest, done, total]),
    [
      ['restore', 'vm', 0, 1000],
      ['restore', 'vm', 400, 1000],
      ['restored', 'vm', 1000, 1000],
    ],
  );
});

test('a server may tell of the progress in place of its guests, and the end is told at once', DEADLINE, async () => {
  const server = new FakeServer();
  await watched(server, NEVER_MS, (look, events) => {
    const guest = server.add(new FakeGuest(1, 'vm', 100));
    server.emit('progress', guest, 100, 1000);
    server.emit('progress', guest, 400, 1000);
    look();
    server.emit('progress', guest, 1000, 1000);
    const told = events().filter(({ event }) => event.startsWith('restore'));
    assert.deepEqual(
      told.map(({ event, done, total }) => [event, done, total]),
      [
        ['restore', 400, 1000],
        ['restored', 1000, 1000],
      ],
    );
  });
});

test('clients of a page server come, go, are refused and get no page', DEADLINE, async () => {
  const server = new EventEmitter();
  const client = { id: 3, peer: { pid: 77, uid: 0, gid: 0 } };
  const events = await watched(server, NEVER_MS, () => {
    server.emit('client', client);
    server.emit('pageerror', new Error('no such page'), { client, address: 0x8000_0000n });
    server.emit('refused', client, 'a page has 4096 bytes or more');
    server.emit('gone', client);
  });
  const who = { client: 3, pid: 77 };
  assert.deepEqual(
    events.slice(1, -1).map(({ at: _, ...event }) => event),
    [
      { event: 'client', ...who },
      { event: 'pageerror', ...who, address: '0x80000000', error: { message: 'no such page' } },
      { event: 'refused', ...who, error: { message: 'a page has 4096 bytes or more' } },
      { event: 'gone', ...who },
    ],
  );
});

test(
  'a page that cannot be had and a guest that is not let in are told at once, with their codes',
  DEADLINE,
  async () => {
    const server = new FakeServer();
    const error = Object.assign(new Error('page 3 cannot be read'), { code: 'ERR_PAGEFAULT_STORE' });
    const events = await watched(server, NEVER_MS, (_look, events) => {
      const guest = server.add(new FakeGuest(1, 'vm', 100));
      guest.emit('pageerror', error, { offset: 12_288 });
      server.emit('refused', new Error('three descriptors'));
      server.emit('warning', new Error('a working set of another snapshot'));
      assert.deepEqual(namesOf(events()).slice(-3), ['pageerror vm', 'refused', 'warning']);
    });
    const failed = events.find(({ event }) => event === 'pageerror');
    assert.deepEqual([failed?.['offset'], failed?.['error']], [12_288, { code: error.code, message: error.message }]);
    assert.deepEqual(events.find(({ event }) => event === 'refused')?.['error'], { message: 'three descriptors' });
  },
);

test('a server without events is looked at, and so are guests that were there before', DEADLINE, async () => {
  const guests = new Set([new FakeGuest(1, 'early', 100)]);
  const events = await watched({ guests }, 10, async (_look, events) => {
    const late = new FakeGuest(2, 'late', 101);
    guests.add(late);
    await until(() => namesOf(events()).includes('numbers late'));
    late.now = undefined;
    guests.delete(late);
    await until(() => namesOf(events()).includes('gone late'));
  });
  assert.deepEqual(namesOf(events), [
    'serving',
    'guest early',
    'numbers early',
    'guest late',
    'numbers late',
    'gone late',
    'closed',
  ]);
  assert.deepEqual(events.find(({ event }) => event === 'gone')?.['numbers'], NUMBERS, 'the last that were seen');
});

test('whoever observes leaves no listener behind', DEADLINE, async () => {
  const server = new FakeServer();
  const guest = server.add(new FakeGuest(1, 'vm', 100));
  await watched(server, NEVER_MS, () => {
    assert.equal(server.listenerCount('guest') + guest.listenerCount('gone'), 2);
  });
  assert.deepEqual([...server.eventNames(), ...guest.eventNames()], []);
});
