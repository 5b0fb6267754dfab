/** Pages that are taken away while the child changes its memory: none is dropped that was not protected before. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readSync } from 'node:fs';
import { test } from 'node:test';
import { Mapping, pageSize, Uffd } from 'pagefault/kernel';
import { Counters } from '#dist/guests/counters.js';
import { GUEST_PAGE } from '#dist/guests/pages.js';
import { GuestRegion, type RegionHost } from '#dist/guests/region.js';
import { Residency } from '#dist/guests/residency.js';

const PAGE = pageSize();
const PAGES = 5;
/** The one that is not the child's any more. */
const LOST = 2;

/** Bit 57 of an entry of /proc/self/pagemap: write-protected by a userfaultfd. */
function isProtected(address: bigint): boolean {
  const entry = new BigUint64Array(1);
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    readSync(fd, new Uint8Array(entry.buffer), 0, 8, (address / BigInt(PAGE)) * 8n);
  } finally {
    closeSync(fd);
  }
  return (((entry[0] ?? 0n) >> 57n) & 1n) === 1n;
}

test('a run of pages of which one has gone is taken away page by page, each protected first', {
  timeout: 30_000,
}, async () => {
  const uffd = Uffd.open({ features: ['pagefault-flag-wp'] });
  const mapping = Mapping.anonymous(PAGES * PAGE);
  uffd.register(mapping, ['missing', 'write-protect']);
  uffd.copy(mapping.address, new Uint8Array(PAGES * PAGE).fill(7));
  const pageAt = (address: bigint): number => Number(address - mapping.address) / PAGE;
  const copied: number[] = [];
  const dropped: number[] = [];
  const residency = new Residency((error) => assert.fail(String(error)));
  const host: RegionHost = {
    pid: process.pid,
    source: {
      byteLength: PAGES * PAGE,
      pageSize: undefined,
      read: () => null,
      hold: undefined,
      retries: false,
      close: async () => {},
    },
    policy: { strategy: 'budget', readahead: 1, residentBytes: PAGE, trackWrites: false },
    counters: new Counters(),
    residency,
    faultTimeoutMs: 10_000,
    observe: undefined,
    drop: async (address, byteLength) => {
      for (let at = 0; at < byteLength; at += PAGE) dropped.push(pageAt(address + BigInt(at)));
      mapping.advise('dontneed', Number(address - mapping.address), byteLength);
    },
    copyOut: (address, into) => {
      for (let at = 0; at < into.byteLength; at += PAGE) {
        assert.ok(isProtected(address + BigInt(at)), `page ${pageAt(address)} could be written after this`);
        copied.push(pageAt(address + BigInt(at)));
      }
      return new Set();
    },
    guard: (job) => job(),
    pageFailed: () => assert.fail(),
    broken: (error) => assert.fail(String(error)),
  };
  const { address, byteLength } = mapping;
  const parts = { index: 0, uffd, address, byteLength, pageSize: PAGE, storeOffset: 0, memory: 'mmap' } as const;
  const region = new GuestRegion({ ...parts, writeProtect: true }, host);
  for (let page = 0; page < PAGES; page++) {
    region.pages.set(page, GUEST_PAGE.dirty);
    residency.enter(region, page);
  }
  uffd.unregister({ address: address + BigInt(LOST * PAGE), byteLength: PAGE });
  await region.evict([0, 1, 2, 3, 4]);
  assert.deepEqual(copied.sort(), [0, 1, 3, 4]);
  assert.deepEqual(dropped.sort(), [0, 1, 3, 4]);
  assert.equal(region.residentBytes, 0);
  assert.equal(region.savedBytes, 4 * PAGE);
  assert.equal(new Uint8Array(mapping.buffer)[LOST * PAGE], 7); // it is somebody else's now
  mapping.unmap();
  region.end();
});
