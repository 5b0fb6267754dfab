/** Memory that exists for segments of the fuzz. What was lent comes back when its segment is closed, and is lent again: closed memory is never given back to the runtime. */

import { type Given, given, type MemoryKind } from '../helpers/memories.js';

const idle = new Map<string, Given[]>();

function key(kind: MemoryKind, byteLength: number): string {
  return `${kind} ${Math.ceil(Math.log2(byteLength))}`;
}

/** Memory for a segment of so many bytes, whole pages. */
export function lend(kind: MemoryKind, byteLength: number): Given {
  return idle.get(key(kind, byteLength))?.pop() ?? given(kind, 2 ** Math.ceil(Math.log2(byteLength)));
}

export function takeBack(into: Given, kind: MemoryKind, byteLength: number): void {
  const list = idle.get(key(kind, byteLength)) ?? [];
  list.push(into);
  idle.set(key(kind, byteLength), list);
}
