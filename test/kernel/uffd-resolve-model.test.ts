/** resolve against a model: random runs over pages of which some are there, one by one, and threads that wait in the others. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Mapping, Memfd, pageSize, type Range, type Resolution, Uffd } from 'pagefault/kernel';
import { Random } from '../fuzz/random.js';
import { reserveHugePages } from '../helpers/huge-pages.js';
import { closeAll, nextEvent, toucher } from '../helpers/toucher.js';

const TIMEOUT = { timeout: 120_000 };
const SEED = Number(process.env['PAGEFAULT_SEED'] ?? Date.now() % 2 ** 31);
const PAGE = pageSize();
const PAGES = 24;

type Source = 'bytes' | 'range' | 'zero';

/** What each page holds; undefined: it is missing. */
class Model {
  readonly pages: (number | undefined)[];
  readonly mapping: Mapping;
  readonly uffd: Uffd;
  readonly #page: number;
  readonly #bytes: Uint8Array;
  readonly #source: Mapping;

  constructor(mapping: Mapping, page: number) {
    this.#page = page;
    this.mapping = mapping;
    this.uffd = Uffd.open();
    this.uffd.register(mapping, 'missing');
    this.pages = Array(mapping.byteLength / page).fill(undefined);
    this.#bytes = new Uint8Array(mapping.buffer);
    this.#source = Mapping.anonymous(mapping.byteLength);
  }

