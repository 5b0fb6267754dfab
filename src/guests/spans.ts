/**
 * Where the pages of a region lie in the child now: it may unmap parts of it and move others (mremap), and each userfaultfd says so with
 * an event. Pages keep their number for life; addresses change. Plain data, one thread.
 */

interface Span {
  address: bigint;
  byteLength: number;
  /** Offset in the region as it was handed over. */
  offset: number;
}

export class Spans {
  #spans: Span[];
  #moved = false;

  constructor(address: bigint, byteLength: number) {
    this.#spans = [{ address, byteLength, offset: 0 }];
  }

  /** As another pager has followed them. */
  static of(spans: readonly { address: bigint; byteLength: number; offset: number }[], moved: boolean): Spans {
    const made = new Spans(0n, 0);
    made.#spans = spans.map((span) => ({ ...span }));
    made.#moved = moved;
    return made;
  }

  /** Offset in the region of an address, or undefined when no page of ours lies there. */
  offsetOf(address: bigint): number | undefined {
    for (const span of this.#spans) {
      const into = Number(address - span.address);
      if (into >= 0 && into < span.byteLength) return span.offset + into;
    }
    return undefined;
  }

  /** Address of an offset, or undefined when the child has unmapped it. */
  addressOf(offset: number): bigint | undefined {
    for (const span of this.#spans) {
      const into = offset - span.offset;
      if (into >= 0 && into < span.byteLength) return span.address + BigInt(into);
    }
    return undefined;
  }

  /** True once the child has moved a part: memory that mremap added behind it is new, and reads zero as the kernel promises. */
  get moved(): boolean {
    return this.#moved;
  }

  /** True when the child has unmapped all of it. */
  get empty(): boolean {
    return this.#spans.length === 0;
  }

  /** The child's mremap. The kernel tells of the old place's end with an event of its own, which then finds nothing. */
  move(from: bigint, to: bigint, byteLength: number): void {
    this.#moved = true;
    const parts = this.#cut(from, from + BigInt(byteLength));
    for (const part of parts) this.#spans.push({ ...part, address: to + (part.address - from) });
  }

  /** The child's munmap. */
  remove(start: bigint, end: bigint): void {
    this.#cut(start, end);
  }

  /** Offsets `[begin, end)` of the pages between two addresses. */
  *within(start: bigint, end: bigint): IterableIterator<readonly [number, number]> {
    for (const span of this.#spans) {
      const begin = start > span.address ? Number(start - span.address) : 0;
      const stop = Math.min(span.byteLength, Number(end - span.address));
      if (begin < stop) yield [span.offset + begin, span.offset + stop];
    }
  }

  /** Takes a range of addresses out and returns what lay there. */
  #cut(start: bigint, end: bigint): Span[] {
    const kept: Span[] = [];
    const cut: Span[] = [];
    for (const span of this.#spans) {
      const begin = Math.min(span.byteLength, Math.max(0, Number(start - span.address)));
      const stop = Math.max(begin, Math.min(span.byteLength, Number(end - span.address)));
      const piece = (from: number, to: number): Span => ({
        address: span.address + BigInt(from),
        byteLength: to - from,
        offset: span.offset + from,
      });
      if (begin > 0) kept.push(piece(0, begin));
      if (stop > begin) cut.push(piece(begin, stop));
      if (stop < span.byteLength) kept.push(piece(stop, span.byteLength));
    }
    this.#spans = kept;
    return cut;
  }
}
