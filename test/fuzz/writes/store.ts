/** The custom store of the fuzz of writes: keeps bytes in the ledger, fails as it is told to, and looks whether what it is asked keeps the contract. */

import type { PageStore } from 'pagefault/stores';
import type { SegmentPlan } from './case.js';
import { Ledger, type LedgerParts, type Word } from './ledger.js';

export interface WriteStoreOptions extends Pick<SegmentPlan, 'concurrency' | 'reads' | 'writes' | 'onWrite'> {
  parts: LedgerParts;
}

const BUSY_MS = 0.04;

const later = (ms: number): Promise<void> =>
  new Promise((resolve) => (ms === 0 ? setImmediate(resolve) : setTimeout(resolve, ms)));

const refuse = (what: string, permanent: boolean): Error =>
  Object.assign(new Error(`${what} is refused`), { permanent });

class WriteStore implements PageStore {
  readonly byteLength: number;
  readonly concurrency: number;
  onWrite?: (offset: number, byteLength: number) => void | Promise<void>;
  readonly #options: WriteStoreOptions;
  readonly #ledger: Ledger;
  #turn = 0;

  constructor(options: WriteStoreOptions) {
    this.#options = options;
    this.#ledger = new Ledger(options.parts);
    this.byteLength = options.parts.storeLength;
    this.concurrency = options.concurrency;
    if (options.onWrite !== 'none') this.onWrite = (offset, length) => this.#onWrite(offset, length);
  }

  /** Throws where the call is to fail. */
  #fail(fails: Word, permanent: Word): void {
    if (this.#ledger.takeOne(fails)) throw refuse(fails, this.#ledger.get(permanent) !== 0);
  }

  read(offset: number, into: Uint8Array): number | Promise<number> {
    const ledger = this.#ledger;
    const page = ledger.pageOf(offset - this.#options.parts.base);
    ledger.add('reads', 1);
    this.#turn += 1;
    if (ledger.writing(page, 0) !== 0) ledger.break('a page was read while a write of it was under way');
    const fill = (): number => {
      const failing = ledger.failingRead(page);
      if (failing < 0) throw refuse(`reading page ${page}`, true);
      if (failing > 0) {
        ledger.setFailingRead(page, failing - 1);
        throw refuse(`reading page ${page}`, false);
      }
      into.set(ledger.bytes.subarray(offset, offset + into.length));
      return into.length;
    };
    const { reads } = this.#options;
    if (reads === 'busy') {
      const until = performance.now() + BUSY_MS;
      while (performance.now() < until);
    }
    if (reads === 'async') return Promise.resolve().then(fill);
    if (reads === 'late') return later(this.#turn % 3).then(fill);
    return fill();
  }

  write(offset: number, bytes: Uint8Array): void | Promise<void> {
    const { parts, writes } = this.#options;
    const ledger = this.#ledger;
    const start = offset - parts.base;
    const end = start + bytes.length;
    if (start % parts.pageSize !== 0) ledger.break('a write that does not begin at a page');
    if (end % parts.pageSize !== 0 && end !== ledger.inStore)
      ledger.break('a write that does not end at a page or the end');
    const first = ledger.pageOf(start);
    const stop = ledger.pageOf(end - 1) + 1;
    ledger.add('writes', 1);
    ledger.add('inFlight', 1);
    for (let page = first; page < stop; page++) {
      if (ledger.writing(page, 1) !== 0) ledger.break('a page was written while an older write of it was under way');
    }
    const over = (): void => {
      for (let page = first; page < stop; page++) ledger.writing(page, -1);
      ledger.add('inFlight', -1);
    };
    this.#turn += 1;
    const keep = (): void => {
      try {
        // What fails may have kept a part.
        const half = bytes.subarray(0, bytes.length >> 1);
        if (ledger.get('failWrites') > 0) ledger.bytes.set(half, offset);
        this.#fail('failWrites', 'permanentWrites');
        ledger.bytes.set(bytes, offset);
        ledger.add('bytesWritten', bytes.length);
        ledger.add('pagesWritten', stop - first);
      } finally {
        ledger.add('ended', 1);
        over();
      }
    };
    if (writes === 'sync') return keep();
    return later(writes === 'async' ? 0 : this.#turn % 5).then(keep);
  }

  #onWrite(offset: number, byteLength: number): void | Promise<void> {
    const { parts, onWrite } = this.#options;
    const ledger = this.#ledger;
    const start = offset - parts.base;
    const expected = Math.min(parts.pageSize, ledger.inStore - start);
    if (start % parts.pageSize !== 0 || byteLength !== expected)
      ledger.break('onWrite of something that is not a page');
    const agree = (): void => {
      this.#fail('failOnWrites', 'permanentOnWrites');
      ledger.agree(ledger.pageOf(start));
    };
    if (onWrite === 'sync') return agree();
    return later(0).then(agree);
  }

  sync(): void | Promise<void> {
    const ledger = this.#ledger;
    const ended = ledger.get('ended');
    ledger.add('syncs', 1);
    const sync = (): void => {
      this.#fail('failSyncs', 'permanentSyncs');
      ledger.set('synced', Math.max(ended, ledger.get('synced')));
    };
    return this.#options.writes === 'sync' ? sync() : later(0).then(sync);
  }
}

export default function open(options: WriteStoreOptions): PageStore {
  return new WriteStore(options);
}
