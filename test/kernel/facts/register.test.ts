/** Registering: facts 4 and 5 of docs/kernel.md. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Mapping, type Range } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { type Bench, errnoOf, fact, filled, inChild, PAGE, pagesOf } from '../../helpers/facts.js';

const { EBUSY, EINVAL, ENOMEM, EPERM } = constants.errno;
const maxMapCount = Number(readFileSync('/proc/sys/vm/max_map_count', 'latin1'));

fact('4. memory that another userfaultfd has is EBUSY', {}, (bench) => {
  const [first, second] = [bench.uffd(), bench.uffd()];
  const memory = bench.memory(4);
  first.register(pagesOf(memory, 1), 'missing');
  assert.equal(
    errnoOf(() => second.register(memory, 'missing')),
    EBUSY,
  );
  second.register(pagesOf(memory, 2, 2), 'missing');
});

fact('4. the same userfaultfd may add modes', { features: ['pagefault-flag-wp'] }, (bench) => {
  const uffd = bench.uffd({ features: ['pagefault-flag-wp'] });
  const memory = bench.memory(1);
  assert.equal(uffd.register(memory, 'missing').has('writeprotect'), false);
  assert.equal(uffd.register(memory, ['missing', 'write-protect']).has('writeprotect'), true);
  uffd.copy(memory.address, filled(1), { writeProtect: true });
});

fact(
  '4. no mode, no mapping, and a minor mode on private memory are EINVAL',
  { features: ['minor-shmem'] },
  (bench) => {
    const uffd = bench.uffd({ features: ['minor-shmem'] });
    const memory = bench.memory(2);
    assert.equal(native().uffdRegister(uffd.fd, memory.address, PAGE, 0, new BigUint64Array(1)), -EINVAL);
    assert.equal(
      errnoOf(() => uffd.register(memory, 'minor')),
      EINVAL,
    );
    const gone: Range = { address: memory.address, byteLength: memory.byteLength };
    memory.unmap();
    assert.equal(
      errnoOf(() => uffd.register(gone, 'missing')),
      EINVAL,
    );
  },
);

function mappedFile(bench: Bench): Mapping {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-facts-'));
  bench.undo(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'file'), filled(1, 2));
  return bench.map(Mapping.file(join(folder, 'file'), { protection: 'read-write' }));
}

fact(
  '4. a regular file is EINVAL, but for write protection that is asynchronous',
  { features: ['wp-async'] },
  (bench) => {
    const file = mappedFile(bench);
    const sync = bench.uffd({ features: ['pagefault-flag-wp', 'wp-hugetlbfs-shmem', 'wp-unpopulated'] });
    assert.equal(
      errnoOf(() => sync.register(file, 'missing')),
      EINVAL,
    );
    assert.equal(
      errnoOf(() => sync.register(file, 'write-protect')),
      EINVAL,
    );
    const tracking = bench.uffd({ features: ['wp-async'] });
    assert.equal(
      errnoOf(() => tracking.register(file, 'missing')),
      EINVAL,
    );
    assert.ok(tracking.register(file, 'write-protect').has('writeprotect'));
  },
);

fact('4. a memory object that is mapped from a descriptor for reading is EPERM', {}, (bench) => {
  const memfd = bench.memfd(1);
  const fd = openSync(`/proc/self/fd/${memfd.fd}`, 'r');
  bench.undo(() => closeSync(fd));
  const memory = bench.map(Mapping.file(fd));
  assert.equal(
    errnoOf(() => bench.uffd().register(memory, 'missing')),
    EPERM,
  );
});

fact(
  '4. the calls a range has: more with write protection and minor faults, and one too many for shared memory',
  {
    features: ['move', 'minor-shmem', 'wp-hugetlbfs-shmem'],
  },
  (bench) => {
    const uffd = bench.uffd({ features: ['pagefault-flag-wp', 'move', 'minor-shmem', 'wp-hugetlbfs-shmem'] });
    const memory = bench.memory(1);
    const shared = bench.map(Mapping.memfd(bench.memfd(1)));
    const common = ['wake', 'copy', 'zeropage', 'move', 'poison'];
    const names = (range: Range, ...modes: ('missing' | 'write-protect' | 'minor')[]): string[] => [
      ...uffd.register(range, modes).names,
    ];
    assert.deepEqual(names(memory, 'missing'), common);
    assert.deepEqual(names(memory, 'missing', 'write-protect'), [
      'wake',
      'copy',
      'zeropage',
      'move',
      'writeprotect',
      'poison',
    ]);
    // 'move' is said of shared memory too, which it does not work on: see fact 16
    assert.deepEqual(names(shared, 'missing'), common);
    assert.deepEqual(names(shared, 'missing', 'minor'), ['wake', 'copy', 'zeropage', 'move', 'continue', 'poison']);
  },
);

const most = maxMapCount > 300_000 ? `vm.max_map_count is ${maxMapCount}: that many mappings take too long` : false;

fact(
  '5. each second page costs two mappings, and ENOMEM comes at half of vm.max_map_count',
  { skip: most },
  async () => {
    const { stdout, stderr } = await inChild(
      ({ kernel, core }, limit) => {
        const size = kernel.pageSize();
        const memory = kernel.Mapping.anonymous(2 * limit * size, { reserve: false });
        const { fd } = kernel.Uffd.open();
        const told = new BigUint64Array(1);
        let made = 0;
        let result = 0;
        while (result === 0 && made < limit) {
          result = core.uffdRegister(fd, memory.address + BigInt(2 * made * size), size, 1, told);
          if (result === 0) made++;
        }
        memory.unmap(); // whatever Node wants to map next must not fail
        return { result, made };
      },
      maxMapCount,
      50_000,
    );
    assert.equal(stderr, '');
    const { result, made } = JSON.parse(stdout) as { result: number; made: number };
    assert.equal(result, -ENOMEM);
    assert.ok(made < maxMapCount / 2 && made > maxMapCount / 2 - 5000, `${made} of ${maxMapCount}`);
  },
);
