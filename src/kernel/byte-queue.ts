/** Bytes in, bytes out, in order, in one buffer that grows and is reused. One thread. */

const FIRST = 4096;

export class ByteQueue {
  #buffer: Uint8Array = new Uint8Array(0);
  #start = 0;
  #end = 0;

  get byteLength(): number {
    return this.#end - this.#start;
  }

  /** At least `byteLength` bytes to write into; what was written is added by `commit`. Valid until the next call of any method. */
  reserve(byteLength: number): Uint8Array {
    const kept = this.byteLength;
    if (this.#buffer.length - this.#end < byteLength) {
      const fits = this.#buffer.length >= kept + byteLength && this.#start >= kept;
      const target = fits ? this.#buffer : new Uint8Array(Math.max(FIRST, 2 * (kept + byteLength)));
      target.set(this.#buffer.subarray(this.#start, this.#end));
      this.#buffer = target;
      this.#start = 0;
      this.#end = kept;
    }
    return this.#buffer.subarray(this.#end, this.#end + byteLength);
  }

  commit(byteLength: number): void {
    this.#end += byteLength;
  }

  /** A copy of exactly that many bytes, taken out; undefined while there are fewer. */
  take(byteLength: number): Uint8Array | undefined {
    if (this.byteLength < byteLength) return undefined;
    const taken = this.#buffer.slice(this.#start, this.#start + byteLength);
    this.#start += byteLength;
    if (this.#start === this.#end) {
      this.#start = 0;
      this.#end = 0;
    }
    return taken;
  }

  clear(): void {
    this.#buffer = new Uint8Array(0);
    this.#start = 0;
    this.#end = 0;
  }
}
