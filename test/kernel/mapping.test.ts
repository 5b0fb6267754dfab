import assert from 'node:assert/strict';
import { constants } from 'node:buffer';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { type Advice, Mapping, type Protection, pageSize } from 'pagefault/kernel';
import { reserveHugePages } from '../helpers/huge-pages.js';
import { countDescriptors, mappedAt } from '../helpers/proc.js';
import { runNode } from '../helpers/run.js';

const page = pageSize();
const deadline = { timeout: 60_000 };

function refuses(call: () => unknown, name: string, code: string, message: RegExp): void {
  assert.throws(call, { name, code, message });
}

/** How a child process ends that runs `code` with the kernel's names in scope. */
async function ends(code: string): Promise<{ code: number | null; signal: NodeJS.Signals | null; stdout: string }> {
  const script = `import { Mapping, Memfd } from 'pagefault/kernel';\n${code}`;
  return runNode('--expose-gc', ['--input-type=module', '--eval', script], { timeoutMs: 30_000 });
}

test('anonymous memory reads zero, keeps what is written and is gone after unmap', deadline, () => {
  const before = countDescriptors();
  const memory = Mapping.anonymous(16 * page);
  assert.equal(memory.byteLength, 16 * page);
  assert.equal(memory.pageSize, page);
  assert.equal(memory.kind, 'anonymous');
  assert.equal(memory.address % BigInt(page), 0n);
  const bytes = new Uint8Array(memory.buffer);
  assert.equal(bytes.length, 16 * page);
  assert.ok(bytes.every((byte) => byte === 0));
  bytes[5 * page] = 7;
  assert.equal(memory.buffer, memory.buffer);
  assert.equal(new Uint8Array(memory.buffer)[5 * page], 7);
  assert.equal(mappedAt(memory.address)?.permissions, 'rw-p');
  memory.unmap();
  assert.equal(bytes.length, 0, 'the buffer is detached');
  assert.equal(memory.unmapped, true);
  memory.unmap();
  memory[Symbol.dispose]();
  assert.equal(countDescriptors(), before);
});

test('an unmapped Mapping refuses everything but unmap', deadline, () => {
  const memory = Mapping.anonymous(page);
  memory.unmap();
  const uses = [
    () => memory.buffer,
    () => memory.protect('read'),
    () => memory.advise('dontneed'),
    () => memory.patch(0, 'anonymous'),
  ];
  for (const use of uses) refuses(use, 'PagefaultError', 'ERR_PAGEFAULT_CLOSED', /this Mapping is unmapped/);
});

test('sizes that no mapping can have are refused in a sentence', deadline, () => {
  for (const size of [0, -page, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 2 ** 60]) {
    refuses(() => Mapping.anonymous(size), 'RangeError', 'ERR_PAGEFAULT_OUT_OF_RANGE', /byteLength must be a whole/);
  }
  refuses(() => Mapping.anonymous(page + 1), 'RangeError', 'ERR_PAGEFAULT_OUT_OF_RANGE', /the next one is/);
  refuses(() => Mapping.anonymous('1' as never), 'TypeError', 'ERR_PAGEFAULT_INVALID_ARGUMENT', /number of bytes/);
  assert.throws(() => Mapping.anonymous(2 ** 52), {
    name: 'SystemError',
    code: 'ERR_PAGEFAULT_SYSTEM',
    errno: 12,
    syscall: 'mmap',
    message: /no room for 4503599627370496 bytes.*RLIMIT_AS/,
  });
});

test('unknown options and values of the wrong kind are refused', deadline, () => {
  const wrong: [object, RegExp][] = [
    [{ protect: 'read' }, /no option 'protect'/],
    [{ protection: 'write' }, /protection must be one of 'none'/],
    [{ protection: 'toString' }, /protection must be one of/],
    [{ shared: 1 }, /shared must be true or false/],
    [{ address: 4096 }, /address must be a bigint/],
    [{ hugePages: 'yes' }, /hugePages must be true or a page size/],
  ];
  for (const [options, message] of wrong)
    assert.throws(() => Mapping.anonymous(page, options), { name: 'TypeError', message });
});

test('an exact address is taken, and never over something that is mapped', deadline, () => {
  const memory = Mapping.anonymous(4 * page);
  const { address } = memory;
  new Uint8Array(memory.buffer)[0] = 3;
  assert.throws(() => Mapping.anonymous(page, { address }), {
    errno: 17,
    message: /something is mapped there already/,
  });
  assert.throws(() => Mapping.anonymous(2 * page, { address: address - BigInt(page) }), { errno: 17 });
  assert.equal(new Uint8Array(memory.buffer)[0], 3);
  memory.unmap();
  const again = Mapping.anonymous(2 * page, { address });
  assert.equal(again.address, address);
  assert.equal(new Uint8Array(again.buffer)[0], 0);
  again.unmap();
});

