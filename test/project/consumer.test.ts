/** A program that uses the types of `pagefault/kernel` compiles with the declarations checked, and can name everything that it meets. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { root, run } from '../helpers/run.js';

const PROGRAM = `
import { PagefaultError, UffdError } from 'pagefault';
import * as kernel from 'pagefault/kernel';
import type {
  AdoptOptions, Advice, AnonymousOptions, ChildStatus, FileOptions, Finding, HasFd, HeapOptions, KernelProbe, ListenOptions, MappingKind,
  MemfdOptions, MoveOptions, PageCategory, PagefaultEvent, PageSpan, PatchOptions, PatchSource, Peer, Protection, Range, Readable,
  Received, ReceiveOptions, Resolution, ResolveOptions, ScanPagesOptions, ScanWrittenOptions, Seal, SignalFdOptions, SignalInfo,
  UffdEvent, UffdFeature, UffdIoctl, UffdMode, UffdOptions, UffdOrigin, UnixSocketOptions, WakeOption, WatchOptions, WriteProtectOption,
} from 'pagefault/kernel';

export type Named = [
  AdoptOptions, Advice, AnonymousOptions, FileOptions, Finding, HasFd, HeapOptions, ListenOptions, MappingKind, MemfdOptions, MoveOptions,
  PageCategory, PatchOptions, PatchSource, Peer, Protection, Received, ReceiveOptions, ResolveOptions, ScanPagesOptions,
  ScanWrittenOptions, Seal, SignalFdOptions, SignalInfo, UffdMode, UffdOrigin, UnixSocketOptions, WakeOption, WatchOptions,
  WriteProtectOption,
];
const options: UffdOptions = { features: ['thread-id'], optionalFeatures: 1n };
using uffd: kernel.Uffd = kernel.Uffd.open(options);
using mapping = kernel.Mapping.anonymous(4096, { inherited: false });
const range: Range = mapping;
export const calls: kernel.FlagSet<UffdIoctl> = uffd.register(range, ['missing', 'write-protect']);
export const features: kernel.FlagSet<UffdFeature> = uffd.features;
const tell = (event: UffdEvent): string => {
  switch (event.type) {
    case 'pagefault': {
      const fault: PagefaultEvent = event;
      const resolution: Resolution = uffd.resolve(fault.address, 'zero');
      return resolution.status;
    }
    case 'fork':
      event.uffd.close();
      return 'fork';
    case 'unknown':
      return String(event.message.length);
    default:
      return event.type;
  }
};
const readable: Readable = (at) => uffd.readEvents().map(tell).join() + at;
export const watch: kernel.Watch = uffd.onReadable(readable);
export const spans: PageSpan[] = kernel.scanWritten(mapping, { rearm: true });
export const probed: KernelProbe = kernel.probe();
export const status: ChildStatus | undefined = kernel.PidFd.open(1).poll();
try {
  uffd.copy(range.address, new Uint8Array(4096));
} catch (error) {
  if (error instanceof UffdError) console.log(error.copied, error.address, error.errno);
  else if (error instanceof PagefaultError) console.log(error.code);
}
// @ts-expect-error
uffd.register(range, 'mising');
// @ts-expect-error
uffd.copy(Number(range.address), new Uint8Array(4096));
`;

const CONFIG = {
  compilerOptions: {
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: false,
    target: 'es2022',
    lib: ['es2023', 'esnext.disposable'],
    module: 'nodenext',
    types: ['node'],
    noEmit: true,
  },
  files: ['program.ts'],
};

test('a consumer of pagefault/kernel compiles with its declarations checked', { timeout: 120_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-consumer-'));
  try {
    const modules = join(folder, 'node_modules');
    mkdirSync(modules);
    symlinkSync(root, join(modules, 'pagefault'));
    for (const name of ['@types', 'undici-types']) symlinkSync(join(root, 'node_modules', name), join(modules, name));
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(folder, 'program.ts'), PROGRAM);
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(CONFIG));
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    const { code, stdout } = await run(process.execPath, [tsc, '-p', folder]);
    assert.deepEqual([stdout, code], ['', 0]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
