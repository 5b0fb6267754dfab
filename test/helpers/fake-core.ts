/** A core that only writes down what the pager tells it. */

import type { PageStore } from 'pagefault/stores';
import type { NativeBinding } from '#dist/native/binding.js';
import { PagerServer } from '#dist/pager/server.js';

export const PAGE = 4096;

export class FakeCore {
  readonly buffers = new Map<number, ArrayBuffer>();
  readonly completed: [slot: number, bytes: number][] = [];
  readonly failed: { slot: number; code: string; message: string; cause: string; retired: boolean }[] = [];
  readonly givenUp = new Set<number>();
  retries = 0;
  invalidated = 0;
  /** What the pages hold that are to be written out: each byte. -1: the order is gone. */
  fetched = 0;
  dispatch: (slot: number, store: number, offset: number, length: number, access: number, timeoutMs: number) => number =
    () => 0;

  readonly binding = {
    pagerOpen: (dispatch: FakeCore['dispatch']) => {
      this.dispatch = dispatch;
      return 1;
    },
    pagerBuffer: (_pager: number, slot: number, length: number) => {
      const buffer = new ArrayBuffer(length);
      this.buffers.set(slot, buffer);
      return buffer;
    },
    pagerFetch: (_pager: number, slot: number) => {
      const buffer = this.buffers.get(slot);
      if (this.fetched < 0 || buffer === undefined) return -1;
      new Uint8Array(buffer).fill(this.fetched);
      return buffer.byteLength;
    },
    pagerGivenUp: (_pager: number, slot: number) => this.givenUp.has(slot),
    systemPageSize: () => PAGE,
    pagerComplete: (_pager: number, slot: number, bytes: number) => {
      this.completed.push([slot, bytes]);
      if (this.invalidated === 0) return 0;
      this.invalidated -= 1;
      return 1;
    },
    pagerFail: (_pager: number, slot: number, code: string, message: string, cause: string, retired: boolean) => {
      this.failed.push({ slot, code, message, cause, retired });
      if (retired) this.buffers.delete(slot);
    },
    pagerRetry: () => {
      this.retries += 1;
    },
    attemptBegin: () => {},
    attemptEnd: () => null,
  } as unknown as NativeBinding;
}

export function serve(store: Partial<PageStore>): { core: FakeCore; server: PagerServer; number: number } {
  const core = new FakeCore();
  const server = new PagerServer(core.binding);
  server.start();
  const whole = { byteLength: 2 * PAGE + 100, read: () => 0, ...store };
  const { number } = server.add(whole, { offset: 0, byteLength: undefined, pageSize: undefined, writable: false });
  return { core, server, number };
}
