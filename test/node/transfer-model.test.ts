/** Transfers and streams at random, some of them aborted, against plain arrays. PAGEFAULT_FUZZ_SEED repeats a run, PAGEFAULT_FUZZ_STEPS lengthens it. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Segment } from 'pagefault';
import { Random } from '../fuzz/random.js';
import { temporaryPath } from '../helpers/stores.js';
import { onEachWritable, PAGE, whileOpen, writable } from '../helpers/writable.js';

const seed = Number(process.env['PAGEFAULT_FUZZ_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const STEPS = Number(process.env['PAGEFAULT_FUZZ_STEPS'] ?? 40);
const LENGTH = 37 * PAGE + 55;
const FILE = 20 * PAGE + 1234;

interface World {
  segment: Segment;
  model: Uint8Array;
  fd: number;
  file: Uint8Array;
  below(n: number): number;
}

/** A range of the segment's: often short, often at a page's border. */
function range({ below }: World, whole: number): { offset: number; byteLength: number } {
  const offset = below(4) === 0 ? Math.min(whole, below(whole / PAGE) * PAGE) : below(whole + 1);
  const byteLength = below(3) === 0 ? whole - offset : Math.min(whole - offset, below(6 * PAGE));
  return { offset, byteLength };
}

/** An abort at some moment, or none. */
function aborting({ below }: World): { signal?: AbortSignal; stop(): void } {
  if (below(4) !== 0) return { stop() {} };
  const abort = new AbortController();
  let turns = below(5);
  let stopped = false;
  const tick = (): void => {
    if (stopped) return;
    if (turns-- === 0) abort.abort();
    else setImmediate(tick);
  };
  tick();
  return {
    signal: abort.signal,
    stop() {
      stopped = true;
    },
  };
}

/** Runs a transfer that may be aborted; resolves to the bytes that it says were transferred. */
async function transferred(world: World, run: (more: object) => Promise<number>): Promise<number> {
  const { signal, stop } = aborting(world);
  let bytes = 0;
  const onProgress = (now: number): void => {
    assert.ok(now >= bytes, 'progress goes forward');
    bytes = now;
  };
  try {
    const result = await run({ onProgress, ...(signal === undefined ? {} : { signal }) });
    return result;
  } catch (error) {
    assert.equal((error as Error).name, 'AbortError');
    return bytes;
  } finally {
    stop();
  }
}

const steps: Record<string, (world: World) => Promise<void>> = {
  async writeTo(world) {
    const { segment, model, fd, file, below } = world;
    const { offset, byteLength } = range(world, LENGTH);
    const position = below(FILE);
    const room = Math.min(byteLength, FILE - position);
    const wrote = await transferred(world, (more) =>
      segment.writeTo(fd, { offset, byteLength: room, position, ...more }),
    );
    file.set(model.subarray(offset, offset + wrote), position);
  },
  async readFrom(world) {
    const { segment, model, fd, file, below } = world;
    const { offset, byteLength } = range(world, LENGTH);
    const position = below(FILE);
    const read = await transferred(world, (more) => segment.readFrom(fd, { offset, byteLength, position, ...more }));
    assert.ok(read <= Math.min(byteLength, FILE - position));
    model.set(file.subarray(position, position + read), offset);
  },
  async createReadStream(world) {
    const { segment, model, below } = world;
    const { offset, byteLength } = range(world, LENGTH);
    let at = offset;
    const leaveAt = below(5) === 0 ? below(byteLength + 1) : byteLength + 1;
    for await (const chunk of segment.createReadStream({ offset, byteLength, highWaterMark: 1 + below(3 * PAGE) })) {
      assert.deepEqual(new Uint8Array(chunk), model.subarray(at, at + chunk.length));
      at += chunk.length;
      if (at - offset >= leaveAt) return;
    }
    assert.equal(at, offset + byteLength);
  },
  async createWriteStream(world) {
    const { segment, model, below } = world;
    const { offset, byteLength } = range(world, LENGTH);
    const bytes = new Uint8Array(byteLength).fill(below(256));
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < byteLength; ) {
      const length = 1 + below(2 * PAGE);
      chunks.push(bytes.subarray(at, at + length));
      at += length;
    }
    await pipeline(Readable.from(chunks), segment.createWriteStream({ offset, byteLength }));
    model.set(bytes, offset);
  },
  async evict({ segment }) {
    await segment.flush();
    segment.release();
  },
  async touch({ segment, model, below }) {
    const at = below(LENGTH);
    segment.view(Uint8Array)[at] = model[at] = below(256);
  },
};

onEachWritable(`transfers at random do what they do to plain arrays, seed ${seed}`, async (backend, kind) => {
  const random = new Random(seed);
  const written = await writable(backend, kind, LENGTH, { resident: 6 * PAGE, readahead: 'auto' });
  await whileOpen(written, async ({ segment, model }) => {
    const fd = fs.openSync(temporaryPath(), 'w+');
    const file = new Uint8Array(FILE).map((_, i) => i * 11);
    fs.writeSync(fd, file, 0, FILE, 0);
    const world: World = { segment, model, fd, file, below: (n) => random.below(n) };
    const names = Object.keys(steps);
    for (let i = 0; i < STEPS; i++) {
      const name = names[world.below(names.length)] ?? '';
      await steps[name]?.(world);
      assert.deepEqual(segment.read(0, LENGTH), model, `segment after step ${i}: ${name}, seed ${seed}`);
      const now = new Uint8Array(FILE);
      assert.equal(fs.readSync(fd, now, 0, FILE, 0), FILE);
      assert.deepEqual(now, file, `file after step ${i}: ${name}, seed ${seed}`);
    }
    await segment.flush();
    assert.deepEqual(written.contents(), model);
    fs.closeSync(fd);
  });
});
