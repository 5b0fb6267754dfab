/** What tells the contents of a store from any others, as far as that can be known without reading them. Runs on the thread that maps. */

import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { serialize } from 'node:v8';
import type { FileRef, StoreRef } from '../stores/ref.js';

async function fileFacts({ path, offset, byteLength }: FileRef): Promise<string> {
  const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true });
  return [dev, ino, size, mtimeNs, offset, byteLength ?? 'all'].join(' ');
}

/** Options that cannot be written down, such as shared memory, are left out. */
function optionsOf(options: unknown): Uint8Array {
  try {
    return serialize(options);
  } catch {
    return new Uint8Array(0);
  }
}

async function factsOf(ref: StoreRef): Promise<readonly (string | Uint8Array)[]> {
  switch (ref.kind) {
    case 'file':
      return [await fileFacts(ref)];
    case 'memory':
      return [ref.bytes];
    case 'zero':
      return [String(ref.byteLength)];
    case 'custom':
      return [ref.moduleUrl, optionsOf(ref.options)];
    case 'uds':
      return [ref.path, String(ref.base)];
  }
}

/**
 * 64 hexadecimal digits: of a file its device, inode, length and time of change, of memory its bytes, of a custom store its module and its options, of a page server its path and base;
 * and where the segment begins in it.
 */
export async function storeIdentity(ref: StoreRef, offset: number): Promise<string> {
  const hash = createHash('sha256').update(`pagefault store\0${ref.kind}\0${offset}\0`);
  for (const fact of await factsOf(ref)) hash.update(`${fact.length}\0`).update(fact);
  return hash.digest('hex');
}
