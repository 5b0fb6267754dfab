/** The picture of `pagefault top`. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { guestKey, plainTerminal, renderTop, type ServerSnapshot, snapshotOf, topRows } from 'pagefault/observe';
import { buckets, FakeGuest, NUMBERS } from '../helpers/observed.js';

const source = '127.0.0.1:9090';

function restoring(): FakeGuest {
  const guest = new FakeGuest(1, 'vm-a', 4700);
  guest.restore = { done: 400, total: 1000 };
  return guest;
}

/** The cells of the line of a guest, by the titles of their columns. */
function cellsOf(lines: readonly string[], pid: number): Record<string, string> {
  const heading = lines.find((line) => /^ +PID /.test(line)) ?? assert.fail('no heading');
  const line = lines.find((text) => text.trimStart().startsWith(`${pid} `)) ?? assert.fail(`no line for ${pid}`);
  const titles = heading.trim().split(/\s+/);
  const cells = line
    .trim()
    .replaceAll(/ (ns|µs|ms|s)\b/g, '$1')
    .split(/\s+/);
  assert.equal(cells.length, titles.length, line);
  return Object.fromEntries(titles.map((title, i) => [title, cells[i] ?? '']));
}

test('a line of a guest has faults, latency, block time, demand, prefetched, wasted, zero, deferred pages and the restore', () => {
  const now = snapshotOf({ guests: [restoring()] });
  const cells = cellsOf(renderTop({ source, now, sort: 'blocked' }, plainTerminal(80)), 4700);
  assert.deepEqual(cells, {
    PID: '4700',
    NAME: 'vm-a',
    'FLT/S': '240',
    'BLOCK%': '690%',
    P99: '1.85ms',
    DEMAND: '1.1k',
    AHEAD: '2.2k',
    WASTED: '299',
    ZERO: '506',
    DEFER: '18',
    RESTORE: '40%',
  });
  const wide = cellsOf(renderTop({ source, now, sort: 'blocked' }, plainTerminal(120)), 4700);
  assert.deepEqual([wide['P50'], wide['FAILED'], wide['IN']], ['6.55µs', '9', '6%']);
});

test('below are the block times of its threads and the latency of all faults', () => {
  const now = snapshotOf({ guests: [restoring()] });
  const text = renderTop({ source, now, sort: 'blocked' }).join('\n');
  assert.match(text, /Blocked so far, by thread of vm-a \(4700\)/);
  assert.match(text, /^ +4711 +30 s +1k █+\n +4712 +4\.5 s +201 █+$/m);
  assert.match(text, /Fault latency so far, 1,201 faults: half within 6\.55 µs, 99 % within 1\.85 ms/);
  assert.match(text, /4\.1 µs - 8\.19 µs █+ 1,000$/m);
});

test('rates and latencies are those since the look before', () => {
  const guest = restoring();
  const before: ServerSnapshot = { ...snapshotOf({ guests: [guest] }), at: 10_000 };
  const histogram = buckets({ 5: 1, 12: 1000, 13: 150, 20: 50, 22: 100 });
  guest.now = { ...NUMBERS, faults: 1301, blockedUs: 35_000_000, histogram };
  const now: ServerSnapshot = { ...snapshotOf({ guests: [guest, new FakeGuest(2, 'new', 4701)] }), at: 12_000 };
  const [first, second] = topRows(now, before, 'pid');
  assert.deepEqual([Math.round(first?.faultsPerSecond ?? 0), first?.blocked], [50, 0.25]);
  assert.deepEqual([first?.p50, first?.p99], [2 ** 22 * 1.5, Math.round(2 ** 22 * 1.99)]);
  assert.equal(Math.round(second?.faultsPerSecond ?? 0), 240, 'one that was not there has the rates of its life');
  const [quiet] = topRows({ ...now, at: 13_000 }, now, 'pid');
  assert.deepEqual([quiet?.faultsPerSecond, quiet?.blocked, quiet?.p50, quiet?.p99], [0, 0, undefined, undefined]);
});

