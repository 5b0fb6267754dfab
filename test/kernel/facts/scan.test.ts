/** PAGEMAP_SCAN, huge pages and guards: facts 19 and 20 of docs/kernel.md. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { Mapping, type Range, scanPages, scanWritten, type UffdMode } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { type Bench, errnoOf, fact, filled, PAGE, pageNumbers, pagesOf } from '../../helpers/facts.js';

const { EBUSY, EINVAL, EPERM } = constants.errno;
const MADV_GUARD_INSTALL = 102;
const WP_MATCHING = 1n;
const WRITTEN = 2n;
const needs = { features: ['wp-async'], scan: true } as const;

/** Memory whose writes are tracked, with its first `present` pages there and armed. */
function tracked(bench: Bench, pages: number, present: number, modes: UffdMode[] = ['missing', 'write-protect']) {
  const uffd = bench.uffd({ features: ['wp-async'] });
  const memory = bench.memory(pages);
  uffd.register(memory, modes);
  if (present > 0) uffd.copy(memory.address, filled(1, present), { writeProtect: true });
  return { uffd, memory, bytes: new Uint8Array(memory.buffer) };
}

const written = (range: Range): number[] => pageNumbers(range, scanPages(range, { all: ['written'] }));
const writtenAndThere = (range: Range): number[] => pageNumbers(range, scanWritten(range));

fact('19. "written" alone is also said of pages that were never there, and of dropped ones', needs, (bench) => {
  const { memory, bytes } = tracked(bench, 6, 4);
  bytes[PAGE] = 2;
  memory.advise('dontneed', 3 * PAGE, PAGE);
  const naive = written(memory);
  assert.ok(naive.includes(1) && naive.length > 1, String(naive));
  assert.ok(!naive.includes(0) && !naive.includes(2), String(naive));
  assert.deepEqual(writtenAndThere(memory), [1]);
});

fact(
  '19. arming without CHECK_WPASYNC where no writes are tracked arms nothing and does not say so',
  needs,
  (bench) => {
    const uffd = bench.uffd({ features: ['pagefault-flag-wp'] });
    const memory = bench.memory(2);
    new Uint8Array(memory.buffer).fill(1);
    uffd.register(memory, 'write-protect');
    const fd = native().pagemapOpen(0);
    bench.undo(() => native().descriptorClose(fd));
    const end = memory.address + BigInt(memory.byteLength);
    const query = BigUint64Array.of(memory.address, end, WP_MATCHING, 0n, WRITTEN, 0n, WRITTEN, 0n);
    assert.equal(native().pagemapScan(fd, query, new BigUint64Array(30)), 0);
    // so re-arming through this library always checks
    assert.equal(
      errnoOf(() => scanWritten(memory, { rearm: true })),
      EPERM,
    );
  },
);

fact('19. one part that is not tracked is EPERM', needs, (bench) => {
  const { uffd, memory } = tracked(bench, 4, 4);
  uffd.unregister(pagesOf(memory, 3));
  assert.equal(
    errnoOf(() => scanWritten(memory, { rearm: true })),
    EPERM,
  );
  assert.deepEqual(scanWritten(pagesOf(memory, 0, 3), { rearm: true }), []);
});

fact('19. memory that is not registered counts as written, all that is there', needs, (bench) => {
  const memory = bench.memory(3);
  new Uint8Array(memory.buffer)[PAGE] = 1;
  assert.deepEqual(writtenAndThere(memory), [1]);
});

fact('19. a page of zeroes is written, present and "pfn-zero" at once', needs, (bench) => {
  const { uffd, memory } = tracked(bench, 1, 0);
  uffd.zeropage(memory);
  const [span] = scanPages(memory, { all: ['written', 'present'], report: ['written', 'present', 'pfn-zero'] });
  assert.deepEqual(span?.categories.names, ['written', 'present', 'pfn-zero']);
  assert.deepEqual(scanWritten(memory), []);
});

