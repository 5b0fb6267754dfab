/** The engine for guests where it says no, and where it lets go. What it does with guests is tested with those of Firecracker. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { GuestEngine, type GuestParts, Snapshot } from 'pagefault/guests';
import { Mapping, Memfd, PidFd, probe, Uffd } from 'pagefault/kernel';
import { custom, file, memory, zero } from 'pagefault/stores';
import { nobody, runConfined } from '../helpers/confined.js';
import { openFds, until } from '../helpers/descriptors.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = 4096;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-engine-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function image(name: string, pages: number): string {
  const path = join(folder, name);
  writeFileSync(path, new Uint8Array(pages * PAGE).fill(7));
  return path;
}

const withUffd = probe().userfaultfd.userModeOnly.available ? {} : { skip: 'userfaultfd is not for this user' };

/** Memory of this process, which nobody touches, and a process that may be killed for it. */
function parts(snapshot: Snapshot, pages = 4): { parts: GuestParts; end: () => void } {
  const mapping = Mapping.anonymous(pages * PAGE);
  const uffd = Uffd.open({ userModeOnly: true });
  uffd.register(mapping, ['missing']);
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  const pidfd = PidFd.open(child.pid ?? 0);
  const regions = [{ address: mapping.address, byteLength: pages * PAGE, offset: 0 }];
  const end = (): void => {
    child.kill('SIGKILL');
    mapping.unmap();
  };
  return { parts: { uffd, pidfd, regions, pageSize: PAGE, snapshot, name: 'a guest' }, end };
}

test('a snapshot that cannot be opened says why, and leaves no descriptor', TIMEOUT, async () => {
  const before = openFds();
  const whole = image('whole', 4);
  const empty = join(folder, 'empty');
  closeSync(openSync(empty, 'w'));
  const cases: [unknown, RegExp][] = [
    [join(folder, 'missing'), /missing cannot be opened: there is no such file \(ENOENT\)$/],
    [folder, /is no regular file/],
    [empty, /is empty/],
    [[whole, image('short', 3)], /has 12288 bytes and .*whole 16384: layers of one snapshot are of one length/],
    [[], /1 to 64 layers, not 0/],
    [7, /a path, a list of paths, a store or a segment, not 7/],
    [null, /not null/],
  ];
  for (const [source, sentence] of cases) {
    await assert.rejects(Snapshot.open(source as string), sentence, String(source));
  }
  await assert.rejects(Snapshot.open(whole, { faultTimeout: 1 } as object), /faultTimeoutMs/);
  assert.equal(openFds(), before);
});

test('the identity of a snapshot is that of its files, or of what its store was named by', TIMEOUT, async () => {
  const path = image('image', 4);
  const open = async (source: Parameters<typeof Snapshot.open>[0]): Promise<string> => {
    await using snapshot = await Snapshot.open(source);
    return snapshot.identity;
  };
  const first = await open(path);
  assert.match(first, /^[0-9a-f]{64}$/);
  assert.equal(await open(path), first);
  assert.equal(await open(file(path)), first);
  assert.notEqual(await open([path, path]), first);
  utimesSync(path, 1, 1);
  assert.notEqual(await open(path), first);
  assert.equal(await open(memory(new Uint8Array(PAGE))), await open(memory(new Uint8Array(PAGE))));
  assert.notEqual(await open(memory(new Uint8Array(PAGE).fill(1))), await open(memory(new Uint8Array(PAGE))));
  assert.notEqual(await open(zero(PAGE)), await open(zero(2 * PAGE)));
  const moduleUrl = new URL('../fixtures/vm-store.js', import.meta.url);
  const control = new SharedArrayBuffer(64);
  assert.match(await open(custom(moduleUrl, { byteLength: 4 * PAGE, control })), /^[0-9a-f]{64}$/);
});

test('holes of files are no bytes to bring', TIMEOUT, async () => {
  const path = image('sparse', 4);
  truncateSync(path, 100 * PAGE);
  await using snapshot = await Snapshot.open(path);
  assert.equal(snapshot.byteLength, 100 * PAGE);
  assert.deepEqual(snapshot.extents(), { byteLength: 4 * PAGE, runs: 1 });
});

test('a guest that cannot be added is refused in a sentence, and stays the caller’s', {
  ...TIMEOUT,
  ...withUffd,
}, async () => {
  await using snapshot = await Snapshot.open(image('refused', 4));
  const engine = new GuestEngine();
  const { parts: good, end } = parts(snapshot);
  const [region] = good.regions;
  assert.ok(region);
  const tooShort = Memfd.create('states', { byteLength: 3 });
  const cases: [object, RegExp][] = [
    [{ pageSize: 1000 }, /pageSize must be a power of two from 4096 to 2\^30, not 1000/],
    [{ pageSize: 2 ** 31 }, /2\^30/],
    [{ onFailure: 'zero' }, /onFailure must be 'kill' or 'park', not 'zero'/],
    [{ regions: [] }, /there is no region/],
    [{ regions: [{ ...region, byteLength: 100 }] }, /is not made of whole pages of 4096 bytes/],
    [{ regions: [{ ...region, address: region.address + 1n }] }, /whole pages/],
    [{ regions: [{ ...region, offset: 10 }] }, /whole pages/],
    [{ regions: [region, { ...region, offset: PAGE }] }, /overlap/],
    [{ states: tooShort }, /the states have \d+ bytes for 4 pages|states/],
    [{ recrod: true }, /did you mean 'record'|record/],
  ];
  for (const [change, sentence] of cases) {
    if ('states' in change && tooShort.byteLength >= 4) continue; // rounded up to a page
    assert.throws(
      () => engine.add({ ...good, ...change } as GuestParts),
      sentence,
      JSON.stringify(Object.keys(change)),
    );
  }
  assert.ok(good.uffd.fd >= 0 && good.pidfd.isAlive());
  assert.equal(engine.guests.size, 0);
  good.uffd.close();
  good.pidfd.close();
  tooShort.close();
  await engine.close();
  assert.throws(() => engine.add(good), /the engine is closed/);
  end();
  assert.throws(() => new GuestEngine({ threads: 0 }), /threads must be a whole number from 1 to 16, not 0/);
});

