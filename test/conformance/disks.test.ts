/** Disks that are full, fail, or may not be written, and files that change under what was written: the real kernel's errors. On every backend. */

import assert from 'node:assert/strict';
import {
  closeSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Backend, type MapOptions, map, PageError, type Segment } from 'pagefault';
import { file } from 'pagefault/stores';
import { type Disk, formatDisk, imageDisk, memoryDisk, mountImage, refusal, withDisk } from '../helpers/disk.js';
import { runNode } from '../helpers/run.js';
import { onEachBackend, temporaryPath } from '../helpers/stores.js';
import { PAGE } from '../helpers/writable.js';

const limited = fileURLToPath(new URL('../fixtures/limited.js', import.meta.url));
const MIB = 2 ** 20;
const ENOSPC = 28;
const EIO = 5;

interface Written {
  segment: Segment;
  bytes: Uint8Array;
  model: Uint8Array;
}

/** A segment over a file of zeroes, which is made. */
async function zeroes(backend: Backend, path: string, byteLength: number, options: MapOptions = {}): Promise<Written> {
  const segment = await map(file(path, { create: byteLength }), {
    backend,
    writable: true,
    readahead: 0,
    name: 'on disk',
    ...options,
  });
  return { segment, bytes: segment.view(Uint8Array), model: new Uint8Array(byteLength) };
}