test('addresses that no mapping can have are refused', deadline, () => {
  for (const address of [0n, -4096n, 1n << 64n, (1n << 64n) - 4096n]) {
    assert.throws(() => Mapping.anonymous(4 * page, { address }), {
      name: 'RangeError',
      message: /above 0|below 2\^64/,
    });
  }
  assert.throws(() => Mapping.anonymous(page, { address: 0x7000_0000_0001n }), {
    name: 'RangeError',
    message: /multiple/,
  });
  assert.throws(() => Mapping.anonymous(page, { address: 1n << 60n }), { name: 'SystemError', errno: 12 });
});

test('every protection is the one that the kernel shows', deadline, () => {
  const shown: Record<Protection, string> = {
    none: '---p',
    read: 'r--p',
    'read-write': 'rw-p',
    'read-execute': 'r-xp',
    'read-write-execute': 'rwxp',
  };
  for (const [protection, permissions] of Object.entries(shown) as [Protection, string][]) {
    const made = Mapping.anonymous(page, { protection });
    assert.equal(mappedAt(made.address)?.permissions, permissions);
    made.unmap();
    const changed = Mapping.anonymous(3 * page);
    changed.protect(protection, page, page);
    assert.equal(mappedAt(changed.address + BigInt(page))?.permissions, permissions);
    assert.equal(mappedAt(changed.address)?.permissions, 'rw-p');
    changed.unmap();
  }
});

test('a write that the protection forbids ends the process with SIGSEGV', deadline, async () => {
  const ended = await ends(`const m = Mapping.anonymous(${page});
    new Uint8Array(m.buffer)[0] = 1; m.protect('read');
    console.log(new Uint8Array(m.buffer)[0]); new Uint8Array(m.buffer)[0] = 2; console.log('alive');`);
  assert.equal(ended.signal ?? ended.code, 'SIGSEGV');
  assert.equal(ended.stdout, '1\n');
});

test('ranges outside of the mapping are refused', deadline, () => {
  const memory = Mapping.anonymous(4 * page);
  const wrong: [number, number | undefined][] = [
    [4 * page, undefined],
    [-page, undefined],
    [1, undefined],
    [0, 5 * page],
    [page, 4 * page],
    [0, 0],
    [0, 100],
    [2 ** 53, page],
  ];
  for (const [offset, length] of wrong) {
    assert.throws(() => memory.protect('read', offset, length), { name: 'RangeError' }, `${offset}, ${length}`);
    assert.throws(() => memory.advise('dontneed', offset, length), { name: 'RangeError' }, `${offset}, ${length}`);
    assert.throws(() => memory.patch(offset, 'anonymous', length === undefined ? {} : { byteLength: length }), {
      name: 'RangeError',
    });
  }
  memory.unmap();
});

test('dontneed drops pages, populate brings them, and the flags of the others show', deadline, () => {
  const memory = Mapping.anonymous(8 * page);
  const bytes = new Uint8Array(memory.buffer).fill(1);
  memory.advise('dontneed', 2 * page, 3 * page);
  assert.deepEqual(
    Array.from({ length: 8 }, (_, i) => bytes[i * page]),
    [1, 1, 0, 0, 0, 1, 1, 1],
  );
  memory.advise('populate-read');
  memory.advise('populate-write', page, page);
  const flags: [Advice, string][] = [
    ['dontfork', 'dc'],
    ['dontdump', 'dd'],
    ['nohugepage', 'nh'],
    ['wipeonfork', 'wf'],
  ];
  for (const [advice, flag] of flags) {
    memory.advise(advice);
    assert.ok(mappedAt(memory.address)?.flags.includes(flag), advice);
  }
  const harmless: Advice[] = [
    'normal',
    'random',
    'sequential',
    'dofork',
    'dodump',
    'keeponfork',
    'cold',
    'free',
    'pageout',
  ];
  for (const advice of harmless) memory.advise(advice);
  assert.deepEqual(
    mappedAt(memory.address)?.flags.filter((flag) => ['dc', 'dd', 'wf'].includes(flag)),
    [],
  );
  assert.throws(() => memory.advise('remove'), {
    name: 'SystemError',
    syscall: 'madvise',
    errno: 22,
    message: /does not fit/,
  });
  assert.throws(() => memory.advise('evict' as Advice), { name: 'TypeError', message: /advice must be one of/ });
  memory.unmap();
});

test('memory that is not inherited is marked so, patches of it too', deadline, () => {
  const memory = Mapping.anonymous(4 * page, { inherited: false, shared: true, populate: true, reserve: false });
  assert.ok(mappedAt(memory.address)?.flags.includes('dc'));
  assert.equal(mappedAt(memory.address)?.permissions, 'rw-s');
  memory.patch(page, 'anonymous', { byteLength: page });
  assert.ok(mappedAt(memory.address + BigInt(page))?.flags.includes('dc'));
  memory.unmap();
});