fact('19. a page that is copied in without write protection counts as written from the start', needs, (bench) => {
  const { uffd, memory } = tracked(bench, 2, 1);
  uffd.copy(memory.address + BigInt(PAGE), filled(2));
  assert.deepEqual(writtenAndThere(memory), [1]);
});

fact('19. a scan and its re-arming are one step: what is written after it is in the next', needs, (bench) => {
  const { memory, bytes } = tracked(bench, 4, 4);
  for (const page of [0, 2]) bytes[page * PAGE] = 2;
  assert.deepEqual(pageNumbers(memory, scanWritten(memory, { rearm: true })), [0, 2]);
  bytes[2 * PAGE] = 3;
  assert.deepEqual(pageNumbers(memory, scanWritten(memory, { rearm: true })), [2]);
});

function noHugePages(): string | false {
  try {
    const text = readFileSync('/sys/kernel/mm/transparent_hugepage/enabled', 'latin1');
    return text.includes('[never]') ? 'transparent huge pages are off' : false;
  } catch {
    return 'this kernel has no transparent huge pages';
  }
}

const HUGE = 2 ** 21;
const ENOUGH = { ...needs, skip: noHugePages() || (process.arch !== 'x64' && 'huge pages of another size') };

/** 2 MiB at a multiple of 2 MiB, that may become huge. */
function hugeRange(bench: Bench): { memory: Mapping; range: Range; offset: number } {
  const memory = bench.map(Mapping.anonymous(2 * HUGE));
  memory.advise('hugepage');
  const offset = Number((BigInt(HUGE) - (memory.address % BigInt(HUGE))) % BigInt(HUGE));
  return { memory, range: { address: memory.address + BigInt(offset), byteLength: HUGE }, offset };
}

const hugePages = (range: Range): number => pageNumbers(range, scanPages(range, { all: ['huge', 'present'] })).length;

fact(
  '20. a copy of 2 MiB is small pages, even where huge ones are wished for; collapse makes them one',
  ENOUGH,
  (bench) => {
    const uffd = bench.uffd();
    const { memory, range, offset } = hugeRange(bench);
    uffd.register(range, 'missing');
    uffd.copy(range.address, filled(1, HUGE / PAGE));
    assert.equal(hugePages(range), 0);
    memory.advise('collapse', offset, HUGE);
    assert.equal(hugePages(range), HUGE / PAGE);
  },
);

fact(
  '20. armed pages do not collapse; of a collapsed page that is armed each write tells one small page',
  ENOUGH,
  (bench) => {
    const uffd = bench.uffd({ features: ['wp-async'] });
    const { memory, range, offset } = hugeRange(bench);
    uffd.register(range, ['missing', 'write-protect']);
    uffd.copy(range.address, filled(1, HUGE / PAGE), { writeProtect: true });
    assert.ok([EINVAL, EBUSY].includes(errnoOf(() => memory.advise('collapse', offset, HUGE)))); // 6.18: EINVAL
    uffd.removeWriteProtection(range);
    memory.advise('collapse', offset, HUGE);
    uffd.writeProtect(range);
    new Uint8Array(memory.buffer)[offset + 7 * PAGE] = 1;
    assert.deepEqual(writtenAndThere(range), [7]);
  },
);

fact(
  '20. a guard in registered memory is no page: a copy replaces it, without a word',
  { skip: noGuards() },
  (bench) => {
    const uffd = bench.uffd();
    const memory = bench.memory(1);
    uffd.register(memory, 'missing');
    assert.equal(native().memoryAdvise(memory.address, PAGE, MADV_GUARD_INSTALL), 0);
    assert.equal(uffd.copy(memory.address, filled(1)), PAGE);
    assert.equal(new Uint8Array(memory.buffer)[0], 1);
  },
);

function noGuards(): string | false {
  const memory = Mapping.anonymous(PAGE);
  const result = native().memoryAdvise(memory.address, PAGE, MADV_GUARD_INSTALL);
  memory.unmap();
  return result === 0 ? false : 'needs MADV_GUARD_INSTALL (Linux 6.13)';
}
