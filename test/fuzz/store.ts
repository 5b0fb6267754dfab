/** The custom store of the fuzz: serves the truth, as it is told to, and counts. */

import type { PageStore, ReadAnswer } from 'pagefault/stores';
import { FAIL, Truth, type TruthParts } from './truth.js';

export const ANSWERS = ['sync', 'async', 'late', 'chunks', 'null', 'mixed'] as const;
export type Answer = (typeof ANSWERS)[number];

export interface FuzzStoreOptions {
  truth: TruthParts;
  answer: Answer;
  concurrency: number;
  longestRead: number | undefined;
}

const later = (ms: number): Promise<void> =>
  new Promise((resolve) => (ms === 0 ? setImmediate(resolve) : setTimeout(resolve, ms)));

/** Throws or returns what is wrong where the page is to fail. */
function failure(truth: Truth, page: number, wanted: number): ReadAnswer | undefined {
  const how = truth.failing(page);
  if (how > 0) {
    truth.failedOnce(page);
    throw new Error(`page ${page} fails ${how} more times`);
  }
  switch (how) {
    case FAIL.throws:
      throw Object.assign(new Error(`page ${page} fails`), { permanent: true });
    case FAIL.short:
      return wanted - 1;
    case FAIL.long:
      return wanted + 1;
    case FAIL.nonsense:
      return 'nonsense' as never;
    default:
      return undefined;
  }
}

export default function open({ truth: parts, answer, concurrency, longestRead }: FuzzStoreOptions): PageStore {
  const truth = new Truth(parts);
  const inFlight = new Set<number>();
  let turn = 0;

  /** Those of the segment that a read is of: several only where it is one of `longestRead`. */
  function pagesOf(offset: number, length: number): number[] {
    const first = truth.pageOf(offset - parts.base);
    const last = truth.pageOf(offset - parts.base + length - 1);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  function fill(offset: number, into: Uint8Array): ReadAnswer {
    for (const page of pagesOf(offset, into.length)) {
      const wrong = failure(truth, page, into.length);
      if (wrong !== undefined) return wrong;
    }
    const source = truth.bytes.subarray(offset, offset + into.length);
    if (answer === 'null' && source.every((byte) => byte === 0)) return null;
    if (answer === 'chunks' || (answer === 'mixed' && turn % 3 === 0)) {
      const copy = source.slice();
      const cut = copy.length >> 1;
      return [copy.subarray(0, cut), new Uint8Array(0), copy.subarray(cut)];
    }
    into.set(source);
    return into.length;
  }

  async function fillLater(offset: number, into: Uint8Array): Promise<ReadAnswer> {
    if (answer === 'late') await later(turn % 4);
    else if (answer === 'mixed') await later(0);
    return fill(offset, into);
  }

  return {
    byteLength: parts.storeLength,
    concurrency,
    ...(longestRead === undefined ? {} : { longestRead }),
    read(offset, into) {
      turn += 1;
      const pages = pagesOf(offset, into.length);
      truth.countRead(pages.some((page) => inFlight.has(page)));
      const waits = answer === 'async' || answer === 'late' || (answer === 'mixed' && turn % 2 === 0);
      if (!waits) return fill(offset, into);
      for (const page of pages) inFlight.add(page);
      return fillLater(offset, into).finally(() => {
        for (const page of pages) inFlight.delete(page);
      });
    },
  };
}