test('guests are in the order that is asked for', () => {
  const guests = ['b', 'a', 'c'].map((name, i) => {
    const guest = new FakeGuest(i, name, 100 + i);
    guest.now = {
      ...NUMBERS,
      faults: [10, 30, 20][i] ?? 0,
      blockedUs: [30, 10, 20][i] ?? 0,
      histogram: buckets({ [[10, 12, 11][i] ?? 0]: 1 }),
    };
    return guest;
  });
  const now = snapshotOf({ guests });
  const names = (sort: Parameters<typeof topRows>[2]): string =>
    topRows(now, undefined, sort)
      .map((row) => row.guest.name)
      .join('');
  assert.equal(names('blocked'), 'bca');
  assert.equal(names('faults'), 'acb');
  assert.equal(names('latency'), 'acb');
  assert.equal(names('name'), 'abc');
  assert.equal(names('pid'), 'bac');
});

test('it fits its terminal, however many guests there are', () => {
  const guests = Array.from({ length: 300 }, (_, i) => {
    const guest = new FakeGuest(i, `firecracker-${i}.socket`, 1_000_000 + i);
    guest.restore = { done: i, total: 299 };
    return guest;
  });
  const stats = () => ({
    clients: 1000,
    connections: 1,
    pages: 1e9,
    bytes: 1e13,
    refused: 1e6,
    failures: 1e6,
    retries: 0,
    forwardedSignals: 0,
    handlerReinstalls: 0,
  });
  for (const count of [0, 1, 5, 300]) {
    for (const columns of [40, 60, 80, 120]) {
      for (const rows of [8, 23, 60]) {
        const now = snapshotOf({ guests: guests.slice(0, count), stats });
        const lines = renderTop({ source, now, sort: 'faults', rows, keys: 'q end' }, plainTerminal(columns));
        assert.ok(lines.length <= rows, `${count} guests: ${lines.length} lines of ${rows}`);
        for (const line of lines) assert.ok([...line].length <= columns, line);
        assert.equal(lines.at(-1), 'q end');
        if (count > rows) assert.match(lines.join('\n'), /^and \d+ guests more$/m);
      }
    }
  }
  const all = renderTop({ source, now: snapshotOf({ guests }), sort: 'faults' });
  assert.equal(all.filter((line) => /^ 1000\d\d\d /.test(line)).length, 300, 'all of them where nothing limits it');
});

test('the guest that is picked is seen and marked, wherever it is, and the threads are its own', () => {
  const guests = Array.from({ length: 100 }, (_, i) => new FakeGuest(i, `vm-${i}`, 1000 + i));
  const now = snapshotOf({ guests });
  for (const picked of [0, 1, 50, 98, 99]) {
    const selected = guestKey({ id: picked, pid: 1000 + picked });
    const lines = renderTop({ source, now, sort: 'pid', rows: 30, selected });
    assert.ok(lines.length <= 30);
    const marked = lines.filter((line) => line.startsWith('>'));
    assert.equal(marked.length, 1);
    assert.match(marked[0] ?? '', new RegExp(`^> +${1000 + picked} vm-${picked} `));
    assert.ok(lines.includes(`Blocked so far, by thread of vm-${picked} (${1000 + picked}), with faults`));
    assert.ok(lines.filter((line) => /^[> ] +1\d\d\d vm-/.test(line)).length >= 8, 'as many as ever');
  }
  const gone = renderTop({ source, now, sort: 'pid', rows: 30, selected: guestKey({ id: 7, pid: 1 }) });
  assert.ok(gone.includes('Blocked so far, by thread of vm-0 (1000), with faults'));
  assert.ok(!gone.some((line) => line.startsWith('>')));
});

test('a name cannot move the cursor', () => {
  const now = snapshotOf({ guests: [new FakeGuest(1, '\x1b[2Jgone\n\u202e', 4700)] });
  const text = renderTop({ source, now, sort: 'faults' }, plainTerminal(120)).join('\n');
  assert.ok(!text.includes('\x1b') && !text.includes('\u202e'));
  assert.match(text, /4700 \?\[2Jgone\?\? /);
});

test('a server that does not answer is told of in place of the keys', () => {
  const now = snapshotOf({ guests: [restoring()] });
  const lines = renderTop({ source, now, sort: 'faults', rows: 23, trouble: 'no answer', keys: 'q end' });
  assert.equal(lines.at(-1), 'no answer');
  assert.ok(!lines.includes('q end'));
});

test('ASCII is enough', () => {
  const text = renderTop(
    { source, now: snapshotOf({ guests: [restoring()] }), sort: 'faults' },
    plainTerminal(80, false),
  ).join('\n');
  assert.doesNotMatch(text.replaceAll('µs', 'us'), /[^\x20-\x7e\n]/);
});
