/** Stores that can be written, of every kind, with contents that can be looked at, and every way of tracking writes. */

import { readFileSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { type Backend, type MapOptions, map, type Segment, systemPageSize } from 'pagefault';
import { custom, file, memory, type StoreRef } from 'pagefault/stores';
import { probe } from '#dist/native/load.js';
import { Control, type KeepingOptions } from '../fixtures/keeping.js';
import { backends, patternBytes, temporaryPath } from './stores.js';

export const PAGE: number = systemPageSize();

export const keepingModule: URL = new URL('../fixtures/keeping.js', import.meta.url);

export const writableKinds = ['file', 'memory', 'custom sync', 'custom async', 'custom onWrite'] as const;
export type WritableKind = (typeof writableKinds)[number];

export interface WritableStore {
  ref: StoreRef;
  /** What the store has now. */
  contents(): Uint8Array;
  /** Only of custom stores. */
  control: Control;
}

/** A store of a kind whose bytes are the pattern. */
export function writableStore(
  kind: WritableKind,
  byteLength: number,
  more: Partial<KeepingOptions> = {},
): WritableStore {
  const control = new Control();
  const shared = new Uint8Array(new SharedArrayBuffer(byteLength));
  const contents = (): Uint8Array => shared.slice();
  shared.set(patternBytes(byteLength));
  switch (kind) {
    case 'file': {
      const path = temporaryPath();
      writeFileSync(path, shared);
      return { ref: file(path), contents: () => new Uint8Array(readFileSync(path)), control };
    }
    case 'memory':
      return { ref: memory(shared), contents, control };
    default: {
      const options: KeepingOptions = { bytes: shared.buffer, control: control.words.buffer, ...more };
      if (kind === 'custom async') options.async = true;
      if (kind === 'custom onWrite') options.onWrite = true;
      return { ref: custom(keepingModule, options), contents, control };
    }
  }
}

/** The backends with which segments can be written here: not `signal` and `thread` where the kernel (or PAGEFAULT_WITHOUT) has no write-protection. */
export const writableBackends: readonly Backend[] = backends.filter(
  (backend) => (backend !== 'signal' && backend !== 'thread') || probe().writeTracking !== 'none',
);

/** One test for each backend that can write. */
export function onEachWritableBackend(
  name: string,
  body: (backend: Backend, t: TestContext) => void | Promise<void>,
): void {
  for (const backend of writableBackends) test(`${name} [${backend}]`, (t) => body(backend, t));
}

/** One test for each backend and kind of store that can write. */
export function onEachWritable(
  name: string,
  body: (backend: Backend, kind: WritableKind, t: TestContext) => void | Promise<void>,
): void {
  for (const backend of writableBackends) {
    for (const kind of writableKinds) test(`${name} [${backend}, ${kind}]`, (t) => body(backend, kind, t));
  }
}

export interface Written extends WritableStore {
  segment: Segment;
  bytes: Uint8Array;
  /** What a plain array would hold after the same writes. */
  model: Uint8Array;
}

/** A writable segment over a store of a kind. */
export async function writable(
  backend: Backend,
  kind: WritableKind,
  byteLength: number,
  options: MapOptions = {},
  more: Partial<KeepingOptions> = {},
): Promise<Written> {
  const store = writableStore(kind, byteLength, more);
  const segment = await map(store.ref, { backend, writable: true, readahead: 0, name: 'written', ...options });
  return { ...store, segment, bytes: segment.view(Uint8Array), model: store.contents() };
}

/** Runs a body over a segment and closes it without a flush, whatever happened. */
export async function whileOpen(written: Written, body: (written: Written) => void | Promise<void>): Promise<void> {
  try {
    await body(written);
  } finally {
    await written.segment.close({ discard: true });
  }
}

/** True where the first write to a page is a fault, so that a system call that writes to it gets EFAULT. */
export function tracksByFaults(segment: Segment): boolean {
  return segment.backendReason.includes('is a fault');
}
