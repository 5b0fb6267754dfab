/**
 * Opens what a StoreRef names, so that the core or the pager can read from it. Runs on the thread that maps; a custom
 * store is opened in the pager's Worker.
 */

import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { reasonOf } from '../errors/reason.js';
import { StoreError } from '../errors/store-error.js';
import type { NativeSource } from '../native/binding.js';
import { openCustom } from '../pager/host.js';
import type { CustomRef, MemoryRef, StoreRef, UdsRef } from '../stores/ref.js';
import { openFile } from './file-source.js';
import type { CheckedOptions } from './options.js';

/** How long a store may take to open, at least: its Worker may have to start and its module to be fetched. `signal` ends it sooner. */
const OPEN_MS = 30_000;

/** A store that is open. */
export interface Source {
  readonly byteLength: number;
  readonly pageSize: number | undefined;
  /** Bytes that it may be asked for at once where nobody waits; without: a page. */
  readonly longestRead?: number | undefined;
  /** It wants to know of first writes. */
  readonly onWrite?: boolean;
  /** What the core reads: `byteLength` bytes of the store from `offset`. */
  native(offset: number, byteLength: number): NativeSource;
  /** Undoes the opening where no region came of it. */
  abandon(): Promise<void>;
  /** Gives back what a region that was made no longer needs of the opening. */
  given?(): void;
  /** What is to be done once the region has ended; undefined where the core does it all. */
  readonly ended: (() => Promise<void>) | undefined;
}

/** What a store is called in errors and reports. */
export function describeStore(ref: StoreRef): string {
  switch (ref.kind) {
    case 'file':
      return `file(${ref.path})`;
    case 'memory':
      return `memory(${ref.bytes.byteLength} bytes)`;
    case 'zero':
      return `zero(${ref.byteLength})`;
    case 'custom':
      return `custom(${basename(fileURLToPath(ref.moduleUrl))})`;
    case 'uds':
      return `uds(${ref.path})`;
  }
}

const KINDS: ReadonlySet<StoreRef['kind']> = new Set(['file', 'memory', 'zero', 'custom', 'uds']);

/** Throws unless `ref` is something that `pagefault/stores` made, here or in another thread. */
export function checkStoreRef(ref: unknown, who = 'map()'): asserts ref is StoreRef {
  const { kind } = (typeof ref === 'object' && ref !== null ? ref : {}) as { kind?: unknown };
  if (KINDS.has(kind as StoreRef['kind'])) return;
  throw wrongType(
    `${who}: the store must come from 'pagefault/stores', such as file('data.bin'), not be ${shown(ref)}; a store of your own is custom(new URL('./store.js', import.meta.url), options)`,
  );
}

/** Throws for a store that cannot write, where that can be said before it is opened. */
function checkCanWrite(ref: StoreRef): void {
  if (ref.kind === 'memory' && !(ref.bytes.buffer instanceof SharedArrayBuffer)) {
    throw wrongType(
      'map(): the bytes of an ArrayBuffer are copied, so nobody could see what is written to them: with writable: true, memory() needs a SharedArrayBuffer',
    );
  }
  if (ref.kind === 'uds') {
    const sentence = `${describeStore(ref)} is a page server, which takes no writes, so it cannot be mapped with writable: true`;
    throw new StoreError('ERR_PAGEFAULT_STORE_READ_ONLY', sentence);
  }
  if (ref.kind === 'zero') {
    throw new StoreError(
      'ERR_PAGEFAULT_STORE_READ_ONLY',
      `${describeStore(ref)} keeps nothing, so it cannot be mapped with writable: true; memory(new SharedArrayBuffer(${ref.byteLength})) does`,
    );
  }
}

const nothing = async (): Promise<void> => {};

/** Shared bytes that a region reads in place: collected, their memory would go away under it. */
const read = new Set<{ bytes: Uint8Array }>();

function openMemory({ bytes }: MemoryRef): Source {
  const kept = { bytes };
  const shared = bytes.buffer instanceof SharedArrayBuffer;
  if (shared) read.add(kept);
  const forget = async (): Promise<void> => {
    read.delete(kept);
  };
  return {
    byteLength: bytes.byteLength,
    pageSize: undefined,
    native: (offset, byteLength) => ({ kind: 'memory', bytes: bytes.subarray(offset, offset + byteLength) }),
    abandon: forget,
    ended: shared ? forget : undefined,
  };
}

/** Opens a store. Rejects with one clear sentence; nothing stays open then. */
export async function openSource(ref: StoreRef, options: CheckedOptions): Promise<Source> {
  if (options.writable) checkCanWrite(ref);
  switch (ref.kind) {
    case 'file':
      return openFile(ref, options.writable);
    case 'memory':
      return openMemory(ref);
    case 'zero':
      return {
        byteLength: ref.byteLength,
        pageSize: undefined,
        native: () => ({ kind: 'zero' }),
        abandon: nothing,
        ended: undefined,
      };
    case 'custom':
      return await openInWorker(ref, options);
    case 'uds':
      return await openPageServer(ref, options);
  }
}

/** Opens a store module in the pager's Worker. */
async function openInWorker(ref: CustomRef, options: CheckedOptions): Promise<Source> {
  const { offset, byteLength, pageSize, writable } = options;
  const part = { offset, byteLength, pageSize, writable };
  const store = await openCustom(ref, part, Math.max(OPEN_MS, options.faultTimeoutMs), options.signal);
  return {
    byteLength: store.byteLength,
    pageSize: store.pageSize,
    longestRead: store.longestRead,
    onWrite: store.onWrite,
    native: () => ({ kind: 'pager', pager: store.pager, store: store.store }),
    abandon: () => store.close(),
    ended: () => store.close(),
  };
}

const UDS_MODULE = new URL('../stores/uds/store.js', import.meta.url).href;

/** A page server does not tell how many bytes it has: then as many are there as the segment wants. */
async function openPageServer(ref: UdsRef, options: CheckedOptions): Promise<Source> {
  const { path, base, pageSize } = ref;
  const wanted = options.byteLength === undefined ? undefined : options.offset + options.byteLength;
  const byteLength = ref.byteLength ?? wanted;
  if (byteLength === undefined) {
    throw wrongType(
      `map(): a page server does not tell how many bytes it has: give byteLength to map(), or to uds('${path}')`,
    );
  }
  if (base + BigInt(byteLength) > 1n << 64n) {
    throw outOfRange(
      `map(): ${byteLength} bytes of ${describeStore(ref)} from its base 0x${base.toString(16)} would go beyond 2^64`,
    );
  }
  const module: CustomRef = { kind: 'custom', moduleUrl: UDS_MODULE, options: { path, base, pageSize, byteLength } };
  try {
    return await openInWorker(module, options);
  } catch (error) {
    if (!(error instanceof StoreError) || error.code !== 'ERR_PAGEFAULT_STORE_OPEN') throw error;
    const { cause } = error;
    throw new StoreError(error.code, `${describeStore(ref)} cannot be opened: ${reasonOf(cause ?? error)}`, { cause });
  }
}
