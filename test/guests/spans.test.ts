import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Spans } from '#dist/guests/spans.js';

const PAGE = 4096;

/** What the drawing of spans must equal: each page's address, or none. */
class Model {
  readonly addresses: (bigint | undefined)[];

  constructor(address: bigint, pages: number) {
    this.addresses = Array.from({ length: pages }, (_, i) => address + BigInt(i * PAGE));
  }

  move(from: bigint, to: bigint, byteLength: number): void {
    for (const [page, address] of this.addresses.entries()) {
      if (address !== undefined && address >= from && address < from + BigInt(byteLength)) {
        this.addresses[page] = to + (address - from);
      }
    }
  }

  remove(start: bigint, end: bigint): void {
    for (const [page, address] of this.addresses.entries()) {
      if (address !== undefined && address >= start && address < end) this.addresses[page] = undefined;
    }
  }
}

function compare(spans: Spans, model: Model): void {
  for (const [page, address] of model.addresses.entries()) {
    assert.equal(spans.addressOf(page * PAGE), address, `page ${page}`);
    if (address === undefined) continue;
    assert.equal(spans.offsetOf(address), page * PAGE);
    assert.equal(spans.offsetOf(address + 4095n), page * PAGE + 4095);
  }
}

test('pages keep their number through any moves and removals', () => {
  for (let seed = 1; seed <= 200; seed++) {
    let state = seed * 7919;
    const random = (below: number): number => {
      state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
      return Math.floor((state / 2 ** 31) * below);
    };
    const pages = 1 + random(20);
    const base = 0x7f00_0000_0000n;
    const spans = new Spans(base, pages * PAGE);
    const model = new Model(base, pages);
    let free = base + 0x1000_0000n;
    for (let step = 0; step < 12; step++) {
      const page = random(pages);
      const count = 1 + random(pages - page);
      const at = model.addresses[page] ?? base;
      if (random(2) === 0) {
        spans.remove(at, at + BigInt(count * PAGE));
        model.remove(at, at + BigInt(count * PAGE));
      } else {
        spans.move(at, free, count * PAGE);
        model.move(at, free, count * PAGE);
        free += 0x1000_0000n;
        assert.ok(spans.moved);
      }
      compare(spans, model);
    }
  }
});

test('an address outside, and the one just behind the end, belong to nobody', () => {
  const spans = new Spans(0x10000n, 2 * PAGE);
  assert.equal(spans.offsetOf(0xffffn), undefined);
  assert.equal(spans.offsetOf(0x12000n), undefined);
  assert.equal(spans.offsetOf(2n ** 64n - 1n), undefined);
  assert.equal(spans.addressOf(2 * PAGE), undefined);
  assert.deepEqual([...spans.within(0n, 2n ** 64n - 1n)], [[0, 2 * PAGE]]);
  assert.deepEqual([...spans.within(0x11000n, 0x11001n)], [[PAGE, PAGE + 1]]);
  assert.deepEqual([...spans.within(0x12000n, 0x13000n)], []);
});