  part(first: number, count: number): Range {
    return { address: this.mapping.address + BigInt(first * this.#page), byteLength: count * this.#page };
  }

  resolve(first: number, count: number, value: number, kind: Source): Resolution {
    const { address, byteLength } = this.part(first, count);
    const { pages } = this;
    const pageSize = this.#page;
    const present = pages.slice(first, first + count).filter((page) => page !== undefined).length * pageSize;
    new Uint8Array(this.#source.buffer).fill(value, 0, byteLength);
    const bytes = kind === 'bytes' ? new Uint8Array(byteLength + 7).fill(value).subarray(7) : undefined;
    const done =
      kind === 'zero'
        ? this.uffd.resolve(address, 'zero', { byteLength, pageSize })
        : this.uffd.resolve(address, bytes ?? { address: this.#source.address, byteLength }, { pageSize });
    assert.deepEqual(done, { status: 'done', byteLength, copied: byteLength - present, present });
    for (let page = first; page < first + count; page++) pages[page] ??= kind === 'zero' ? 0 : value;
    return done;
  }

  /** Every page that is there holds at its ends what the model says. Missing ones are not looked at: this thread would wait for itself. */
  check(): void {
    this.pages.forEach((value, page) => {
      if (value === undefined) return;
      const at = page * this.#page;
      assert.deepEqual([page, this.#bytes[at], this.#bytes[at + this.#page - 1]], [page, value, value]);
    });
  }

  close(): void {
    closeAll(this.uffd, this.mapping, this.#source);
  }
}

function play(
  model: Model,
  random: Random,
  steps: number,
  kinds: readonly Source[],
  drop: (first: number) => void,
): void {
  const { pages } = model;
  for (let step = 0; step < steps; step++) {
    const first = random.below(pages.length);
    const count = random.between(1, pages.length - first);
    if (random.chance(0.5)) {
      for (let page = first; page < first + count; page++) {
        if (random.chance(0.6)) drop(page);
      }
    } else {
      model.resolve(first, count, random.between(1, 255), random.pick(kinds));
    }
    model.check();
  }
}

test('after resolve exactly the pages that were missing hold the new bytes', TIMEOUT, (t) => {
  t.diagnostic(`seed ${SEED}`);
  const random = new Random(SEED);
  const model = new Model(Mapping.anonymous(PAGES * PAGE), PAGE);
  play(model, random, 600, ['bytes', 'range', 'zero'], (page) => {
    model.mapping.advise('dontneed', page * PAGE, PAGE);
    model.pages[page] = undefined;
  });
  model.close();
});

test('the same in shared memory, where pages go by holes', TIMEOUT, (t) => {
  t.diagnostic(`seed ${SEED}`);
  const memfd = Memfd.create('model', { byteLength: PAGES * PAGE });
  const model = new Model(Mapping.memfd(memfd), PAGE);
  play(model, new Random(SEED + 1), 300, ['bytes', 'range', 'zero'], (page) => {
    memfd.punchHole(page * PAGE, PAGE);
    model.pages[page] = undefined;
  });
  model.close();
  memfd.close();
});

test('the same by huge pages, and a length that is none of them is refused', TIMEOUT, (t) => {
  const huge = reserveHugePages(4);
  if (typeof huge === 'string') return t.skip(huge);
  const memfd = Memfd.create('model', { byteLength: 4 * huge, hugePages: true });
  const model = new Model(Mapping.memfd(memfd), huge);
  play(model, new Random(SEED + 2), 30, ['bytes', 'range'], (page) => {
    memfd.punchHole(page * huge, huge);
    model.pages[page] = undefined;
  });
  assert.throws(() => model.uffd.resolve(model.mapping.address, new Uint8Array(huge / 2), { pageSize: huge }), {
    name: 'RangeError',
    message: /no whole pages of the option 'pageSize'/,
  });
  assert.throws(() => model.uffd.resolve(model.mapping.address, 'zero', { pageSize: huge }), {
    code: 'ERR_PAGEFAULT_ZEROPAGE_FAILED',
    errno: 22,
  });
  model.close();
  memfd.close();
});

test('all who wait in a run go on, on pages that were there and on those that were not', TIMEOUT, async (t) => {
  t.diagnostic(`seed ${SEED}`);
  const random = new Random(SEED + 3);
  const model = new Model(Mapping.anonymous(PAGES * PAGE), PAGE);
  const threads = await Promise.all([toucher(), toucher(), toucher()]);
  for (let round = 0; round < 25; round++) {
    model.mapping.advise('dontneed');
    model.pages.fill(undefined);
    const at = threads.map(() => random.below(PAGES));
    const reads = threads.map((thread, i) => thread.order('read', model.mapping, (at[i] ?? 0) * PAGE));
    for (const _ of threads) assert.equal((await nextEvent(model.uffd)).type, 'pagefault');
    for (let page = 0; page < PAGES; page++) {
      if (!random.chance(0.5)) continue;
      model.uffd.copy(model.part(page, 1).address, new Uint8Array(PAGE).fill(page + 100), { wake: false });
      model.pages[page] = page + 100;
    }
    model.resolve(0, PAGES, 7, 'bytes');
    assert.deepEqual(
      await Promise.all(reads),
      at.map((page) => model.pages[page]),
    );
    model.check();
  }
  await Promise.all(threads.map((thread) => thread.end()));
  model.close();
});

test('events that come in the middle of a run stop resolve until they are read', TIMEOUT, async () => {
  const uffd = Uffd.open({ features: ['event-remove'] });
  const mapping = Mapping.anonymous(PAGES * PAGE);
  uffd.register(mapping, 'missing');
  const dropper = await toucher();
  for (let round = 0; round < 20; round++) {
    const dropped = dropper.order('drop', { address: mapping.address, byteLength: PAGE });
    let done = 0;
    for (let tries = 0; done < mapping.byteLength && tries < 10_000; tries++) {
      const to = mapping.address + BigInt(done);
      const result = uffd.resolve(to, new Uint8Array(mapping.byteLength - done).fill(1));
      done += result.byteLength;
      if (result.status === 'again') uffd.readEvents();
      else assert.equal(result.status, 'done');
    }
    assert.equal(done, mapping.byteLength);
    while ((await Promise.race([dropped, new Promise((resolve) => setTimeout(resolve, 2, 'waits'))])) === 'waits') {
      uffd.readEvents();
    }
    assert.equal(await dropped, 0);
  }
  await dropper.end();
  uffd.unregister(mapping);
  mapping.unmap();
  uffd.close();
});

test('a source that is itself missing is refused, after the part of it that is there', TIMEOUT, async () => {
  const filler = Uffd.open({ features: ['sigbus'] });
  const missing = Mapping.anonymous(2 * PAGE);
  filler.register(missing, 'missing');
  const model = new Model(Mapping.anonymous(4 * PAGE), PAGE);
  const source = { address: missing.address, byteLength: 2 * PAGE };
  filler.copy(missing.address, new Uint8Array(PAGE).fill(3));
  assert.throws(() => model.uffd.resolve(model.mapping.address, source), {
    code: 'ERR_PAGEFAULT_PARTIALLY_COPIED',
    copied: PAGE,
    errno: 14,
  });
  model.pages[0] = 3;
  model.check();
  model.close();
  closeAll(filler, missing);
});
