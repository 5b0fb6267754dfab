/**
 * Opens what a StoreRef names, so that the core or the pager can read from it. Runs on the thread that maps; a custom
 * store is opened in the pager's Worker.
 */

import { type BigIntStats, closeSync, constants, fstatSync, openSync, type Stats } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { StoreError } from '../errors/store-error.js';
import type { NativeSource } from '../native/binding.js';
import { openCustom } from '../pager/host.js';
import type { FileRef, MemoryRef, StoreRef } from '../stores/ref.js';
import type { CheckedOptions } from './options.js';

/** How long a store may take to open, at least: its Worker may have to start and its module to be fetched. `signal` ends it sooner. */
const OPEN_MS = 30_000;

/** A store that is open. */
export interface Source {
  readonly byteLength: number;
  readonly pageSize: number | undefined;
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
  }
}

/** Throws unless `ref` is something that `pagefault/stores` made, here or in another thread. */
export function checkStoreRef(ref: unknown): asserts ref is StoreRef {
  const { kind } = (typeof ref === 'object' && ref !== null ? ref : {}) as { kind?: unknown };
  if (kind === 'file' || kind === 'memory' || kind === 'zero' || kind === 'custom') return;
  throw wrongType(
    `map(): the store must come from 'pagefault/stores', such as file('data.bin'), not be ${shown(ref)}; a store of your own is custom(new URL('./store.js', import.meta.url), options)`,
  );
}

function sentence(code: unknown): string | undefined {
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return 'there is no such file';
    case 'EACCES':
    case 'EPERM':
      return 'there is no permission to read it';
    case 'EISDIR':
      return 'it is a directory';
    default:
      return undefined;
  }
}

function cannotOpen(ref: FileRef, error: unknown): StoreError {
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException;
  const why = sentence(code);
  return new StoreError(
    'ERR_PAGEFAULT_STORE_OPEN',
    `${ref.path} cannot be mapped: ${why === undefined ? message : `${why} (${code})`}`,
    { cause: error, errno: errno === undefined ? undefined : Math.abs(errno), syscall },
  );
}

function kindOf(stats: Stats | BigIntStats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isFIFO()) return 'a pipe';
  if (stats.isSocket()) return 'a socket';
  return 'a device';
}

function openFile(ref: FileRef): Source {
  let fd: number;
  try {
    // Not blocking, because opening a pipe would wait for its other end.
    fd = openSync(ref.path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw cannotOpen(ref, error);
  }
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile()) {
      const what = `${ref.path} cannot be mapped: it is ${kindOf(stats)}, and only regular files can be`;
      throw new StoreError('ERR_PAGEFAULT_STORE_OPEN', what, stats.isDirectory() ? { errno: 21 } : {}); // EISDIR
    }
    const rest = Math.max(0, stats.size - ref.offset);
    if (stats.size > 0 && ref.offset >= stats.size) {
      throw outOfRange(`file(): offset ${ref.offset} is past the end of ${ref.path}, which has ${stats.size} bytes`);
    }
    if (stats.size > 0 && ref.byteLength !== undefined && ref.byteLength > rest) {
      throw outOfRange(
        `file(): byteLength ${ref.byteLength} is more than the ${rest} bytes that ${ref.path} has from offset ${ref.offset}`,
      );
    }
    const byteLength = stats.size === 0 ? 0 : (ref.byteLength ?? rest);
    return {
      byteLength,
      pageSize: undefined,
      native: (offset) => ({
        kind: 'file',
        fd,
        offset: ref.offset + offset,
        path: ref.path,
        checkChanges: ref.onChange === 'fail',
      }),
      abandon: async () => closeSync(fd),
      given: () => closeSync(fd),
      ended: undefined,
    };
  } catch (error) {
    closeSync(fd);
    throw error;
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
  switch (ref.kind) {
    case 'file':
      return openFile(ref);
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
    case 'custom': {
      const { offset, byteLength, pageSize } = options;
      const part = { offset, byteLength, pageSize };
      const store = await openCustom(ref, part, Math.max(OPEN_MS, options.faultTimeoutMs), options.signal);
      return {
        byteLength: store.byteLength,
        pageSize: store.pageSize,
        native: () => ({ kind: 'pager', pager: store.pager, store: store.store }),
        abandon: () => store.close(),
        ended: () => store.close(),
      };
    }
  }
}
