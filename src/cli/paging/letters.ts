/**
 * The store behind `pagefault paging`: the n-th page that is asked for is full of the n-th letter, and stays so, so that a page that was
 * taken away comes back the same. The pager's thread.
 */
import type { PageStore } from '../../stores/contract.js';

const A = 65;
const LETTERS = 26;

export class Letters implements PageStore {
  readonly byteLength: number;
  readonly pageSize: number;
  /** Character code of each page, 0 before it was asked for. */
  readonly #codes: Uint8Array;
  #asked = 0;

  constructor(pages: number, pageSize: number) {
    this.byteLength = pages * pageSize;
    this.pageSize = pageSize;
    this.#codes = new Uint8Array(pages);
  }

  read(offset: number, into: Uint8Array): number {
    const page = Math.floor(offset / this.pageSize);
    let code = this.#codes[page] ?? 0;
    if (code === 0) {
      code = A + (this.#asked % LETTERS);
      this.#asked += 1;
      this.#codes[page] = code;
    }
    into.fill(code);
    return into.byteLength;
  }

  /** The letter of a page that was asked for. */
  letterOf(page: number): string {
    return String.fromCharCode(this.#codes[page] ?? 0);
  }
}
