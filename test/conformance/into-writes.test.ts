/** Memory that exists, written: by JavaScript, by WebAssembly, where it grows, however writes are tracked. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { map } from 'pagefault';
import { PAGE_STATE } from '#dist/native/binding.js';
import { instantiate, isTrap, makeMemory, WASM_PAGE } from '../fixtures/wasm.js';
import { Random } from '../fuzz/random.js';
import { given, onEachMemory } from '../helpers/memories.js';
import { skipOlderKernels } from '../helpers/older-kernels.js';
import { runNode } from '../helpers/run.js';
import { backends, onEachBackend } from '../helpers/stores.js';
import { PAGE, type WritableKind, whileOpen, writable, writableKinds, writableStore } from '../helpers/writable.js';

for (const store of writableKinds) {
  onEachMemory(`what is written to memory that exists reaches the store: ${store}`, async (backend, kind) => {
    const into = given(kind, 40 * PAGE);
    await whileOpen(
      await writable(backend, store, 40 * PAGE, { into }),
      async ({ segment, bytes, model, contents }) => {
        for (const at of [0, 3 * PAGE + 17, 4 * PAGE, 39 * PAGE + 5]) {
          bytes[at] = (bytes[at] ?? 0) ^ 0x5a;
          model[at] = (model[at] ?? 0) ^ 0x5a;
        }
        assert.deepEqual(segment.dirty(), [
          { offset: 0, byteLength: PAGE },
          { offset: 3 * PAGE, byteLength: 2 * PAGE },
          { offset: 39 * PAGE, byteLength: PAGE },
        ]);
        await segment.flush();
        assert.deepEqual(contents(), model);
        assert.deepEqual(segment.dirty(), []);
        segment.write(7 * PAGE - 1, Uint8Array.of(1, 2, 3));
        model.set([1, 2, 3], 7 * PAGE - 1);
        await segment.flush();
        assert.deepEqual(contents(), model);
        bytes[20 * PAGE] = (bytes[20 * PAGE] ?? 0) ^ 1;
        segment.discard();
        assert.deepEqual(segment.read(0, 40 * PAGE), model);
      },
    );
    await whileOpen(await writable(backend, store, 20 * PAGE, { into }), async ({ segment, bytes, model }) => {
      assert.deepEqual(segment.read(0, 20 * PAGE), model, 'the same memory again');
      bytes[5] = 1;
      model[5] = 1;
      assert.deepEqual(segment.dirty(), [{ offset: 0, byteLength: PAGE }]);
    });
  });
}

onEachMemory('what is written to memory that exists is evicted to the store and comes back', async (backend, kind) => {
  const pages = 64;
  const into = given(kind, pages * PAGE);
  for (const store of ['file', 'custom async', 'custom onWrite'] satisfies WritableKind[]) {
    const options = { into, resident: 12 * PAGE };
    await whileOpen(
      await writable(backend, store, pages * PAGE, options),
      async ({ segment, bytes, model, contents }) => {
        const random = new Random(7);
        for (let i = 0; i < 3000; i++) {
          const at = random.below(pages * PAGE);
          if (random.below(2) === 0) {
            bytes[at] = i & 0xff;
            model[at] = i & 0xff;
          } else assert.equal(bytes[at], model[at], `${store}, offset ${at}`);
        }
        assert.deepEqual(segment.read(0, pages * PAGE), model);
        assert.ok(segment.stats().writeBacks > 0);
        await segment.flush();
        assert.deepEqual(contents(), model);
      },
    );
  }
});

onEachMemory('close() writes what is modified, and then nothing can be read or written', async (backend, kind) => {
  const into = given(kind, 8 * PAGE);
  const { segment, bytes, model, contents } = await writable(backend, 'memory', 8 * PAGE, { into });
  bytes[3 * PAGE] = model[3 * PAGE] = 0x77;
  await segment.close();
  assert.deepEqual(contents(), model);
  const witness = await map(writableStore('memory', 1).ref);
  for (const touch of [(): unknown => bytes[3 * PAGE], (): unknown => bytes.fill(1, 3 * PAGE, 3 * PAGE + 1)]) {
    assert.throws(() => witness.attempt(touch), { code: 'ERR_PAGEFAULT_CLOSED' });
  }
  await witness.close();
  assert.deepEqual(contents(), model);
});

onEachBackend('WebAssembly writes, and traps where it writes outside', async (backend) => {
  for (const shared of [false, true]) {
    const into = makeMemory(4, 4, shared);
    const { peek, poke } = instantiate(into);
    for (const store of ['memory', 'custom onWrite'] satisfies WritableKind[]) {
      await whileOpen(await writable(backend, store, 3 * WASM_PAGE, { into }), async ({ segment, model, contents }) => {
        for (let address = 0; address < 3 * WASM_PAGE; address += 3 * PAGE + 7) {
          poke(address, address);
          model[address] = address & 0xff;
          assert.equal(peek(address), address & 0xff);
          for (const outside of [4 * WASM_PAGE, 2 ** 31 - 1, -1]) {
            assert.throws(() => poke(outside, 1), isTrap);
            assert.throws(() => peek(outside), isTrap);
          }
        }
        assert.deepEqual(segment.read(0, 3 * WASM_PAGE), model);
        await segment.flush();
        assert.deepEqual(contents(), model);
      });
    }
  }
});

for (const store of ['file', 'custom async', 'custom onWrite'] satisfies WritableKind[]) {
  for (const shared of [false, true]) {
    const what = shared ? 'shared memory' : 'memory';
    test(`what is written to ${what} that grows reaches the store [signal, ${store}]`, async (t) => {
      if (!backends.includes('signal')) return t.skip('no userfaultfd here');
      const pages = 6;
      const into = makeMemory(1, 20, shared);
      const { peek, poke, grow } = instantiate(into);
      const options = { into, resident: 30 * PAGE };
      await whileOpen(
        await writable('signal', store, pages * WASM_PAGE, options),
        async ({ segment, model, contents, control }) => {
          const missing = { code: 'ERR_PAGEFAULT_OUT_OF_BOUNDS' };
          for (let exists = 1; exists <= pages; exists++) {
            const end = exists * WASM_PAGE;
            for (let address = end - WASM_PAGE; address < end; address += 2 * PAGE + 11) {
              poke(address, exists);
              model[address] = exists;
            }
            for (let address = 5; address < end; address += PAGE) assert.equal(peek(address), model[address]);
            assert.deepEqual(segment.read(0, end), model.subarray(0, end));
            assert.throws(() => poke(end, 1), isTrap);
            if (exists < pages) {
              assert.throws(() => segment.write(end - 1, Uint8Array.of(1, 2)), missing);
              assert.equal(exists & 1 ? grow(1) : into.grow(1), exists);
            }
            segment.write(end - 2, Uint8Array.of(7, 8));
            model.set([7, 8], end - 2);
          }
          await segment.flush();
          assert.deepEqual(contents(), model);
          assert.deepEqual(segment.dirty(), []);
          // V8 has made all of it writable, and still the first write to a clean page is seen.
          const asked = control.get('onWrite', 'calls');
          const clean = segment.pages().lastIndexOf(PAGE_STATE.present);
          poke(clean * PAGE, 0x99);
          model[clean * PAGE] = 0x99;
          assert.deepEqual(segment.dirty(), [{ offset: clean * PAGE, byteLength: PAGE }]);
          if (store === 'custom onWrite') assert.equal(control.get('onWrite', 'calls'), asked + 1);
          into.grow(1);
          poke(pages * WASM_PAGE + 3, 1);
          await segment.flush();
          assert.deepEqual(contents(), model, "what lies behind the segment is not the store's");
        },
      );
    });
  }
}

for (const [without, file] of [
  ['wp_async', 'into-writes'],
  ['wp_unpopulated,move', 'into-writes'],
  ['wp', 'into'], // then nothing can be written on signal
]) {
  test(`${file} on a kernel without ${without}`, { skip: skipOlderKernels }, async (t) => {
    if (process.env['PAGEFAULT_WITHOUT'] !== undefined) return t.skip('this is it');
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const script = fileURLToPath(new URL(`./${file}.test.js`, import.meta.url));
    const { code, stdout, stderr } = await runNode(script, [], { env: { ...env, PAGEFAULT_WITHOUT: without } });
    assert.equal(code, 0, stdout + stderr);
  });
}
