/** Stores of every kind with contents that are known, and the backends that work here. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Backend } from 'pagefault';
import { custom, file, memory, type StoreRef, zero } from 'pagefault/stores';
import { probe } from '#dist/native/load.js';
import { fillPattern, patternByte } from '../fixtures/pattern.js';

const { engineErrno, servedErrno, mprotectErrno, sharedPages } = probe();

/** The backends that work here: all four, except where a container refuses userfaultfd, the kernel is older or there is no privilege. */
export const backends: readonly Backend[] = [
  ...(engineErrno === 0 ? (['signal'] as const) : []),
  ...(mprotectErrno === 0 ? (['mprotect'] as const) : []),
  ...(engineErrno === 0 && sharedPages === 'write' ? (['memfd'] as const) : []),
  ...(servedErrno === 0 ? (['thread'] as const) : []),
];

/** One test for each backend. */
export function onEachBackend(name: string, body: (backend: Backend, t: TestContext) => void | Promise<void>): void {
  for (const backend of backends) test(`${name} [${backend}]`, (t) => body(backend, t));
}

export interface KnownStore {
  kind: string;
  ref: StoreRef;
  /** What the byte at an offset of the store must be. */
  byte(offset: number): number;
}

const folder = mkdtempSync(join(tmpdir(), 'pagefault-test-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
let files = 0;

/** A path in a folder that goes away with the process. */
export function temporaryPath(): string {
  files += 1;
  return join(folder, `file-${files}`);
}

/** The first bytes of the pattern. */
export function patternBytes(byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  fillPattern(0, bytes);
  return bytes;
}

/** A file with the pattern. */
export function patternFile(byteLength: number): string {
  const path = temporaryPath();
  writeFileSync(path, patternBytes(byteLength));
  return path;
}

export const patternModule: URL = new URL('../fixtures/pattern.js', import.meta.url);

export const storeKinds = ['file', 'memory', 'zero', 'custom sync', 'custom async', 'custom chunks'] as const;
export type StoreKind = (typeof storeKinds)[number];

/** A store of a kind, of any length. */
export function knownStore(kind: StoreKind, byteLength: number): KnownStore {
  const byte = (offset: number): number => patternByte(offset);
  switch (kind) {
    case 'file':
      return { kind, ref: file(patternFile(byteLength)), byte };
    case 'memory':
      return { kind, ref: memory(patternBytes(byteLength)), byte };
    case 'zero':
      return { kind, ref: zero(byteLength), byte: () => 0 };
    default:
      return { kind, ref: custom(patternModule, { byteLength, answer: kind.slice('custom '.length) }), byte };
  }
}

/** One test for each backend and kind of store. */
export function onEachStore(
  name: string,
  body: (backend: Backend, kind: StoreKind, t: TestContext) => void | Promise<void>,
): void {
  for (const backend of backends) {
    for (const kind of storeKinds) test(`${name} [${backend}, ${kind}]`, (t) => body(backend, kind, t));
  }
}

/** The first index from which the bytes differ from what the store has, or -1. */
export function firstDifference(bytes: Uint8Array, offset: number, byte: (offset: number) => number): number {
  for (let i = 0; i < bytes.length; i++) if (bytes[i] !== byte(offset + i)) return i;
  return -1;
}