test('another thread sees the memory through bufferAt', deadline, async () => {
  const memory = Mapping.anonymous(2 * page);
  const bytes = new Uint8Array(memory.buffer);
  bytes[0] = 5;
  const code = `import { parentPort, workerData } from 'node:worker_threads';
    import { Mapping } from ${JSON.stringify(import.meta.resolve('pagefault/kernel'))};
    const bytes = new Uint8Array(Mapping.bufferAt(workerData));
    bytes[1] = bytes[0] + 1;
    parentPort.postMessage(bytes.length);`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(code)}`);
  const workerData = { address: memory.address, byteLength: memory.byteLength };
  const worker = new Worker(url, { workerData });
  const length = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  await worker.terminate();
  assert.equal(length, 2 * page);
  assert.equal(bytes[1], 6, 'and it is here when that thread has ended');
  memory.unmap();
});

test('many buffers over one address live and die beside each other', deadline, async () => {
  const ended = await ends(`const m = Mapping.anonymous(${4 * page});
    for (let i = 0; i < 2000; i++) new Uint8Array(Mapping.bufferAt(m))[i] = i;
    globalThis.gc?.();
    await new Promise((done) => setTimeout(done, 50));
    const a = Mapping.bufferAt(m); const b = new Uint8Array(m.buffer);
    m.unmap();
    console.log(a.byteLength, b.length);`);
  assert.equal(ended.code, 0);
  assert.equal(ended.stdout, `${4 * page} 0\n`);
});

test('bufferAt refuses what is no range and where nothing is mapped', deadline, () => {
  const memory = Mapping.anonymous(4 * page);
  const { address } = memory;
  memory.unmap();
  refuses(
    () => Mapping.bufferAt({ address, byteLength: page }),
    'RangeError',
    'ERR_PAGEFAULT_OUT_OF_RANGE',
    /nothing is mapped/,
  );
  for (const byteLength of [0, -page, 5, 2 ** 53]) {
    assert.throws(() => Mapping.bufferAt({ address, byteLength }), { name: 'RangeError' });
  }
  assert.throws(() => Mapping.bufferAt({ address: address + 1n, byteLength: page }), { name: 'RangeError' });
  assert.throws(() => Mapping.bufferAt({ address: 1, byteLength: page } as never), { name: 'TypeError' });
  assert.throws(() => Mapping.bufferAt(null as never), { name: 'TypeError' });
});

test('a mapping of more than a buffer holds is made, and its buffer refused with both numbers', deadline, () => {
  const byteLength = 2 ** 45 + page;
  const memory = Mapping.anonymous(byteLength, { protection: 'none', reserve: false });
  assert.throws(() => memory.buffer, {
    name: 'RangeError',
    message: new RegExp(`${byteLength} bytes are more than the \\d+ that`),
  });
  memory.unmap();
});

test('a buffer above 4 GiB, where the runtime holds one', deadline, () => {
  const byteLength = 5 * 2 ** 30;
  const memory = Mapping.anonymous(byteLength, { reserve: false });
  if (constants.MAX_LENGTH < byteLength) {
    assert.throws(() => memory.buffer, {
      name: 'RangeError',
      message: /5368709120 bytes are more than the 4294967296.*22 and later/,
    });
  } else {
    const bytes = new Uint8Array(memory.buffer);
    bytes[byteLength - 1] = 1;
    assert.equal(bytes.length, byteLength);
  }
  memory.unmap();
});

test('what is documented to end the process does', deadline, async () => {
  const unmapped = await ends(`const m = Mapping.anonymous(${page}); const b = new Uint8Array(Mapping.bufferAt(m));
    b[0] = 1; console.log('mapped'); m.unmap(); b[0] = 2; console.log('alive');`);
  assert.deepEqual([unmapped.signal, unmapped.stdout], ['SIGSEGV', 'mapped\n']);
  const shorter =
    await ends(`const f = Memfd.create('x', { byteLength: ${2 * page} }); const b = new Uint8Array(Mapping.memfd(f).buffer);
    b[${page}] = 1; console.log('long'); f.resize(${page}); b[0] = 1; b[${page}] = 2; console.log('alive');`);
  assert.deepEqual([shorter.signal, shorter.stdout], ['SIGBUS', 'long\n']);
});

test('huge pages: refused without any, whole ones where there are', deadline, (t) => {
  assert.throws(() => Mapping.anonymous(2 ** 21, { hugePages: 12345 }), {
    message: /no size of this kernel|no huge pages/,
  });
  const size = reserveHugePages(4);
  if (typeof size === 'string') return t.skip(size);
  assert.throws(() => Mapping.anonymous(size + page, { hugePages: true }), {
    name: 'RangeError',
    message: /page size, \d+ bytes/,
  });
  assert.throws(() => Mapping.anonymous(size * 2 ** 20, { hugePages: true }), {
    errno: 12,
    message: /\/proc\/sys\/vm\/nr_hugepages/,
  });
  const memory = Mapping.anonymous(2 * size, { hugePages: size });
  assert.equal(memory.pageSize, size);
  new Uint8Array(memory.buffer)[size] = 1;
  assert.throws(() => memory.advise('dontneed', page, page), {
    name: 'RangeError',
    message: /multiple of the page size/,
  });
  memory.advise('dontneed', size, size);
  assert.equal(new Uint8Array(memory.buffer)[size], 0);
  memory.unmap();
});