test('a snapshot outlives its guests, and each that is closed is killed', { ...TIMEOUT, ...withUffd }, async () => {
  await new GuestEngine().close(); // the threads of the engine have a descriptor, once a process
  const before = openFds();
  const snapshot = await Snapshot.open(image('used', 4));
  const engine = new GuestEngine();
  const { parts: good, end } = parts(snapshot);
  const { pid } = good.pidfd;
  const guest = engine.add(good);
  assert.deepEqual([...engine.guests], [guest]);
  await assert.rejects(snapshot.close(), /cannot be closed while guests use it/);
  const { faults, pages, present, histogram } = guest.numbers();
  assert.deepEqual([faults, pages, present, histogram.length], [0, 4, 0, 40]);
  const watched = PidFd.open(pid);
  await guest.close();
  await until(() => !watched.isAlive());
  watched.close();
  assert.equal(guest.isOver, true);
  assert.equal(guest.numbers().pages, 4); // the last look stays
  assert.equal(engine.guests.size, 0);
  await snapshot.close();
  await engine.close();
  end();
  await until(() => openFds() <= before); // fewer: the Worker of a store of an earlier test has ended meanwhile
});

test('a snapshot that is closed twice while a guest lets go of it is closed once', {
  ...TIMEOUT,
  ...withUffd,
}, async () => {
  const snapshot = await Snapshot.open(image('twice', 4));
  const engine = new GuestEngine();
  const { parts: good, end } = parts(snapshot);
  const guest = engine.add(good);
  const both = [snapshot.close(), snapshot.close()];
  await guest.close();
  await Promise.all(both);
  await snapshot.close();
  const { parts: late, end: endLate } = parts(snapshot);
  const before = openFds();
  assert.throws(() => engine.add(late), /the snapshot is closed/);
  assert.equal(openFds(), before);
  late.uffd.close();
  late.pidfd.close();
  await engine.close();
  end();
  endLate();
});

test('a replay that another one has taken the place of calls off nothing', { ...TIMEOUT, ...withUffd }, async () => {
  await using snapshot = await Snapshot.open(image('two', 4));
  const engine = new GuestEngine();
  const { parts: good, end } = parts(snapshot);
  const guest = engine.add(good);
  const controller = new AbortController();
  const first = guest.replay(Uint32Array.of(0), { signal: controller.signal });
  const second = guest.replay(Uint32Array.of(1, 2));
  controller.abort();
  await Promise.all([first, second]);
  assert.ok(guest.numbers().prefetched >= 2);
  await engine.close();
  end();
});

test('a replay can be called off', { ...TIMEOUT, ...withUffd }, async () => {
  await using snapshot = await Snapshot.open(image('off', 4));
  const engine = new GuestEngine();
  const { parts: good, end } = parts(snapshot);
  const guest = engine.add(good);
  const reason = new Error('enough');
  await assert.rejects(guest.replay(Uint32Array.of(1), { signal: AbortSignal.abort(reason) }), reason);
  const progress: number[] = [];
  await guest.replay(Uint32Array.of(3, 1, 1, 99), { onProgress: (done) => progress.push(done) });
  assert.equal(progress.at(-1), 4);
  assert.equal(guest.numbers().prefetched, 2); // what is there twice, or nowhere, is passed over
  await assert.rejects(guest.replay([1] as unknown as Uint32Array), /must be a Uint32Array/);
  await engine.close();
  await guest.replay(Uint32Array.of(0)); // it has ended: nothing is to be done
  end();
});

test('an engine that no thread can be had for says so, and leaves no descriptor', TIMEOUT, async (t) => {
  const user = nobody(); // root has no limit of threads
  if ('reason' in user) return t.skip(user.reason);
  const script = fileURLToPath(new URL('../fixtures/threadless.js', import.meta.url));
  const { code, stdout, stderr } = await runConfined(user, script);
  assert.equal(code, 0, stderr);
  const { limited, first, again, left } = JSON.parse(stdout) as Record<string, { message: string }>;
  assert.equal(limited, 0, 'prlimit');
  assert.match(first?.message ?? '', /cannot be started: no thread can be had \(pthread_create: EAGAIN/);
  assert.deepEqual(first, {
    name: 'PagefaultError',
    code: 'ERR_PAGEFAULT_SPAWN',
    syscall: 'pthread_create',
    message: first?.message,
  });
  assert.deepEqual(again, first);
  assert.equal(left, 0);
});
