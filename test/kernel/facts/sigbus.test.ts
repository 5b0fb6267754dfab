/** SIGBUS instead of messages: facts 13 and 14 of docs/kernel.md. What a handler of SIGBUS sees (si_code, address) is in native/test/signal_test.c. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { scanWritten } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { type Bench, errnoOf, fact, filled, inChild, PAGE, pageNumbers } from '../../helpers/facts.js';

const { EFAULT } = constants.errno;

fact(
  '13. the touch of a missing or a write-protected page ends the process with SIGBUS',
  {
    features: ['sigbus', 'pagefault-flag-wp'],
  },
  async () => {
    for (const what of ['missing', 'write-protect']) {
      const { signal, stdout } = await inChild(({ kernel, fs }, kind) => {
        const size = kernel.pageSize();
        const memory = kernel.Mapping.anonymous(size);
        const uffd = kernel.Uffd.open({ features: ['sigbus', 'pagefault-flag-wp'] });
        uffd.register(memory, ['missing', 'write-protect']);
        const bytes = new Uint8Array(memory.buffer);
        if (kind === 'write-protect') uffd.copy(memory.address, new Uint8Array(size).fill(7), { writeProtect: true });
        fs.writeSync(1, kind === 'write-protect' ? `read ${bytes[0]}` : 'touching');
        bytes[0] = 1;
        return 'through';
      }, what);
      assert.deepEqual([signal, stdout], ['SIGBUS', what === 'missing' ? 'touching' : 'read 7']);
    }
  },
);

function zeroes(bench: Bench): number {
  const fd = openSync('/dev/zero', 'r');
  bench.undo(() => closeSync(fd));
  return fd;
}

fact(
  '13. system calls on missing and on protected pages are EFAULT, and there is no message',
  {
    features: ['sigbus', 'pagefault-flag-wp'],
  },
  (bench) => {
    const uffd = bench.uffd({ features: ['sigbus', 'pagefault-flag-wp'] });
    const memory = bench.memory(2);
    uffd.register(memory, ['missing', 'write-protect']);
    uffd.copy(memory.address, filled(1), { writeProtect: true });
    const bytes = new Uint8Array(memory.buffer);
    const [zero, file] = [zeroes(bench), bench.memfd(2)];
    assert.equal(
      errnoOf(() => readSync(zero, bytes, PAGE, 1, null)),
      EFAULT,
      'read(2) into a missing page',
    );
    assert.equal(
      errnoOf(() => writeSync(file.fd, bytes, PAGE, 1, 0)),
      EFAULT,
      'write(2) from a missing page',
    );
    assert.equal(
      errnoOf(() => readSync(zero, bytes, 0, 1, null)),
      EFAULT,
      'read(2) into a protected page',
    );
    assert.equal(writeSync(file.fd, bytes, 0, 1, 0), 1, 'write(2) from a protected page');
    assert.equal(
      errnoOf(() => memory.advise('populate-read', PAGE, PAGE)),
      EFAULT,
    );
    assert.equal(native().descriptorIsReadable(uffd.fd), 0);
    assert.equal(uffd.readEvent(), undefined);
  },
);

fact(
  '14. with wp-async too, writes raise no signal and are all known, those of system calls as well',
  {
    features: ['sigbus', 'wp-async', 'move', 'poison'],
    scan: true,
  },
  (bench) => {
    const uffd = bench.uffd({ userModeOnly: true, features: ['sigbus', 'wp-async', 'move', 'poison'] });
    const memory = bench.memory(8);
    uffd.register(memory, ['missing', 'write-protect']);
    uffd.copy(memory.address, filled(1, 6), { writeProtect: true });
    const bytes = new Uint8Array(memory.buffer);
    bytes[PAGE] = 2;
    assert.equal(readSync(zeroes(bench), bytes, 3 * PAGE, 1, null), 1);
    assert.equal(bytes[4 * PAGE], 1);
    assert.equal(
      errnoOf(() => readSync(zeroes(bench), bytes, 7 * PAGE, 1, null)),
      EFAULT,
    );
    assert.deepEqual(pageNumbers(memory, scanWritten(memory)), [1, 3]);
  },
);