/** Writes something of its own to each of these pages, in memory and model. */
function modify({ segment, bytes, model }: Written, pages: Iterable<number>, seed = 1): void {
  for (const page of pages) {
    segment.attempt(() => {
      for (const at of [0, 1, 2048, PAGE - 1]) {
        bytes[page * PAGE + at] = page * 7 + at + seed;
        model[page * PAGE + at] = page * 7 + at + seed;
      }
    });
  }
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

/** The rejection of a flush: a PageError with a sentence and the number of the system. */
async function refused(
  flushing: Promise<void>,
  code: string,
  errno: number | undefined,
  message: RegExp,
): Promise<void> {
  await assert.rejects(flushing, (error: unknown) => {
    assert.ok(error instanceof PageError, String(error));
    assert.equal(error.code, code, error.message);
    assert.equal(error.errno, errno);
    assert.match(error.message, message);
    assert.doesNotMatch(error.message, /\n/);
    assert.equal(error.segment, 'on disk');
    return true;
  });
}

/** Takes all the room there is, in a file that can be removed. */
function fill(disk: Disk): () => void {
  const path = disk.file('ballast');
  const fd = openSync(path, 'w');
  const block = new Uint8Array(PAGE);
  try {
    for (;;) writeSync(fd, block);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
  }
  closeSync(fd);
  return () => rmSync(path);
}

/** More is written than there is room for; then room is made. */
async function runFull(backend: Backend, disk: Disk, makeRoom: () => void): Promise<void> {
  const path = disk.file('data');
  const written = await zeroes(backend, path, 4 * MIB);
  const { segment, model } = written;
  try {
    modify(written, range(8, 520));
    const before = segment.dirty();
    assert.deepEqual(before, [{ offset: 8 * PAGE, byteLength: 512 * PAGE }]);
    for (let i = 0; i < 2; i++) {
      await refused(
        segment.flush(),
        'ERR_PAGEFAULT_STORE_WRITE',
        ENOSPC,
        /could not .*\(ENOSPC: no space left on device\)/,
      );
      assert.deepEqual(segment.dirty(), before, 'what had been written is modified too');
    }
    await refused(segment.close(), 'ERR_PAGEFAULT_STORE_WRITE', ENOSPC, /no space left/i);
    modify(written, [600]);
    assert.deepEqual(segment.read(0, 4 * MIB), model);
    makeRoom();
    await segment.flush();
    assert.deepEqual(segment.dirty(), []);
    assert.deepEqual(new Uint8Array(readFileSync(path)), model);
  } finally {
    await segment.close({ discard: true });
  }
}

onEachBackend('a tmpfs that is full refuses the flush, and nothing is lost', async (backend, t) => {
  await withDisk(t, memoryDisk(MIB), (disk) => runFull(backend, disk, () => disk.remount('size=8m')));
});

onEachBackend('an ext4 that is full refuses the flush, and nothing is lost', async (backend, t) => {
  await withDisk(t, imageDisk(6 * MIB), async (disk) => {
    const empty = fill(disk);
    await runFull(backend, disk, empty);
  });
});

onEachBackend(
  'a disk that is full while pages must leave memory stops who needs the room, and loses nothing',
  async (backend, t) => {
    await withDisk(t, memoryDisk(MIB), async (disk) => {
      const path = disk.file('data');
      const written = await zeroes(backend, path, 4 * MIB, { resident: 128 * PAGE, faultTimeoutMs: 400 });
      const { segment, bytes, model } = written;
      try {
        const one = new Uint8Array(PAGE);
        let page = 0;
        let start = 0;
        const full = (error: unknown): boolean => {
          assert.ok(error instanceof PageError, String(error));
          assert.equal(error.code, 'ERR_PAGEFAULT_STORE_WRITE');
          assert.equal(error.errno, ENOSPC);
          assert.match(error.message, /could not .*\(ENOSPC: no space left on device\)/);
          assert.equal(error.page, page);
          const ms = performance.now() - start;
          assert.ok(ms > 300 && ms < 20_000, `after ${ms} ms`);
          return true;
        };
        assert.throws(() => {
          for (; page < 1024; page++) {
            start = performance.now();
            segment.write(page * PAGE, one.fill(page + 1));
            model.fill(page + 1, page * PAGE, (page + 1) * PAGE);
          }
        }, full);
        assert.ok(page > 255 && page < 512, `it went well up to page ${page}`);
        assert.throws(() => {
          for (; page < 1024; page++) {
            // part of what had to be written may have found room after all
            start = performance.now();
            segment.attempt(() => bytes[page * PAGE]);
          }
        }, full);
        await assert.rejects(segment.load(), { code: 'ERR_PAGEFAULT_STORE_WRITE' });
        await refused(segment.flush(), 'ERR_PAGEFAULT_STORE_WRITE', ENOSPC, /no space left/i);
        disk.remount('size=8m');
        await segment.load(page * PAGE, PAGE);
        for (page = 0; page < 1024; page += 3) {
          segment.write(page * PAGE, one.fill(page + 2));
          model.fill(page + 2, page * PAGE, (page + 1) * PAGE);
        }
        assert.deepEqual(segment.read(0, 4 * MIB), model, 'nothing was lost meanwhile');
        await segment.flush();
        assert.deepEqual(new Uint8Array(readFileSync(path)), model);
        assert.ok(segment.stats().writeBacks > 0 && segment.stats().writeFailures > 0);
      } finally {
        await segment.close({ discard: true });
      }
    });
  },
);

/** How the device of a disk fails to write the second half of itself, until it is mended. */
interface Failing {
  errno: number;
  message: RegExp;
  /** `image`: a file on `host`. Undefined, or the reason why it cannot be made to fail. */
  fail(image: string, host: Disk, device: () => string): string | undefined;
  mend(image: string, host: Disk, device: () => string): void;
}

const IMAGE = 8 * MIB;

/** A device that is shorter than its file system: the kernel says EIO. */
const cutOff: Failing = {
  errno: EIO,
  message: /EIO: i\/o error/,
  fail(image, _host, device) {
    truncateSync(image, 2 * MIB);
    return refusal('losetup', '-c', device());
  },
  mend(image, _host, device) {
    truncateSync(image, IMAGE);
    assert.equal(refusal('losetup', '-c', device()), undefined);
  },
};

/** A sparse device that cannot be filled: what is zero becomes a hole, and there is no room for what would fill it. */
const unfillable: Failing = {
  errno: ENOSPC,
  message: /ENOSPC: no space left on device/,
  fail(image, host) {
    for (let before = Infinity; statSync(image).blocks < before; ) {
      before = statSync(image).blocks;
      const undug = refusal('fallocate', '--dig-holes', image); // not all of them at once
      if (undug !== undefined) return undug;
    }
    const { blocks, bfree, bsize } = statfsSync(host.path);
    host.remount(`size=${(blocks - bfree) * bsize + 16 * PAGE}`);
    return undefined;
  },
  mend: (_image, host) => host.remount(`size=${2 * IMAGE}`),
};

interface FailingDisk {
  disk: Disk;
  image: string;
  fail(): void;
  mend(): void;
}

/** A disk without a journal, with a file of zeroes. */
function failingDisk(failing: Failing): FailingDisk | string {
  const host = memoryDisk(2 * IMAGE);
  if (typeof host === 'string') return host;
  const image = host.file('image');
  const disk = formatDisk(image, IMAGE) ?? mountImage(image);
  if (typeof disk === 'string') return disk;
  writeFileSync(disk.file('data'), new Uint8Array(4 * MIB));
  disk.sync();
  const device = (): string => disk.device();
  return {
    disk,
    image,
    fail: () => assert.equal(failing.fail(image, host, device), undefined),
    mend: () => failing.mend(image, host, device),
  };
}

/** Runs a body over a file on a disk that it lets fail and mends; then the device must have what the model has. */
async function onFailingDisk(
  t: TestContext,
  backend: Backend,
  failing: Failing,
  options: MapOptions,
  body: (written: Written, made: FailingDisk) => Promise<void>,
): Promise<void> {
  const made = failingDisk(failing);
  if (typeof made === 'string') return await withDisk(t, made, async () => {});
  await withDisk(t, made.disk, async (disk) => {
    const written = await zeroes(backend, disk.file('data'), 4 * MIB, options);
    try {
      await body(written, made);
    } finally {
      await written.segment.close({ discard: true });
    }
    disk.unmount(); // so that nothing of it is left in memory
    const again = mountImage(made.image, 'ro');
    if (typeof again === 'string') assert.fail(again);
    const device = new Uint8Array(readFileSync(again.file('data')));
    for (let page = 0; page < 1024; page++) {
      const [from, to] = [page * PAGE, (page + 1) * PAGE];
      assert.deepEqual(device.subarray(from, to), written.model.subarray(from, to), `page ${page}`);
    }
  });
}

for (const [name, failing] of [
  ['EIO', cutOff],
  ['ENOSPC', unfillable],
] as const) {
  onEachBackend(
    `a device that fails with ${name} refuses the flush, and the next one brings everything to it`,
    async (backend, t) => {
      await onFailingDisk(t, backend, failing, {}, async (written, { fail, mend }) => {
        const { segment, model } = written;
        await segment.load();
        fail();
        modify(written, range(0, 1024));
        const before = segment.dirty();
        for (let i = 0; i < 2; i++) {
          await refused(segment.flush(), 'ERR_PAGEFAULT_STORE_SYNC', failing.errno, failing.message);
          assert.deepEqual(
            segment.dirty(),
            before,
            'the kernel forgets what it could not write, so all of it is written again',
          );
        }
        mend();
        await segment.flush();
        assert.deepEqual(segment.dirty(), []);
        assert.deepEqual(segment.read(0, 4 * MIB), model);
      });
    },
  );
}

onEachBackend(
  'what eviction had written to a device that fails reaches it with the next flush too',
  async (backend, t) => {
    await onFailingDisk(t, backend, unfillable, { resident: 64 * PAGE }, async (written, { fail, mend }) => {
      const { segment, model } = written;
      fail();
      modify(written, range(0, 1024));
      assert.ok(segment.stats().writeBacks > 800, 'most have left memory');
      await refused(segment.flush(), 'ERR_PAGEFAULT_STORE_SYNC', unfillable.errno, unfillable.message);
      assert.deepEqual(segment.dirty(), [{ offset: 0, byteLength: 4 * MIB }], 'what had left memory is modified again');
      mend();
      await segment.flush();
      assert.deepEqual(segment.read(0, 4 * MIB), model);
    });
  },
);

test('a file that may not be written is refused in a sentence, whoever asks', async (t) => {
  const readOnly = (why: RegExp) => ({ name: 'StoreError', code: 'ERR_PAGEFAULT_STORE_READ_ONLY', message: why });
  await withDisk(t, imageDisk(2 * MIB), async (disk) => {
    const path = disk.file('data');
    writeFileSync(path, new Uint8Array(PAGE));
    const immutable = refusal('chattr', '+i', path);
    if (immutable === undefined) {
      await assert.rejects(
        map(file(path), { writable: true }),
        readOnly(/it may not be written \(is it immutable.*EPERM/),
      );
      assert.equal(refusal('chattr', '-i', path), undefined);
    } else t.diagnostic(immutable);
    disk.remount('ro');
    await assert.rejects(
      map(file(path), { writable: true }),
      readOnly(/its file system is mounted read-only \(EROFS\)/),
    );
    await assert.rejects(map(file(disk.file('new'), { create: PAGE }), { writable: true }), /read-only|EROFS/);
    const segment = await map(file(path));
    assert.equal(segment.read(0, 1)[0], 0);
    await segment.close();
  });
});

onEachBackend('a file that was cut off under what was written is not made longer again', async (backend) => {
  const path = temporaryPath();
  const written = await zeroes(backend, path, MIB, { resident: 64 * PAGE, faultTimeoutMs: 300 });
  const { segment, model } = written;
  try {
    modify(written, range(100, 120));
    await segment.flush();
    modify(written, range(110, 130), 2);
    const before = segment.dirty();
    truncateSync(path, 50 * PAGE);
    await refused(segment.flush(), 'ERR_PAGEFAULT_STORE_CHANGED', undefined, /changed/);
    assert.deepEqual(segment.dirty(), before);
    assert.equal(readFileSync(path).length, 50 * PAGE, 'nothing was written behind its new end');
    assert.throws(
      () => {
        for (const page of range(0, 200)) segment.write(page * PAGE, new Uint8Array(8).fill(1));
      },
      { name: 'PageError', code: /ERR_PAGEFAULT_STORE_(WRITE|CHANGED)/ },
    );
    assert.equal(readFileSync(path).length, 50 * PAGE);
    assert.deepEqual(
      segment.read(110 * PAGE, 20 * PAGE),
      model.slice(110 * PAGE, 130 * PAGE),
      'what was written is there still',
    );
    truncateSync(path, MIB);
    await segment.flush();
    assert.deepEqual(
      new Uint8Array(readFileSync(path)).slice(110 * PAGE, 130 * PAGE),
      model.slice(110 * PAGE, 130 * PAGE),
    );
    assert.deepEqual(segment.dirty(), []);
  } finally {
    await segment.close({ discard: true });
  }
});

onEachBackend(
  'a file that was replaced under what was written is not written, until invalidate() takes the new one',
  async (backend) => {
    const path = temporaryPath();
    const written = await zeroes(backend, path, 64 * PAGE);
    const { segment, model } = written;
    try {
      modify(written, range(10, 20));
      const before = segment.dirty();
      writeFileSync(`${path}.new`, new Uint8Array(64 * PAGE).fill(0xee));
      renameSync(`${path}.new`, path);
      await refused(segment.flush(), 'ERR_PAGEFAULT_STORE_CHANGED', undefined, /changed/);
      await refused(segment.close(), 'ERR_PAGEFAULT_STORE_CHANGED', undefined, /changed/);
      assert.deepEqual(segment.dirty(), before);
      assert.ok(readFileSync(path).every((byte) => byte === 0xee));
      segment.invalidate();
      await segment.flush();
      const now = new Uint8Array(readFileSync(path));
      assert.deepEqual(now.slice(10 * PAGE, 20 * PAGE), model.slice(10 * PAGE, 20 * PAGE));
      assert.equal(now[0], 0xee);
    } finally {
      await segment.close({ discard: true });
    }
  },
);

onEachBackend(
  'a file that may not be that long (RLIMIT_FSIZE) refuses the flush, and SIGXFSZ kills nobody',
  async (backend, t) => {
    const path = temporaryPath();
    writeFileSync(path, new Uint8Array(MIB));
    const why = refusal('prlimit', '--fsize=1000', 'true');
    if (why !== undefined) return t.skip(why);
    const limit = String(MIB / 2 + 100); // in the middle of a page: a short write comes first
    const { code, signal, stdout, stderr } = await runNode(limited, [backend, path, limit], { timeoutMs: 20_000 });
    assert.equal(code, 0, `${signal} ${stderr}`);
    assert.match(stdout, /^ERR_PAGEFAULT_STORE_WRITE 27 .*segment "limited".*\(EFBIG: file too large\)$/m);
    assert.match(stdout, new RegExp(`^modified ${MIB}$`, 'm'));
    assert.match(stdout, /^below the limit true$/m);
  },
);
