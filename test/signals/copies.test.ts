/** Two copies of the library in one process: one set of handlers serves both, and neither puts its own over the other's. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { root, runNode } from '../helpers/run.js';

/** Maps with both copies, touches, attempts, traps in WebAssembly, and prints what it saw. */
const script = (first: string, second: string, backend: string): string => `
import assert from 'node:assert/strict';
const trapModule = new WebAssembly.Module(new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 5, 3, 1, 0, 1, 7, 8, 1, 4, 112, 101, 101, 107, 0, 0,
  10, 9, 1, 7, 0, 32, 0, 40, 2, 0, 11,
]));
const wasm = new WebAssembly.Instance(trapModule).exports;
const seen = [];
for (const url of [${JSON.stringify(first)}, ${JSON.stringify(second)}]) {
  const { map, PageError } = await import(url + 'dist/index.js');
  const { memory, custom } = await import(url + 'dist/stores/index.js');
  const segment = await map(memory(new Uint8Array(1 << 20).fill(7)), { backend: '${backend}' });
  const failing = await map(custom(new URL(${JSON.stringify(`${first}failing.mjs`)})), { backend: '${backend}', faultTimeoutMs: 100 });
  seen.push({ segment, failing, PageError, view: segment.view(Uint8Array) });
}
for (const { segment, view } of seen) for (let i = 0; i < view.length; i += 4096) assert.equal(view[i], 7, segment.name);
for (const { failing, PageError } of seen) assert.throws(() => failing.attempt(() => failing.view(Uint8Array)[0]), PageError);
assert.throws(() => wasm.peek(0x7fff0000), WebAssembly.RuntimeError);
await new Promise((resolve) => setTimeout(resolve, 2300)); // both have looked after their handlers twice
for (const { segment, view } of seen) {
  segment.release();
  assert.equal(view[4096], 7);
}
assert.throws(() => wasm.peek(0x7fff0000), WebAssembly.RuntimeError);
console.log(JSON.stringify(seen.map(({ segment }) => segment.stats().handlerReinstalls)));
for (const { segment, failing } of seen) { await segment.close(); await failing.close(); }
`;

const failing = `export default function open() {
  return { byteLength: 65536, read() { throw Object.assign(new Error('never'), { permanent: true }); } };
}
`;

for (const backend of ['signal', 'mprotect']) {
  test(`two copies of the library share one set of handlers [${backend}]`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'pagefault-copies-'));
    try {
      for (const part of ['dist', 'build/Release', 'package.json']) {
        cpSync(join(root, part), join(folder, part), { recursive: true });
      }
      writeFileSync(join(folder, 'failing.mjs'), failing);
      const main = join(folder, 'main.mjs');
      writeFileSync(main, script(`${pathToFileURL(folder)}/`, `${pathToFileURL(root)}`, backend));
      const ran = await runNode(main, [], { timeoutMs: 30_000 });
      assert.equal(ran.code, 0, ran.stderr);
      assert.deepEqual(JSON.parse(ran.stdout), [0, 0]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}
