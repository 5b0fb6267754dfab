/** Two copies of the library in one process: one set of handlers serves both, and neither puts its own over the other's. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { root, runNode } from '../helpers/run.js';
import { backends, onEachBackend } from '../helpers/stores.js';

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
  const segment = await map(memory(new Uint8Array(1 << 20).fill(7)), { backend: '${backend}', pollIntervalMs: 50 });
  const failing = await map(custom(new URL(${JSON.stringify(`${first}failing.mjs`)})), { backend: '${backend}', faultTimeoutMs: 1000 });
  seen.push({ segment, failing, PageError, view: segment.view(Uint8Array) });
}
for (const { segment, view } of seen) for (let i = 0; i < view.length; i += 4096) assert.equal(view[i], 7, segment.name);
for (const { failing, PageError } of seen) assert.throws(() => failing.attempt(() => failing.view(Uint8Array)[0]), PageError);
assert.throws(() => wasm.peek(0x7fff0000), WebAssembly.RuntimeError);
await new Promise((resolve) => setTimeout(resolve, 300)); // both have looked after their handlers several times
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

onEachBackend('two copies of the library share one set of handlers', async (backend) => {
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

/** Changes the version that a copy's binary says it has. */
function setVersion(path: string, version: number): void {
  const symbols = spawnSync('nm', ['-D', path], { encoding: 'utf8' }).stdout;
  const address = Number.parseInt(/^([0-9a-f]+) \w pagefault_handlers_v1$/m.exec(symbols)?.[1] ?? '', 16);
  const bytes = readFileSync(path);
  const headers = Number(bytes.readBigUInt64LE(32)); // of ELF64: e_phoff, e_phentsize, e_phnum
  for (let i = 0; i < bytes.readUInt16LE(56); i++) {
    const at = headers + i * bytes.readUInt16LE(54);
    const [offset = 0, start = 0, , length = 0] = [8, 16, 24, 32].map((field) =>
      Number(bytes.readBigUInt64LE(at + field)),
    );
    if (bytes.readUInt32LE(at) !== 1 || address < start || address >= start + length) continue; // 1: PT_LOAD
    assert.equal(bytes.readUInt32LE(address - start + offset), 2, 'the version that is there');
    bytes.writeUInt32LE(version, address - start + offset);
    writeFileSync(path, bytes);
    return;
  }
  assert.fail('the symbol is in no segment of the file');
}

/** A handler of somebody else comes over the first copy's, then the other copies come. */
const ofVersions = (urls: readonly string[], addon: string, backend: string): string => `
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
const trapModule = new WebAssembly.Module(new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 5, 3, 1, 0, 1, 7, 8, 1, 4, 112, 101, 101, 107, 0, 0,
  10, 9, 1, 7, 0, 32, 0, 40, 2, 0, 11,
]));
const wasm = new WebAssembly.Instance(trapModule).exports;
const segments = [];
const check = () => {
  for (const segment of segments) {
    segment.release();
    const view = segment.view(Uint8Array);
    for (let i = 0; i < view.length; i += 4096) assert.equal(view[i], 7, segment.name);
  }
  assert.throws(() => wasm.peek(0x7fff0000), WebAssembly.RuntimeError);
};
const counts = () => segments.map((segment) => segment.stats().handlerReinstalls);
for (const url of ${JSON.stringify(urls)}) {
  const { map } = await import(url + 'dist/index.js');
  const { memory } = await import(url + 'dist/stores/index.js');
  segments.push(await map(memory(new Uint8Array(1 << 17).fill(7)), { backend: '${backend}', pollIntervalMs: 10 }));
  check();
  if (segments.length === 1) createRequire(import.meta.url)(${JSON.stringify(addon)});
}
for (let same = 0, before = '', tries = 0; same < 5; tries++) {
  assert.ok(tries < 200, 'the copies put their handlers over each other for ever: ' + counts());
  await new Promise((resolve) => setTimeout(resolve, 50));
  check();
  same = JSON.stringify(counts()) === before ? same + 1 : 0;
  before = JSON.stringify(counts());
}
const were = counts();
createRequire(import.meta.url)(${JSON.stringify(addon.replace('.node', '-2.node'))}); // the one that serves all is replaced
while (counts().every((count, i) => count === were[i])) await new Promise((resolve) => setTimeout(resolve, 20));
check();
assert.ok(segments.some((segment) => segment.stats().forwardedSignals > 0)); // of version 1 the others do not learn it
for (const segment of segments) await segment.close();
`;

const orders = [
  { versions: [1, 2, 3], backend: backends.at(0) ?? '' },
  { versions: [3, 2, 1], backend: backends.at(-1) ?? '' },
];
for (const { versions, backend } of orders) {
  test(`copies of versions ${versions.join(', ')} serve each other under somebody else's handler [${backend}]`, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'pagefault-versions-'));
    try {
      const urls = versions.map((version) => {
        const copy = join(folder, `v${version}`);
        for (const part of ['dist', 'build/Release', 'package.json']) {
          cpSync(join(root, part), join(copy, part), { recursive: true });
        }
        if (version !== 2) setVersion(join(copy, 'build/Release/pagefault.node'), version);
        return `${pathToFileURL(copy)}/`;
      });
      const addon = join(folder, 'pass.node');
      const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
      const source = join(root, 'test/helpers/replace-handlers.c');
      const flags = [...prefix, '-shared', '-fPIC', '-pthread', '-DCHAIN', source, '-o', addon];
      assert.equal(spawnSync(command, flags, { stdio: ['ignore', 'ignore', 'inherit'] }).status, 0);
      cpSync(addon, addon.replace('.node', '-2.node'));
      const main = join(folder, 'main.mjs');
      writeFileSync(main, ofVersions(urls, addon, backend));
      const ran = await runNode(main, [], { timeoutMs: 60_000 });
      assert.equal(ran.code, 0, `${ran.signal} ${ran.stderr}`);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}
