/** Segments whose stores are full of one byte each, so that a page tells whose store filled it. */

import { type TestContext, test } from 'node:test';
import { type Backend, type MapOptions, map, type Segment } from 'pagefault';
import { custom, memory } from 'pagefault/stores';
import { Control, type KeepingOptions } from '../fixtures/keeping.js';
import { backends } from './stores.js';
import { keepingModule, PAGE } from './writable.js';

/** With 'custom onWrite' the first write to a page is a fault on every backend. */
export const stampedKinds = ['memory', 'custom async', 'custom onWrite'] as const;
export type StampedKind = (typeof stampedKinds)[number];

export interface Stamped {
  segment: Segment;
  bytes: Uint8Array;
  /** Of the store. */
  kept: Uint8Array;
  control: Control;
}

export async function stamped(
  backend: Backend,
  kind: StampedKind,
  pages: number,
  byte: number,
  options: MapOptions = {},
): Promise<Stamped> {
  const kept = new Uint8Array(new SharedArrayBuffer(pages * PAGE)).fill(byte);
  const control = new Control();
  const keeping: KeepingOptions = {
    bytes: kept.buffer,
    control: control.words.buffer,
    async: kind === 'custom async',
    onWrite: kind === 'custom onWrite',
  };
  const ref = kind === 'memory' ? memory(kept) : custom(keepingModule, keeping);
  const segment = await map(ref, { backend, writable: true, readahead: 0, name: `full of ${byte}`, ...options });
  return { segment, bytes: segment.view(Uint8Array), kept, control };
}

/** One test for each backend and kind of store. */
export function onEachStamped(
  name: string,
  body: (backend: Backend, kind: StampedKind, t: TestContext) => Promise<void>,
): void {
  for (const backend of backends) {
    for (const kind of stampedKinds) test(`${name} [${backend}, ${kind}]`, (t) => body(backend, kind, t));
  }
}

/** The first byte of each page, as a string of digits. */
export function digits({ bytes }: Stamped): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += PAGE) text += String(bytes[at]);
  return text;
}

/** Closes them without a flush. */
export async function closeStamped(...all: Stamped[]): Promise<void> {
  for (const { segment } of all) await segment.close({ discard: true });
}
